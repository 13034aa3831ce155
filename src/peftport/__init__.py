"""Can a PEFT module trained on one base model be used on another, how, and is it worth it?

The names below are the whole public interface; each is fetched when it is first used, so that `import peftport` costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftport.api import Attached as Attached
    from peftport.api import Checked as Checked
    from peftport.api import Compared as Compared
    from peftport.api import Demonstrated as Demonstrated
    from peftport.api import Evaluated as Evaluated
    from peftport.api import Merged as Merged
    from peftport.api import Ported as Ported
    from peftport.api import Study as Study
    from peftport.api import Trained as Trained
    from peftport.api import Upgraded as Upgraded
    from peftport.api import WrittenGguf as WrittenGguf
    from peftport.api import attach as attach
    from peftport.api import check as check
    from peftport.api import compare as compare
    from peftport.api import demo as demo
    from peftport.api import evaluate as evaluate
    from peftport.api import gguf as gguf
    from peftport.api import load_task as load_task
    from peftport.api import merge as merge
    from peftport.api import port as port
    from peftport.api import train as train
    from peftport.api import upgrade as upgrade

__all__ = [  # noqa: F822 (made by __getattr__)
    "Attached", "Checked", "Compared", "Demonstrated", "Evaluated", "Merged", "Ported", "Study", "Trained", "Upgraded",
    "WrittenGguf",
    "attach", "check", "compare", "demo", "evaluate", "gguf", "load_task", "merge", "port", "train", "upgrade",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("peftport.api"), name)
    raise AttributeError(f"module 'peftport' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
