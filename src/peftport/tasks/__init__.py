"""Labelled texts, split without leaks: built-in tasks, a user's own files, and data sets of the hub."""

from peftport.tasks.load import load_task
from peftport.tasks.sources import TASKS, BuiltIn
from peftport.tasks.split import leaks
from peftport.tasks.task import Dropped, Split, Task, TaskSpec

__all__ = ["TASKS", "BuiltIn", "Dropped", "Split", "Task", "TaskSpec", "leaks", "load_task"]
