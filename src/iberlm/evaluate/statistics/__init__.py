"""What scores say of a model beyond the items that were asked: intervals, paired differences, means of tasks, and what a test can see."""
