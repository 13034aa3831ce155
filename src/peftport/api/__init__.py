"""The Python interface: every command as a function, and its result as an object. `peftport` re-exports it.

`calls` has the functions, `results` what they return, `study` the class for studies, and `attached` the function that
puts a module on a transformers model. Each name is fetched when it is first used: a command starts with what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftport.core.libraries import when_used

if TYPE_CHECKING:
    from peftport.api.attached import Attached as Attached
    from peftport.api.attached import attach as attach
    from peftport.api.calls import check as check
    from peftport.api.calls import compare as compare
    from peftport.api.calls import demo as demo
    from peftport.api.calls import evaluate as evaluate
    from peftport.api.calls import gguf as gguf
    from peftport.api.calls import merge as merge
    from peftport.api.calls import port as port
    from peftport.api.calls import train as train
    from peftport.api.calls import upgrade as upgrade
    from peftport.api.comparisons import Compared as Compared
    from peftport.api.comparisons import Demonstrated as Demonstrated
    from peftport.api.results import Checked as Checked
    from peftport.api.results import Evaluated as Evaluated
    from peftport.api.results import Ported as Ported
    from peftport.api.results import Trained as Trained
    from peftport.api.results import UpdatedHost as UpdatedHost
    from peftport.api.serving_results import Merged as Merged
    from peftport.api.serving_results import WrittenGguf as WrittenGguf
    from peftport.api.study import Study as Study
    from peftport.api.upgrade_result import Upgraded as Upgraded
    from peftport.tasks import load_task as load_task

PLACES = {
    "peftport.api.attached": ("Attached", "attach"),
    "peftport.api.calls": ("check", "compare", "demo", "evaluate", "gguf", "merge", "port", "train", "upgrade"),
    "peftport.api.comparisons": ("Compared", "Demonstrated"),
    "peftport.api.results": ("Checked", "Evaluated", "Ported", "Trained", "UpdatedHost"),
    "peftport.api.serving_results": ("Merged", "WrittenGguf"),
    "peftport.api.study": ("Study",),
    "peftport.api.upgrade_result": ("Upgraded",),
    "peftport.tasks": ("load_task",),
}
__all__ = sorted(name for names in PLACES.values() for name in names)  # noqa: PLE0605 (made by __getattr__)
__getattr__ = when_used(__name__, PLACES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
