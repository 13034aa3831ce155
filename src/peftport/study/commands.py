"""The requests of the study commands, for Python and the command line. Nothing here imports a model library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from peftport.core.errors import BadRequest
from peftport.core.request import REQUIRED, Place, Request, option, pairs
from peftport.workflows.options import metric_option

TableFormat = Literal["parquet", "csv", "jsonl"]
ImageFormat = Literal["svg", "png", "pdf"]
GateMode = Literal["stop", "report"]
TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|h)?$")
SHARD = re.compile(r"^([1-9]\d{0,6})/([1-9]\d{0,6})$")
EXECUTOR = option("Where jobs run: processes (on this machine) or ray (on a cluster, or on this machine).")
WORKERS = option(
    "Worker processes. The default is one per GPU, or without GPUs the number of cores divided by --threads.",
    at_least=1,
)
PLANNED_WORKERS = option(
    "Worker processes that --calibrate reckons with. The default is one per GPU, or without GPUs one per core.",
    at_least=1,
)
THREADS = option("Threads per worker.", at_least=1)


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
    shard: str | None = field(
        default=None,
        metadata=option(
            "Only one of several parts, such as 3/16, which study merge joins again. Its folder is runs/NAME-3-of-16 "
            "where no other is named.",
            metavar="NUMBER/COUNT",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.file).exists():
            raise BadRequest(f"{self.file}: expected a study file, found nothing; check the path")
        written = None if self.shard is None else SHARD.match(self.shard)
        if self.shard is not None and (not written or int(written[1]) > int(written[2])):
            self.refuse("shard", "expected a number and a count that is not smaller, such as 3/16", self.shard)


@dataclass(frozen=True, eq=False, kw_only=True)
class PlanRequest(Request):
    """Count the runs, jobs and training steps of a study; with --calibrate, estimate how long it takes here.

    With --shard 3/16 it is those of one shard, and how evenly the study divides.

    Example: peftport study plan studies/paper.toml
    """

    calibrate: bool = field(
        default=False,
        metadata=option(
            "Estimate the duration: time a few steps of every technique on every host that is installed."
        ),
    )  # fmt: skip
    workers: int | None = field(default=None, metadata=PLANNED_WORKERS)


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRequest(Request):
    """Run what is not done yet. Ctrl-C stops it cleanly; the same command goes on. Exit code 1: some job failed.

    Example: peftport study run studies/quick.toml
    """

    executor: str = field(default="processes", metadata=EXECUTOR)
    workers: int | None = field(default=None, metadata=WORKERS)
    threads: int = field(default=1, metadata=THREADS)
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
    results: Sequence[Place] = field(
        default=(),
        metadata=option(
            "Take the runs in this folder, which study export wrote as Parquet, as done. May be repeated.",
            metavar="DIR", repeated=True, path=True,
            read=tuple,
        ),
    )  # fmt: skip
    gates: GateMode = field(
        default="stop",
        metadata=option(
            "What a gate of the study that does not hold does: stop the study before its grid is run, or report it and "
            "go on.",
            choices=get_args(GateMode),
        ),
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


@dataclass(frozen=True, eq=False, kw_only=True)
class StatusRequest(Request):
    """Show how far a study is, and what failed.

    Example: peftport study status studies/quick.toml
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class GatesRequest(Request):
    """Show what a study's gates came to on validation items: every origin's lift at home, every receiver's closeness.

    Example: peftport study gates studies/paper-updated.toml
    """


