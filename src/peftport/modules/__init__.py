"""Modules in memory and on disk."""
