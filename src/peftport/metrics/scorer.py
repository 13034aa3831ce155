"""A scorer of the user's own as a metric: ``FILE.py:function`` names a Python function that scores an answer.

    def function(answer: str, references: tuple[str, ...]) -> float

Its mean over the answers is the metric; higher is better, unless ``function.higher_is_better`` is False. The text
``function.title`` is what tables call it, by default its name. It is called once for an answer and its references, so
its score should depend on nothing else. The file is executed as it is, once for each request.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import types
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from peftport.core.errors import BadRequest
from peftport.metrics.texts import TextMetric

Scoring = Callable[[str, tuple[str, ...]], Any]
_NAME = re.compile(r"(?P<file>.+\.py)(?::(?P<function>\w*))?", re.DOTALL)
_READ: dict[str, Scorer] = {}  # by the name that it was asked for


class Scorer(TextMetric):
    """A user's function as a metric.

    Attributes:
        sha256: of the file's bytes that were executed, for the record.

    """

    bounds = (-math.inf, math.inf)

    def __init__(self, name: str, scoring: Scoring, sha256: str) -> None:
        """Take the function that ``name`` names.

        Raises:
            BadRequest: its ``higher_is_better`` or ``title`` is not a truth value or a text.

        """
        super().__init__()
        self._scoring, self.sha256 = scoring, sha256
        for attribute, default, kind, words in (
            ("title", name.rpartition(":")[2], str, "a text"),
            ("higher_is_better", True, bool, "True or False"),
        ):
            value = getattr(scoring, attribute, default)
            if not isinstance(value, kind) or value == "":
                raise BadRequest(f"--metric {name}: expected {words} as its {attribute}, got {value!r}; correct it")
            setattr(self, attribute, value)
        self.name = name

    def score(self, answer: str, references: tuple[str, ...]) -> float:
        """What the function returns.

        Raises:
            BadRequest: it raised an error, or returned anything but a finite number.

        """
        try:
            value = self._scoring(answer, references)
        except Exception as error:
            raise BadRequest(
                f"--metric {self.name}: expected a score of the answer {_short(answer)}, got {_told(error)}; correct it"
            ) from error
        if not (isinstance(value, Real | np.bool_) and math.isfinite(value)):
            raise BadRequest(
                f"--metric {self.name}: expected a finite number as the score of the answer {_short(answer)}, got "
                f"{_short(value)}; correct it"
            )
        return float(value)


def is_scorer(name: str) -> bool:
    """Whether a metric's name is that of a Python file, with or without a function."""
    return _NAME.fullmatch(name) is not None


def scorer_named(name: str) -> Scorer:
    """The scorer of that name, as it was read for the request. Raises BadRequest as `read_scorer` does."""
    return _READ[name] if name in _READ else read_scorer(name)


def read_scorer(name: str) -> Scorer:
    """Execute the file that a name gives, and take the function.

    Raises:
        BadRequest: the file is missing or ends in an error, or has no such function.

    """
    parts = _NAME.fullmatch(name)
    if parts is None or not parts["function"]:
        raise BadRequest(f"--metric {name}: expected FILE.py:function, got no function; name it after a colon")
    path, function = Path(parts["file"]).expanduser(), parts["function"]
    try:
        source = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(f"--metric {name}: expected a Python file {path}, got: {reason}; correct the path") from error
    sha256 = hashlib.sha256(source).hexdigest()
    module = types.ModuleType(f"scorer_{sha256[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there for the names in their annotations
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise BadRequest(
            f"--metric {name}: expected a Python file that can be executed, got {_told(error)}; correct it"
        ) from error
    _READ[name] = Scorer(name, _function(name, module, function), sha256)
    return _READ[name]


def _function(name: str, module: types.ModuleType, function: str) -> Scoring:
    scoring = getattr(module, function, None)
    if not callable(scoring):
        names = (key for key, value in vars(module).items() if isinstance(value, types.FunctionType))
        known = ", ".join(key for key in names if not key.startswith("_")) or "none"
        raise BadRequest(
            f"--metric {name}: expected a function {function} in {module.__file__}, which has {known}; correct the name"
        )
    return scoring  # type: ignore[no-any-return]


def _told(error: BaseException) -> str:
    """An error in one line: its kind, and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {said[0]}' if said else ''}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
