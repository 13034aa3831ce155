"""What every part uses and what knows nothing of models: errors, hashing, progress, the names of the arms.

Nothing of peftport may be imported here.
"""
