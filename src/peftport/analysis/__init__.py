"""Statistics, measures, verdicts and predictions: pure functions of tables of runs and their per-item results.

`stats` has the formulas, `measures` makes tables of runs into tables of gains and the like, `verdict` chooses what to
do and words it, and `prediction` learns from recorded ports. Nothing here loads a model. Everything that prints, draws
or decides takes its numbers from here.
"""
