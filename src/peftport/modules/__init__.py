"""A trained module: its matrices in memory, where it came from, and the folders it is read from and written to."""
