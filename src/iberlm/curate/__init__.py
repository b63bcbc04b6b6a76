"""Documents made fit for training: annotate once (expensive), deduplicate, select by thresholds (cheap)."""
