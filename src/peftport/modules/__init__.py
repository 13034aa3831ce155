"""Trained modules: matrices in memory with their history, and the folders they are read from and written to.

`module` defines the module and its records, `folders` chooses a file format, and `formats` holds the formats.
"""
