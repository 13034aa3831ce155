"""Testing K modules on the same texts: the host reads every batch once for all of them.

Per-example scores are kept: accuracy, AUROC and accuracy at a label-free threshold are read off them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata

from peftport.hosts.load import Host
from peftport.modules.module import HEAD, stack
from peftport.readouts.base import Readout, Row
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import Parameters, TechniqueSpec

ROWS_AT_ONCE = 64  # rows of the host's batch, all modules together


@dataclass(frozen=True, eq=False)
class Scores:
    """What one module said of N items.

    Attributes:
        scores: (N, C), higher is likelier.
        labels: (N,), the right ones.

    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which items were right, (N,)."""
        right: npt.NDArray[np.bool_] = self.scores.argmax(1) == self.labels
        return right

    @property
    def accuracy(self) -> float:
        """Share of items that were right."""
        return float(self.correct.mean())

    @property
    def margin(self) -> npt.NDArray[np.float32]:
        """Score of the second label over the first, (N,), for tasks of two labels."""
        return self.scores[:, 1] - self.scores[:, 0]

    @property
    def auroc(self) -> float | None:
        """Area under the ROC curve (Mann-Whitney U, ties halved); None unless there are two labels, both present."""
        positives = int((self.labels == 1).sum())
        negatives = len(self.labels) - positives
        if self.scores.shape[1] != 2 or not positives or not negatives:
            return None
        ranks = rankdata(self.margin)
        u = ranks[self.labels == 1].sum() - positives * (positives + 1) / 2
        return float(u / (positives * negatives))

    @property
    def accuracy_at_median(self) -> float | None:
        """Accuracy with the threshold at the median margin, which needs no label; None unless there are two labels."""
        if self.scores.shape[1] != 2:
            return None
        return float(((self.margin > np.median(self.margin)) == (self.labels == 1)).mean())


def evaluate(
    host: Host,
    readout: Readout,
    spec: TechniqueSpec | None,
    modules: Sequence[Parameters],
    rows: Sequence[Row],
    labels: npt.NDArray[np.int64],
    advance: Callable[[int], None] = lambda modules: None,
) -> list[Scores]:
    """Test K modules of one spec on the same N rows. ``spec`` None tests the bare host once.

    Rows go in sorted by length; scores come back in the order of ``rows``.
    """
    count = len(modules) if spec is not None else 1
    size = max(8, ROWS_AT_ONCE // count)
    together = max(1, ROWS_AT_ONCE // size)
    found: list[Scores] = []
    for begin in range(0, count, together):
        group = list(modules[begin : begin + together])
        found += _evaluate_group(host, readout, spec, group, rows, labels, size)
        advance(max(1, len(group)))
    return found


@torch.no_grad()
def _evaluate_group(
    host: Host,
    readout: Readout,
    spec: TechniqueSpec | None,
    modules: list[Parameters],
    rows: Sequence[Row],
    labels: npt.NDArray[np.int64],
    size: int,
) -> list[Scores]:
    matrices = stack(modules, host.dtype) if spec is not None else {}
    matrices = {slot: {name: t.to(host.device) for name, t in own.items()} for slot, own in matrices.items()}
    entries = max(1, len(modules))
    order = np.argsort([len(row) for row in rows], kind="stable")
    scores = np.zeros((entries, len(rows), len(readout.task.labels)), dtype=np.float32)
    with attached(host, spec, matrices):
        for begin in range(0, len(rows), size):
            pick = order[begin : begin + size]
            batch = [rows[i] for i in pick] * entries
            out = readout.scores(batch, matrices.get(HEAD), prefix_length(spec, host))
            scores[:, pick] = out.view(entries, len(pick), -1).float().cpu().numpy()
    return [Scores(own, labels) for own in scores]