@dataclass(frozen=True, eq=False)
class ExportRequest(Request):
    """Write the results of a study as tables: the runs, their results item by item, and how they were made.

    runs.FORMAT has one row per run, with a column for each factor and metric; correct.FORMAT says
    which test items each run got right; gates.FORMAT what the study's gates came to, if it has any;
    study.json has the study, the versions and the machine.

    Example: peftport study export studies/quick.toml --out results/quick
    """

    out: Place | None = field(
        default=None,
        metadata=option(
            "A folder for runs.FORMAT, correct.FORMAT and study.json, which are replaced.",
            path=True,
            writes="folder",
            default=REQUIRED,
        ),
    )
    _: KW_ONLY
    format: TableFormat = field(
        default="parquet", metadata=option("The format of the tables: parquet, csv or jsonl.")
    )  # fmt: skip
    items: bool = field(
        default=False,
        metadata=option(
            "Also write items.FORMAT, one row per run and test item, with the scores of its labels and the metrics "
            "that an item has by itself. It is large: as Parquet about 3 MB for 1,000 runs of 200 items."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in TABLE_FORMATS:
            self.refuse("format", f"expected one of {', '.join(TABLE_FORMATS)}, got {self.format}")


@dataclass(frozen=True, eq=False)
class VerifyRequest(Request):
    """Recompute some runs, chosen at random, and compare them with the exported results, item by item.

    On another processor numbers are rounded differently, and a few items may differ (--tolerance). If
    more differ, the exit code is 1.

    Example: peftport study verify studies/quick.toml --results results/quick --sample 3
    """

    results: Place = field(metadata=option("A folder that study export wrote, as Parquet.", path=True))
    _: KW_ONLY
    sample: int = field(default=5, metadata=option("How many random runs to recompute.", at_least=1))
    seed: int = field(default=0, metadata=option("Seed of the random choice.", at_least=0))
    tolerance: int = field(
        default=0, metadata=option("How many items of a run may differ from the recorded ones.", at_least=0)
    )
    executor: str = field(default="processes", metadata=EXECUTOR)
    workers: int | None = field(default=None, metadata=WORKERS)
    threads: int = field(default=1, metadata=THREADS)


@dataclass(frozen=True, eq=False)
class ReportRequest(Request):
    """Print the main results of a study, or with --out write them all as one HTML page.

    Example: peftport study report studies/quick.toml --out report.html
    """

    out: Place | None = field(
        default=None, metadata=option("The HTML page to write; replaced if it exists.", path=True, writes="file")
    )
    _: KW_ONLY
    results: Place | None = field(
        default=None,
        metadata=option("Read the tables that study export wrote to this folder, instead of the ledger.", path=True),
    )
    figures: Place | None = field(
        default=None, metadata=option("Also write the figures as files to this folder.", path=True, writes="folder")
    )
    format: ImageFormat = field(
        default="svg", metadata=option("The format of the figures: svg, png or pdf.")
    )  # fmt: skip
    latex: Place | None = field(
        default=None, metadata=option("Also write the tables as LaTeX to this folder.", path=True, writes="folder")
    )
    metric: str | None = field(default=None, metadata=metric_option("the study file's, else "))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in IMAGE_FORMATS:
            self.refuse("format", f"expected one of {', '.join(IMAGE_FORMATS)}, got {self.format}")


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchRequest(Request):
    """Follow a running study until it is done, then print its main results. Ctrl-C stops watching, not the study.

    Example: peftport study watch studies/quick.toml
    """

    every: float = field(
        default=2.0, metadata=option("Seconds between two updates of the display.", at_least=0.2)
    )  # fmt: skip
    tell: Callable[[str], None] | None = field(
        default=None,
        metadata=option("Called at each update with a line that says how far the study is.", only_python=True),
    )


@dataclass(frozen=True, eq=False)
class JoinRequest(Request):
    """Join parts of one study that were run in several folders, such as the shards of study run --shard.

    A part is a folder that study run wrote or, as Parquet, study export. The new folder OUT has all
    results once, and every other command takes it as --dir. Nothing is written if parts are of
    different studies, ran on different inputs, contradict each other or were altered. What is
    missing is named, and the exit code is then 1; study run does it.

    Example: peftport study merge runs/quick runs/quick-1-of-2 runs/quick-2-of-2
    """

    out: Place = field(metadata=option("The new folder.", argument=True, metavar="OUT", path=True, writes="new folder"))
    folders: Sequence[Place] = field(
        metadata=option("The folders of the parts.", argument=True, metavar="DIR", path=True, repeated=True, read=tuple)
    )
    _: KW_ONLY
    accept_versions: bool = field(
        default=False, metadata=option("Join parts that were run with different versions of libraries.")
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class RepairRequest(Request):
    """Restore a damaged ledger, the file that records the finished jobs of a study.

    It is made anew from what can be read of the damaged file, which is kept under another name, and
    from the artifacts. The next run repeats the jobs that could not be restored.

    Example: peftport study repair studies/quick.toml
    """
