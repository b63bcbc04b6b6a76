"""What runs on the nodes, before and after the work of each start of a job, and what it decides."""
