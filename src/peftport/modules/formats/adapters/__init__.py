"""The format of the library adapters.

`config` reads and writes the settings, places.toml names the tensors, and `files` reads and writes them.
"""
