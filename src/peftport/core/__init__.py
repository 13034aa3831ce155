"""Helpers that every other folder uses and that know nothing of models: errors, hashing, progress, requests, arms.

Nothing here imports another folder of peftport.
"""
