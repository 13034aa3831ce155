"""Storage that survives crashes: files are written completely or not at all, results are recorded in ledgers.

`artifacts` and `held` write files and folders, `ledger` is the record of a study, `opening` opens its file, and
`salvage` reads what remains of a damaged one.
"""
