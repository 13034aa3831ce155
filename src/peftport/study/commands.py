"""The requests of the study commands, for Python and the command line. Nothing here imports a model library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from peftport.core.request import Place, Request, option, pairs

DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h)?$")


def _changes(texts: Sequence[str]) -> dict[str, object]:
    return {key.strip(): value.strip() for key, value in pairs("testing.items=50")(texts).items()}


def _seconds(text: str) -> float:
    match = DURATION.match(text.strip())
    if not match:
        raise ValueError(f"expected a time such as 90s, 45m or 2h, got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


@dataclass(frozen=True, eq=False)
class StudyRequest(Request):
    """Read a study file."""

    file: Place = field(metadata=option("The study file.", argument=True, metavar="STUDY.toml", path=True))
    _: KW_ONLY
    dir: Place | None = field(
        default=None,
        metadata=option("Where the study's ledger and artifacts are; default runs/NAME.", path=True),
    )  # fmt: skip
    set: Mapping[str, object] | None = field(
        default=None,
        metadata=option(
            "Replace a value of the study file: --set testing.items=50.", metavar="KEY=VALUE", repeated=True,
            read=_changes,
        ),
    )  # fmt: skip
    only: Sequence[str] = field(
        default=(),
        metadata=option(
            "Only these runs, and what they need: --only arm=ported.", metavar="FACTOR=VALUE,...", repeated=True,
            read=tuple,
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRequest(Request):
    """Run what is not done yet. Ctrl-C stops it cleanly; the same command goes on. Exit code 1: some job failed.

    Example: peftport study run studies/quick.toml
    """

    executor: str = field(
        default="processes", metadata=option("processes (this machine) or ray (a cluster, or this machine).")
    )
    workers: int | None = field(
        default=None,
        metadata=option("Stacks worked on at once; default: one a GPU, else cores / threads.", at_least=1),
    )  # fmt: skip
    threads: int = field(default=1, metadata=option("Threads a worker.", at_least=1))
    max_jobs: int | None = field(default=None, metadata=option("Stop after about so many jobs.", at_least=1))
    stop_after_seconds: float | None = field(
        default=None,
        metadata=option(
            "Begin nothing after that long: 90s, 45m, 2h.", name="--stop-after", metavar="TIME", read=_seconds
        ),
    )  # fmt: skip
    retry_failed: bool = field(default=False, metadata=option("Try again what failed before."))
    accept_versions: bool = field(
        default=False, metadata=option("Go on with other libraries than the jobs on record ran with.")
    )
    track: Sequence[str] = field(
        default=(),
        metadata=option(
            "Show finished runs in mlflow, wandb, trackio or tensorboard too.", metavar="NAME", repeated=True,
            read=tuple,
        ),
    )  # fmt: skip
    warn: Callable[[str], None] | None = field(
        default=None, metadata=option("Told of a tracker that fails, when it does.", only_python=True)
    )
