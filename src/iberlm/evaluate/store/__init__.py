"""The result store: append-only Parquet, one row an item and one row a task and metric, of any number of models and runs."""
