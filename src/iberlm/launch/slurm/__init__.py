"""What IberLM says to Slurm and reads from it."""
