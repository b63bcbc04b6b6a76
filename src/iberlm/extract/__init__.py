"""From raw files to documents: readers of each format, limits on what a file may unfold to, and a counted quarantine."""
