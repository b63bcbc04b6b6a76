"""What nodes without internet will need, gathered into one folder."""
