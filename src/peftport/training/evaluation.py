"""Testing K modules on the same texts: the host's matrices are multiplied once for the rows of all of them.

Texts go in sorted by length, in batches of about equally many tokens: many short ones or few long ones.

Per-example scores are kept: accuracy, AUROC and accuracy at a label-free threshold are read off them. Scores that are
not finite are none: the test fails and says where in the host they began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from polars import Series

from peftport.core.errors import NotFinite
from peftport.hosts.host import Host
from peftport.hosts.tracing import where_not_finite
from peftport.modules.module import HEAD, in_host_dtype, stack
from peftport.objectives.base import Readout, Row
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import Parameters, TechniqueSpec

# Tokens on the host at once, padding included, all modules together. Measured on a processor, where the activations of
# more no longer stay in its caches; an accelerator wants more to do at once, how much has not been measured.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ELSEWHERE = 1024, 16384
MODULES_AT_ONCE = 8


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
        ranks = Series(self.margin).rank("average").to_numpy()
        u = ranks[self.labels == 1].sum() - positives * (positives + 1) / 2
        return float(u / (positives * negatives))

    @property
    def accuracy_at_median(self) -> float | None:
        """Accuracy with the threshold at the median margin, which needs no label; None unless there are two labels."""
        if self.scores.shape[1] != 2:
            return None
        return float(((self.margin > np.median(self.margin)) == (self.labels == 1)).mean())


def score_entries(
    host: Host,
    readout: Readout,
    spec: TechniqueSpec | None,
    modules: Sequence[Parameters],
    rows: Sequence[Row],
    labels: npt.NDArray[np.int64],
    advance: Callable[[int], None] = lambda modules: None,
    tokens_at_once: int | None = None,
) -> list[Scores]:
    """Test K modules of one spec on the same N rows. ``spec`` None tests the bare host once.

    Scores come back in the order of ``rows``. ``tokens_at_once`` bounds what the host reads at once, padding included
    (None: by the device); it changes no score but by rounding.

    Raises:
        NotFinite: a score is NaN or infinite.

    """
    count = len(modules) if spec is not None else 1
    tokens = tokens_at_once or (TOKENS_AT_ONCE if host.device.type == "cpu" else TOKENS_AT_ONCE_ELSEWHERE)
    found: list[Scores] = []
    for begin in range(0, count, MODULES_AT_ONCE):
        group = list(modules[begin : begin + MODULES_AT_ONCE])
        scores = _scores(host, readout, spec, group, rows, tokens)
        found += [Scores(own, labels) for own in scores]
        advance(max(1, len(group)))
    return found


def batches_of_tokens(rows: Sequence[Row], entries: int, tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of rows, from short to long, in batches of at most ``tokens`` with padding (at least one row each).

    ``entries``: how many modules see each row, every one of them counted.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * entries * lengths[order[end]] > tokens:
            yield order[begin:end]
            begin = end


@torch.no_grad()
def _scores(
    host: Host,
    readout: Readout,
    spec: TechniqueSpec | None,
    modules: list[Parameters],
    rows: Sequence[Row],
    tokens: int,
) -> npt.NDArray[np.float32]:
    """Scores of one group of modules, (K, N, C)."""
    matrices = in_host_dtype(host, stack(modules, host.wide_dtype) if spec is not None else {})
    entries = max(1, len(modules))
    scores = np.zeros((entries, len(rows), len(readout.task.labels)), dtype=np.float32)
    with attached(host, spec, matrices):
        for pick in batches_of_tokens(rows, entries, tokens):
            batch = [rows[i] for i in pick] * entries
            out = readout.scores(batch, matrices.get(HEAD), prefix_length(spec, host))
            scores[:, pick] = out.view(entries, len(pick), -1).float().cpu().numpy()
        places = np.argwhere(~np.isfinite(scores))  # (some, 3): of K, N, C
        if len(places):
            entry, item = int(places[0, 0]), int(places[0, 1])
            items = len(np.unique(places[places[:, 0] == entry, 1]))
            what = f"module {entry} of {entries} on {host.name}" if entries > 1 else f"{host.name}"
            again = partial(readout.scores, [rows[item]] * entries, matrices.get(HEAD), prefix_length(spec, host))
            raise NotFinite(
                f"{what}: expected finite scores, got NaN or infinity for {items} of {len(rows)} "
                f"items, {where_not_finite(host, again)}; no accuracy is read from these, use another host or module"
            )
    return scores
