"""Pretrained transformers: their families (TOML), files, fingerprints, slots, and how they are loaded.

A host is always frozen. Nothing here knows of techniques, modules or tasks.
"""
