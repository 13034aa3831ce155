"""classification: a text, or a pair of texts, and the one class out of several that is right for it.

Shapes: N items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from peftport.core.errors import BadRequest, TaskRefused
from peftport.metrics.accuracy import Accuracy
from peftport.metrics.choice import MetricChoice, choice_for_classes
from peftport.tasks.columns import Columns, Wording, name_of
from peftport.tasks.spec import ONE_TEXT, Example, Predictions, ReadTargets, Targets, TaskSpec

MAX_LABELS = 100

Classes: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scores(Predictions):
    """Scores of C classes for N items, and which class is right.

    Attributes:
        values: (N, C), higher is likelier; ``scores`` is the same.
        targets: (N,), the right classes; ``labels`` is the same.

    """

    values: npt.NDArray[np.float32]
    targets: Classes
    kind = "classification"

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(N, C), higher is likelier."""
        return self.values

    @property
    def labels(self) -> Classes:
        """The right classes, (N,)."""
        return self.targets

    @property
    def classes(self) -> int:
        """C, how many classes there are, found among the items or not."""
        return int(self.values.shape[1])

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which items were right, (N,)."""
        return Accuracy().per_item(self)

    @property
    def accuracy(self) -> float:
        """Share of items that were right."""
        return float(self.correct.mean())

    def usual_metric(self) -> MetricChoice:
        """Accuracy, unless one class is nearly all there is."""
        return choice_for_classes(self.targets)


def as_scores(test: Predictions) -> Scores:
    """The predictions of a classification.

    Raises:
        BadRequest: they are of another kind of task.

    """
    if not isinstance(test, Scores):
        raise BadRequest(f"expected a classification here, got a task of kind {test.kind}; give a task of classes")
    return test


class Classification(TaskSpec):
    """How the classes are worded. All tuples run parallel to ``labels``.

    ``words`` answer ``prompt`` and ``causal_prompt``; ``masked_words`` fill the mask of ``masked_prompt``;
    ``descriptions`` are what the prototype readout embeds.
    """

    kind = "classification"
    title = "one class out of several"
    predictions = Scores

    labels: tuple[str, ...]
    words: tuple[str, ...]
    descriptions: tuple[str, ...]
    masked_prompt: str
    masked_words: tuple[str, ...]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {self.labels}: expected at least 2, all different")
        for name in ("words", "descriptions", "masked_words"):
            values: tuple[str, ...] = getattr(self, name)
            if len(values) != len(self.labels):
                raise ValueError(f"{name}: {len(values)} given, expected {len(self.labels)}, one for each label")
            if len(set(values)) < len(values) or not all(value.strip() for value in values):
                raise ValueError(f"{name} {values}: expected all different and none empty")
        self._check_placeholders("masked_prompt", self.masked_prompt, (*self.fields, "mask"))
        if self.masked_prompt.count("{mask}") != 1:
            raise ValueError(f"masked_prompt {self.masked_prompt!r}: expected {{mask}} in it once")
        return self

    @classmethod
    def read(cls, name: str, columns: Columns, wording: Wording) -> ReadTargets:
        """The labels are the declared ones, or else those found, in sorted order (a hub data set's: in its own)."""
        if wording.separator:
            raise TaskRefused(
                f"{columns.where}: --separator: expected none for classes, of which a text has one; drop the option, "
                "or say --kind multi_label"
            )
        labels, targets = read_classes(columns, wording.labels or columns.classes)
        return ReadTargets(own_spec(name, labels, wording, tuple(columns.fields)), targets)

    def objectives(self, host_kind: str) -> tuple[str, ...]:
        """Descriptions of labels are compared with one text only; a pair is read as a pair by a head of its own."""
        pooled = ("prototype", "linear") if len(self.fields) == 1 else ("linear",)
        readouts = (*pooled, "label_tokens") if host_kind == "encoder" else ("label_tokens", *pooled)
        return (*readouts, "head", "classifier")

    def check(self, targets: Mapping[str, Targets]) -> None:
        """Refuse a label that has no item in train, where it is learnt, or in test."""
        for split in ("train", "test"):
            for label in sorted(set(range(len(self.labels))) - set(targets[split].tolist())):
                raise TaskRefused(
                    f"{self.name}: label {self.labels[label]!r} has no item in {split}, expected at least 1; "
                    "add items of it"
                )

    def summary(self, targets: Targets) -> dict[str, float]:
        """How many items each label has."""
        return {label: int((targets == index).sum()) for index, label in enumerate(self.labels)}

    def identity(self) -> dict[str, Any]:
        """Without the kind: classification was there before there were others, and its digests stay."""
        return {key: value for key, value in super().identity().items() if key != "kind"}

    def masked_prompt_for(self, example: Example, mask: str) -> Example:
        """The input of a masked language model for one example; ``mask`` is its tokenizer's mask token.

        Of two fields it is a pair for the tokenizer: the prompt up to the second field, and from there on.
        """
        if isinstance(example, str):
            return self.render(self.masked_prompt, example, mask=mask)
        second = max(self.masked_prompt.index(f"{{{field}}}") for field in self.fields)
        parts = self.masked_prompt[:second].rstrip(), self.masked_prompt[second:]
        return tuple(self.render(part, example, mask=mask) for part in parts)


def own_spec(
    name: str, labels: tuple[str, ...], wording: Wording, fields: tuple[str, ...] = ONE_TEXT
) -> Classification:
    """The spec of a user's data set: label names as label words, plain prompts, unless worded otherwise.

    Raises TaskRefused where the wording does not fit the labels or the fields.
    """
    words = wording.words or labels
    choice = f"{', '.join(words[:-1])} or {words[-1]}"
    headed = [f"{field[0].upper()}{field[1:]}: {{{field}}}" for field in fields]  # Premise: {premise}
    pair = len(fields) > 1
    values = {
        "name": name,
        "labels": labels,
        "words": words,
        "descriptions": tuple(f"This text is {word}." for word in words),
        "prompt": f"Classify as {choice}. {' '.join(headed)}" if pair else f"Classify as {choice}: {{text}}",
        "causal_prompt": "\n".join([*headed, "Label:"]),
        "masked_prompt": " ".join(f"{{{field}}}" for field in fields) + " This is {mask}.",
        "masked_words": words,
        "domain": name,
        "fields": fields,
    }
    return Classification.worded(**values | wording.changes())


def read_classes(columns: Columns, declared: tuple[str, ...] | None) -> tuple[tuple[str, ...], Classes]:
    """The label names, in order, and each item's index into them, (N,).

    Raises:
        TaskRefused: a label that is missing or not declared, with its row; fewer than 2 or more than MAX_LABELS.

    """
    where = columns.where
    labels = [name_of(where, row, "label", value) for row, value in enumerate(columns.targets, 1)]
    names = declared or sorted_names(set(labels))
    if declared is None and not 2 <= len(names) <= MAX_LABELS:
        shown = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        raise TaskRefused(
            f"{where}: {len(names)} different label{'s' * (len(names) != 1)} ({shown}), expected 2 to {MAX_LABELS}; "
            "name the right column with --label, or say with --kind what else the targets are"
        )
    return names, _indices(where, labels, names)


def _indices(where: str, labels: Sequence[str], names: tuple[str, ...]) -> Classes:
    index = {name: i for i, name in enumerate(names)}
    for row, name in enumerate(labels, 1):
        if name not in index:
            expected = ", ".join(names)
            raise TaskRefused(
                f"{where}, row {row}: label {name!r}, expected one of {expected}; correct the row or declare it"
            )
    return np.array([index[name] for name in labels], dtype=np.int64)


def sorted_names(labels: set[str]) -> tuple[str, ...]:
    """Label names in order: by number where all are integers, else alphabetically."""
    names = sorted(labels)
    if all(name.removeprefix("-").isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)
