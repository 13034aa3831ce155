"""The one training loop, evaluation, the memory that a stack of entries needs, and a task bound to a host."""
