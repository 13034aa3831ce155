"""A row's numbers held to the artifact that its job left: measured again from what was predicted, item by item.

Of classes an artifact holds scores and which items were right, of other kinds of task what `study.predicted` stores;
the row of such a job says its kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from peftport.core.errors import PeftportError
from peftport.core.libraries import torch
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import JobRow
from peftport.study.packing import Described, described, timeless
from peftport.study.predicted import TARGETS, as_tensors, from_tensors, is_of_predictions, predicted_name
from peftport.tasks.kinds import KINDS
from peftport.tasks.kinds.classification import Scores
from peftport.tasks.spec import Predictions

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, npt.NDArray[Any]]
CLOSE = 1e-9
LABELS = "labels"
CLASSES = "classification"
ALWAYS = ("accuracy", "n_items")  # what every version wrote for every test


def measured(test: Predictions) -> dict[str, Any]:
    """What a test says, all of it read off what was predicted for each item; None where that is beyond all numbers."""
    values = {name: value if value is None or math.isfinite(value) else None for name, value in test.measures().items()}
    return {**values, "n_items": len(test)}


def targets_of(test: Predictions) -> dict[str, Tensor]:
    """What is right, which all tests of a stack share: with the predictions it gives every metric."""
    if isinstance(test, Scores):
        return {LABELS: torch.from_numpy(test.labels.copy())}
    return _tensors(TARGETS, test.targets)


def arrays_of(job: str, tests: Mapping[int, Predictions]) -> dict[str, Tensor]:
    """What was predicted for each item, a test a budget: of classes the scores, (N, C), and what was right, (N,)."""
    tensors: dict[str, Tensor] = {}
    for budget, test in tests.items():
        if isinstance(test, Scores):
            tensors[f"{job}/scores/{budget}"] = torch.from_numpy(np.ascontiguousarray(test.scores))
            tensors[correct_name(job, budget)] = torch.from_numpy(test.correct)
        else:
            tensors |= _tensors(predicted_name(job, budget), test.values)
    return tensors


def correct_name(job: str, budget: int | str) -> str:
    """The name under which it is stored what a test of classes got right, (N,)."""
    return f"{job}/correct/{budget}"


def _tensors(name: str, array: npt.NDArray[Any]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value.copy()) for key, value in as_tensors(name, array).items()}


def kind_of_row(row: JobRow) -> str:
    """The kind of task that a job's row is of; rows of classes do not say it, as those of early versions."""
    return str((row.metrics or {}).get("kind", CLASSES))


@dataclass(frozen=True, eq=False)
class StoredTest:
    """One test of N items as it was stored.

    Attributes:
        kind: the kind of task.
        values: what was predicted for each item, (N, ...): of classes the scores, (N, C).
        predictions: the same with what is right; None where that is not known (of several classes, in old artifacts,
            and of results that were taken from tables without scores: there ``values`` has no columns).
        correct: which items were right, (N,); None where the targets are no classes.

    """

    kind: str
    values: npt.NDArray[Any]
    predictions: Predictions | None
    correct: npt.NDArray[np.bool_] | None

    def __len__(self) -> int:
        """The number N of items."""
        return len(self.values)


