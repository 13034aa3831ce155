"""The Python interface: every command as a function, and its result as an object. `peftport` re-exports it.

`calls` has the functions, `results` what they return, `study` the class for studies, and `attached` the function that
puts a module on a transformers model.
"""

from __future__ import annotations

from peftport.api.attached import Attached, attach
from peftport.api.calls import check, compare, demo, evaluate, gguf, merge, port, train, upgrade
from peftport.api.comparisons import Compared, Demonstrated
from peftport.api.results import Checked, Evaluated, Ported, Trained
from peftport.api.serving_results import Merged, WrittenGguf
from peftport.api.study import Study
from peftport.api.upgrade_result import Upgraded
from peftport.tasks import load_task

__all__ = [
    "Attached", "Checked", "Compared", "Demonstrated", "Evaluated", "Merged", "Ported", "Study", "Trained", "Upgraded",
    "WrittenGguf",
    "attach", "check", "compare", "demo", "evaluate", "gguf", "load_task", "merge", "port", "train", "upgrade",
]  # fmt: skip
