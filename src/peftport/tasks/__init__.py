"""Examples with targets, split without leaks: built-in tasks, a user's own files, and data sets of the hub.

Kinds of task (``kinds``) say what a target is. Only ``core`` and the catalogue of offline texts may come in here.
"""

from peftport.tasks.load import load_task
from peftport.tasks.sources import TASKS, BuiltIn
from peftport.tasks.spec import TaskSpec
from peftport.tasks.split import leaks
from peftport.tasks.task import Dropped, Split, Task

__all__ = ["TASKS", "BuiltIn", "Dropped", "Split", "Task", "TaskSpec", "leaks", "load_task"]
