"""Pretrained transformers: their families (TOML), files, fingerprints, slots, and how they are loaded.

A host is a pretrained model whose weights are never changed. Nothing in this folder knows of techniques, modules or
tasks. `sources` finds a host, `load` and `opening` load or open it, `slots` names the places where matrices attach.
"""
