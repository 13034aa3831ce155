"""Studies: a declared grid of runs is planned as shared jobs, executed, recorded, exported and verified.

`grid` reads the study file, `plan` turns its runs into `jobs`, and `execute` runs them: `graph` says what is ready,
`requests` and `messages` describe it, `executors` run it, and `work` is what a worker does. `resuming`, `repair` and
`verify` check recorded results; `export`, `item_table` and `about` write tables. `commands` has the requests of the
commands, and `opened` the study that a command works on.
"""
