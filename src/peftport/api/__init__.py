"""The Python interface: every command as a function, and its result as an object. `peftport` re-exports it.

`calls` has the functions, `results` what they return, `study` the class for studies, and `attached` the function that
puts a module on a transformers model.
"""

from __future__ import annotations

from peftport.api.attached import Attached, attach
from peftport.api.calls import check, compare, demo, evaluate, merge, port, train
from peftport.api.comparisons import Compared, Demonstrated
from peftport.api.results import Checked, Evaluated, Ported, Trained
from peftport.api.serving_results import Merged
from peftport.api.study import Study
from peftport.tasks import load_task

__all__ = [
    "Attached", "Checked", "Compared", "Demonstrated", "Evaluated", "Merged", "Ported", "Study", "Trained",
    "attach", "check", "compare", "demo", "evaluate", "load_task", "merge", "port", "train",
]  # fmt: skip
