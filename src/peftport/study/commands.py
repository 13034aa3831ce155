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
        metadata=option("The folder of the study's ledger and artifacts. The default is runs/NAME.", path=True),
    )  # fmt: skip
    set: Mapping[str, object] | None = field(
        default=None,
        metadata=option(
            "Replace a value of the study file, such as --set testing.items=50.", metavar="KEY=VALUE", repeated=True,
            read=_changes,
        ),
    )  # fmt: skip
    only: Sequence[str] = field(
        default=(),
        metadata=option(
            "Only these runs and the jobs that they need, such as --only arm=ported.",
            metavar="FACTOR=VALUE,...", repeated=True,
            read=tuple,
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRequest(Request):
    """Run what is not done yet. Ctrl-C stops it cleanly; the same command goes on. Exit code 1: some job failed.

    Example: peftport study run studies/quick.toml
    """

    executor: str = field(
        default="processes",
        metadata=option("Where jobs run: processes (on this machine) or ray (on a cluster, or on this machine)."),
    )
    workers: int | None = field(
        default=None,
        metadata=option(
            "Worker processes. The default is one per GPU, or without GPUs the number of cores divided by --threads.",
            at_least=1,
        ),
    )  # fmt: skip
    threads: int = field(default=1, metadata=option("Threads per worker.", at_least=1))
    max_jobs: int | None = field(default=None, metadata=option("Stop after about this many jobs.", at_least=1))
    stop_after_seconds: float | None = field(
        default=None,
        metadata=option(
            "Begin no new work after this time, such as 90s, 45m or 2h.",
            name="--stop-after", metavar="TIME", read=_seconds,
        ),
    )  # fmt: skip
    retry_failed: bool = field(default=False, metadata=option("Do failed and blocked jobs again."))
    accept_versions: bool = field(
        default=False,
        metadata=option("Continue although the versions of libraries differ from those that finished jobs ran with."),
    )
    track: Sequence[str] = field(
        default=(),
        metadata=option(
            "Send finished runs to a tracker: mlflow, wandb, trackio or tensorboard.", metavar="NAME", repeated=True,
            read=tuple,
        ),
    )  # fmt: skip
    warn: Callable[[str], None] | None = field(
        default=None, metadata=option("Called with a message when a tracker fails.", only_python=True)
    )
