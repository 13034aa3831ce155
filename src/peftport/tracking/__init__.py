"""Send the runs of a study to experiment trackers. A new tracker needs one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from peftport.core.errors import UnknownName
from peftport.tracking.base import Tracker, need
from peftport.tracking.mlflow import MLflow
from peftport.tracking.tensorboard import TensorBoard
from peftport.tracking.trackio import Trackio
from peftport.tracking.wandb import Wandb

TRACKERS: dict[str, Callable[[], Tracker]] = {
    "mlflow": MLflow, "wandb": Wandb, "trackio": Trackio, "tensorboard": TensorBoard,
}  # fmt: skip


def make_trackers(names: Iterable[str]) -> dict[str, Tracker]:
    """Make trackers by name. The library of a tracker, and the extra that installs it, have the name of the tracker.

    Raises:
        UnknownName: there is no such tracker.
        BadRequest: its library is not installed.

    """
    made: dict[str, Tracker] = {}
    for name in names:
        if name not in TRACKERS:
            raise UnknownName.of("tracker", name, TRACKERS)
        need(name, name)
        made[name] = TRACKERS[name]()
    return made
