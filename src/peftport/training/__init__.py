"""Training and testing of modules.

`loop` is the only training loop, `evaluation` tests modules, `memory` computes how many of them train at once, and
`bound_task` puts these together for one task on one host.
"""
