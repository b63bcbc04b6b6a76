"""From a recipe to a Slurm cluster: profiles, scripts, submission, what runs at the start and the end of a job, status, doctor, prefetch."""
