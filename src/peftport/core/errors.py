"""The exceptions of peftport. The command line turns each into one line and an exit code.

    PeftportError                 exit code 1: the work failed
    ├── PushFailed                the hub refused a folder, or cannot be reached
    ├── NotFinite                 a score, an activation or a matrix is NaN or infinite
    │   └── TrainingFailed        a loss or a matrix became NaN or infinite in training
    └── BadRequest                exit code 2: the request was wrong, nothing was written
        ├── GatesFailed           a study was stopped by its gates, once what they go by was run
        ├── UnknownName           no host, task, technique, method, ... of that name
        ├── HostRefused           a host that is broken, unsafe or of no known family
        ├── TaskRefused           a data set that cannot be read as asked
        ├── ModuleRefused         a module folder that is incomplete, corrupt or unsafe
        ├── SlotMismatch          a module that does not fit a host
        └── OutputRefused         an output path that must not be overwritten

Every message says what, where, expected, got and remedy, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable

from peftport.core.guesses import guess


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or the name of its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class PeftportError(Exception):
    """The work failed; the message says where and why.

    ``lines`` follow the message where several things are wrong in the same way, one each.
    """

    exit_code = 1
    lines: tuple[str, ...] = ()


class NotFinite(PeftportError):
    """Some numbers are NaN or infinite, so that no result can be computed from them."""


class PushFailed(PeftportError):
    """The hub refused a folder, or cannot be reached."""


class TrainingFailed(NotFinite):
    """A loss or a trained matrix became NaN or infinite."""


class BadRequest(PeftportError):
    """The request is wrong and has to be changed by the user."""

    exit_code = 2


class GatesFailed(BadRequest):
    """What a study declares to hold before its grid is run does not; ``lines`` has what was found."""

    def __init__(self, message: str, lines: Iterable[str]) -> None:
        """Keep the lines beside the message, one for each gate that does not hold."""
        super().__init__(message)
        self.lines = tuple(lines)


class UnknownName(BadRequest):
    """A name is unknown: there is no host, task, technique, method, ... of that name."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], remedy: str = "") -> UnknownName:
        """Build the message: the unknown name, the most similar known one, and all known names if they are few."""
        names = sorted(known)
        parts = [part.strip() for part in name.split(",")]
        if len(parts) > 1 and set(parts) <= set(names):
            return cls(f"expected one {kind}, got {len(parts)}: {', '.join(parts)}; run the command for each of them")
        near = guess(name, names)
        meant = f"did you mean {near!r}? " if near else ""
        return cls(
            f"unknown {kind} {name!r}: {meant}expected one of {', '.join(names)}{'; ' + remedy if remedy else ''}"
        )


class HostRefused(BadRequest):
    """A host folder that is broken, unsafe or of no known family."""


class TaskRefused(BadRequest):
    """A data set that cannot be read as asked."""


class ModuleRefused(BadRequest):
    """A module folder that is incomplete, corrupt or unsafe."""


class SlotMismatch(BadRequest):
    """A module whose slots or widths are not the host's."""


class OutputRefused(BadRequest):
    """An output place that exists and is not empty, or cannot be written."""
