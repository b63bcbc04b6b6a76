"""Names of what lives in the stage's folder only while it runs. Imports nothing: the stage's books are kept without torch."""

WORK, CHECKPOINTS = ".work", "checkpoints"
PREPARED, PLAN, RESULT = "prepared.json", "plan.json", "result.json"
"""In `WORK`: what was counted before training, what the ranks read, what the first one leaves."""
