"""Evaluation: lm-evaluation-harness suites on a model folder, a result store, and one table of families by languages."""
