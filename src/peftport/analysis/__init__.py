"""Statistics, measures, verdicts and predictions: pure functions of tables of runs and of their per-item results.

Nothing here reads a model or a file of one; everything that prints, draws or decides takes its numbers from here.
"""
