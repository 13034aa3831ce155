"""Declared grids of runs: from the study file to a plan, to jobs that workers do, to the ledger and the tables."""
