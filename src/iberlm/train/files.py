"""Names of what a training run leaves in its folder. Imports nothing: who only looks for a file need not wait for torch."""

SUMMARY = "summary.json"
"""What the first rank leaves for the stage: the metrics of the manifest."""
MODEL, CHECKPOINTS = "model", "checkpoints"
METRICS, VALIDATION, EVENTS, SAMPLES = "metrics.jsonl", "validation.jsonl", "events.jsonl", "samples.jsonl"
GENERATIONS, MEMORISATION = "generations.json", "memorisation.json"
