"""multi_label: a text, or a pair of texts, and the labels that are right for it: none, one or several.

A label is said where its probability is over one half.

Shapes: N items, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftport.core.errors import TaskRefused
from peftport.metrics.choice import MetricChoice
from peftport.tasks.columns import Columns, Wording, is_empty, name_of
from peftport.tasks.kinds.classification import sorted_names
from peftport.tasks.kinds.regression import plain_wording, refuse_words
from peftport.tasks.spec import Predictions, ReadTargets, Targets, TaskSpec

MOST_LABELS = 1000
SEPARATORS = (",", ";", "|")


@dataclass(frozen=True, eq=False)
class LabelLogits(Predictions):
    """Logits of L labels for N items, and which labels are right.

    Attributes:
        values: (N, L), the log-odds of each label; over 0 it is said.
        targets: (N, L), 1 where the label is right, else 0.

    """

    values: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    kind = "multi_label"

    def usual_metric(self) -> MetricChoice:
        """Micro F1, whatever the labels."""
        return MetricChoice("micro_f1")


class MultiLabel(TaskSpec):
    """Any number of labels for each example."""

    kind = "multi_label"
    title = "any number of labels"
    predictions = LabelLogits

    @classmethod
    def read(cls, name: str, columns: Columns, wording: Wording) -> ReadTargets:
        """The labels are the declared ones, or else those found, in sorted order."""
        refuse_words(columns.where, cls.kind, wording, "labels", "separator")
        sets = label_sets(columns.where, columns.targets, wording.separator)
        names = wording.labels or sorted_names({label for labels in sets for label in labels})
        if len(set(names)) < len(names) or not 2 <= len(names) <= MOST_LABELS:
            shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
            raise TaskRefused(
                f"{columns.where}: {len(names)} labels ({shown}), expected 2 to {MOST_LABELS} different ones; name the "
                "right column with --label, or what stands between labels with --separator"
            )
        spec = cls.worded(labels=names, **plain_wording(name, columns, wording))
        return ReadTargets(spec, _targets(columns.where, sets, names))

    def objectives(self, host_kind: str) -> tuple[str, ...]:
        """A head with a probability for each label; words of labels say one label only."""
        return ("linear", "head", "classifier")

    def check(self, targets: Mapping[str, Targets]) -> None:
        """Refuse a label that no item of train has: it cannot be learnt."""
        for label, count in zip(self.labels, targets["train"].sum(0).tolist(), strict=True):
            if not count:
                raise TaskRefused(
                    f"{self.name}: label {label!r} is right for no item of train, expected at least 1; add items with "
                    "it, or leave the label out"
                )

    def summary(self, targets: Targets) -> dict[str, float]:
        """How many items have each label."""
        return {label: int(count) for label, count in zip(self.labels, targets.sum(0), strict=True)}


def label_sets(where: str, values: Sequence[object], separator: str | None) -> list[list[str]]:
    """The labels of each item, as a list or as a text with a separator between them.

    Of texts without a separator being named, it is guessed (`guess_separator`).

    Raises:
        TaskRefused: a value that is neither, or a label that is missing or given twice, with its row.

    """
    if any(isinstance(value, list | tuple) for value in values):
        return [_listed(where, row, value) for row, value in enumerate(values, 1)]
    sign = separator or guess_separator(values)
    return [_separated(where, row, value, sign) for row, value in enumerate(values, 1)]


def guess_separator(values: Sequence[object]) -> str | None:
    """Which of SEPARATORS parts the most texts; None where none does."""
    counts = Counter(sign for value in values if isinstance(value, str) for sign in SEPARATORS if sign in value)
    return max(SEPARATORS, key=lambda sign: counts[sign]) if counts else None


def _listed(where: str, row: int, value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        text = "nothing" if value is None else repr(value)
        raise TaskRefused(
            f"{where}, row {row}: the labels are {text}, expected a list as in other rows; write [] where there is none"
        )
    return _different(where, row, [name_of(where, row, "label", each) for each in value])


def _separated(where: str, row: int, value: object, sign: str | None) -> list[str]:
    if is_empty(value):
        return []
    parts = value.split(sign) if sign and isinstance(value, str) else [value]
    return _different(where, row, [name_of(where, row, "label", each) for each in parts])


def _different(where: str, row: int, names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TaskRefused(f"{where}, row {row}: label {twice!r} twice, expected each once; correct the row")
    return names


def _targets(where: str, sets: Sequence[Sequence[str]], names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    index = {name: i for i, name in enumerate(names)}
    targets = np.zeros((len(sets), len(names)), dtype=np.int64)
    for row, labels in enumerate(sets, 1):
        for name in labels:
            if name not in index:
                raise TaskRefused(
                    f"{where}, row {row}: label {name!r}, expected one of {', '.join(names)}; correct the row or "
                    "declare it"
                )
            targets[row - 1, index[name]] = 1
    return targets
