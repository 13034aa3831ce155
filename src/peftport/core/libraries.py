"""What is imported when something of it is first used, so that a command starts at once.

    from peftport.core.libraries import torch

Importing torch and transformers takes seconds, which a wrong name, a listing or a port by copy should not cost. A file
takes large libraries from here, and their types from the library itself under ``TYPE_CHECKING``. A file that defines a
class of torch's imports it like any other library, and is itself imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Late(ModuleType):
    """A module that is imported when one of its names is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import huggingface_hub as huggingface_hub
    import polars as pl
    import safetensors.torch as safetensors_torch
    import torch as torch
    import transformers as transformers
    from scipy import special as special
    from scipy import stats as stats
    from torch import nn as nn
    from torch.nn import functional as F
else:
    torch, nn, F = Late("torch"), Late("torch.nn"), Late("torch.nn.functional")
    transformers, huggingface_hub = Late("transformers"), Late("huggingface_hub")
    safetensors_torch, pl = Late("safetensors.torch"), Late("polars")
    stats, special = Late("scipy.stats"), Late("scipy.special")

__all__ = ["F", "pl", "safetensors_torch"]  # the others are exported by their own names


def when_used(package: str, places: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that fetches its names from their modules when they are first used.

    ``places`` has the names by module. A package with such a table (PEP 562) starts with what is asked of it. No name
    may be that of a module of the package, which takes its place as soon as it is imported.
    """
    place_of = {name: place for place, names in places.items() for name in names}

    def fetch(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(place_of[name]), name)

    return fetch


def without_gradients(run: Callable[P, R]) -> Callable[P, R]:
    """Run a function without recording gradients; unlike `torch.no_grad`, this imports nothing as it is defined."""

    @wraps(run)
    def plain(*args: P.args, **named: P.kwargs) -> R:
        with torch.no_grad():
            return run(*args, **named)

    return plain
