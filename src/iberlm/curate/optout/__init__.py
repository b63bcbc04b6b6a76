"""Snapshots of robots files: their forms, and the table that `robots` looks hosts up in."""
