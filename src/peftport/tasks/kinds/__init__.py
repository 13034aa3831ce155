"""The kinds of task by name: one file and one line each. Texts and targets come in here; no model does."""

from __future__ import annotations

from peftport.tasks.kinds.classification import Classification
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.kinds.multi_label import MultiLabel
from peftport.tasks.kinds.regression import RegressionTask
from peftport.tasks.spec import TaskSpec

KINDS: dict[str, type[TaskSpec]] = {
    kind.kind: kind for kind in (Classification, MultiLabel, RegressionTask, Completion)
}
