"""A study: a declared grid of train/test runs, planned as jobs that share work, run once and resumed always."""
