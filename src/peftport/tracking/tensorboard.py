"""Track in TensorBoard: each curve is a folder under ``tensorboard`` in the study's folder, each run a file in it.

    tensorboard --logdir runs/NAME/tensorboard

The step is the budget. A file is named by the budget and id of its run, so that files are read in the order of budgets
and a run that is sent again replaces its own file.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable
from pathlib import Path

from peftport.store.artifacts import write_bytes
from peftport.tracking.base import TrackedRun

LONGEST = 150  # maximum length of a curve's name, so that file systems accept it
FILE = "events.out.tfevents.{budget:010d}.{id}"


class TensorBoard:
    """Writes measures as scalars, and factors for the HParams page."""

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        """Return the ids of the runs whose files exist."""
        self._home = folder / "tensorboard"
        return [path.name.rpartition(".")[2] for path in self._home.glob("*/events.out.tfevents.*")]

    def log(self, run: TrackedRun) -> None:
        """Write the file of a run, replacing an old one."""
        write_bytes(self._home / curve_folder(run) / FILE.format(budget=run.budget, id=run.id), _events(run))

    def close(self) -> None:
        """Do nothing, because every file is complete already."""


def curve_folder(run: TrackedRun) -> str:
    """Return the folder name of a curve: its name in portable characters, and its job, which is unique."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', run.curve)[:LONGEST]}-{str(run.factors['job'])[:8]}"


def _events(run: TrackedRun) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    now, factors = time.time(), {name: value for name, value in run.factors.items() if name not in ("budget", "job")}
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in run.measures.items()]
    out = io.BytesIO()
    writer = RecordWriter(out)
    for event in (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, summary=hparams_pb(factors, trial_id=curve_folder(run), start_time_secs=now)),
        Event(wall_time=now, step=run.budget, summary=Summary(value=scalars)),
    ):
        writer.write(event.SerializeToString())
    return out.getvalue()