class StoredItems:
    """Per-item results of a study's jobs, from its artifacts."""

    def __init__(self, artifacts: Artifacts) -> None:
        """Read from these; the last few artifacts stay in memory."""
        self._artifacts = artifacts
        self._open = lru_cache(maxsize=4)(self._read)

    def correct(self, row: JobRow, budget: int) -> list[bool] | None:
        """What the job's test at ``budget`` got right, item by item; None where the targets are no classes.

        Raises:
            PeftportError: the artifact is missing or corrupt, or has no such test.

        """
        right = self.test(row, budget).correct
        return None if right is None else right.tolist()

    def test(self, row: JobRow, budget: int) -> StoredTest:
        """The job's test at ``budget``.

        Raises:
            PeftportError: the artifact is missing or corrupt, or has no such test.

        """
        held = _test_of(self._open(row.artifact or "")[0], row, budget)
        if held is None:
            raise PeftportError(f"job {row.id[:12]}: {disagreement(row, 'it has no such test')}")
        return held

    def predictions(self, row: JobRow, budget: int) -> Predictions | None:
        """The job's test at ``budget``; None where the right classes of several cannot be known (old artifacts).

        Raises:
            PeftportError: the artifact is missing or corrupt, or has no such test.

        """
        return self.test(row, budget).predictions

    def measured(self, row: JobRow, budget: int) -> dict[str, Any]:
        """All that the job's test at ``budget`` says, whichever metrics its row was written with."""
        return _said(self.test(row, budget))

    def fault(self, row: JobRow) -> str | None:
        """Where a row is not what its artifact says; None where they agree.

        Raises:
            PeftportError: the artifact is missing or corrupt.

        """
        if row.artifact is None:
            return None
        arrays, told = self._open(row.artifact)
        metrics = row.metrics or {}
        for budget, test in metrics.get("tests", {}).items():
            held = _test_of(arrays, row, budget)
            if held is None:
                return disagreement(row, f"it has no test at {budget} steps")
            for name, value in _said(held).items():
                lacking = test.get(name) is None and name not in ALWAYS  # of a metric that is newer than the row
                if not lacking and not _equal(test.get(name), value):
                    return disagreement(row, f"its items give {name} {value} at {budget} steps, not {test.get(name)}")
        if told is not None:
            return _against(row, metrics, told)
        return None

    def _read(self, sha256: str) -> tuple[Arrays, Described | None]:
        path = self._artifacts.path(sha256)
        if not self._artifacts.holds(sha256):
            raise PeftportError(f"{path}: expected an artifact of this study, it is missing or corrupt; run it again")
        with safe_open(path, framework="np") as tensors:
            names = [key for key in tensors.keys() if _is_of_items(key)]  # noqa: SIM118
            return {key: tensors.get_tensor(key) for key in names}, described(path)


def disagreement(row: JobRow, how: str) -> str:
    """A row beside its artifact."""
    return f"the row of job {row.id[:12]} is not what its artifact {(row.artifact or '')[:12]} holds: {how}"


def _is_of_items(name: str) -> bool:
    return "/correct/" in name or "/scores/" in name or name == LABELS or is_of_predictions(name)


def _test_of(arrays: Arrays, row: JobRow, budget: int | str) -> StoredTest | None:
    """A test as it was stored; None where there is none."""
    kind = kind_of_row(row)
    if kind == CLASSES:
        return _classified(arrays, row, budget)
    values, targets = from_tensors(predicted_name(row.id, budget), arrays), from_tensors(TARGETS, arrays)
    if values is None or targets is None or len(values) != len(targets) or kind not in KINDS:
        return None
    return StoredTest(kind, values, KINDS[kind].predictions(values, targets), None)


def _classified(arrays: Arrays, row: JobRow, budget: int | str) -> StoredTest | None:
    """A test of classes. Artifacts of early versions hold no labels: of two, those that give ``correct``."""
    scores, correct = arrays.get(f"{row.id}/scores/{budget}"), arrays.get(correct_name(row.id, budget))
    if correct is None:
        return None
    if scores is None:
        return StoredTest(CLASSES, np.empty((len(correct), 0), np.float32), None, correct.astype(bool))
    picks, labels = scores.argmax(1), arrays.get(LABELS)
    if labels is None and scores.shape[1] == 2:
        labels = np.where(correct, picks, 1 - picks).astype(np.int64)
    known = labels is not None and len(labels) == len(picks) and np.array_equal(picks == labels, correct)
    right = Scores(scores, labels) if labels is not None and known else None
    return StoredTest(CLASSES, scores, right, correct.astype(bool))


def _said(test: StoredTest) -> dict[str, Any]:
    """What a test says; of classes that are not known, how many were right."""
    if test.predictions is not None:
        return measured(test.predictions)
    assert test.correct is not None, "only old artifacts of classes lack what is right"
    return {"accuracy": float(test.correct.mean()), "n_items": len(test.correct)}


def _equal(recorded: Any, again: Any) -> bool:
    if recorded is None or again is None:
        return recorded is again
    return isinstance(recorded, int | float) and abs(recorded - again) <= CLOSE * max(1.0, abs(again))


def _against(row: JobRow, metrics: dict[str, Any], told: Described) -> str | None:
    """Hold a row to what was written into its artifact: losses and rates too, which no item shows."""
    if told.kind != row.kind or told.inputs_of.get(row.id) != row.inputs:
        return disagreement(row, "another kind of job, or other inputs")
    wrote, says = told.metrics.get(row.id, {}), timeless(metrics)
    differ = sorted(key for key in wrote.keys() | says.keys() if wrote.get(key) != says.get(key))
    return disagreement(row, f"{', '.join(differ)} differ") if differ else None
