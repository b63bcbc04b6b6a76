"""What is missing on a machine, and whether a profile is true."""
