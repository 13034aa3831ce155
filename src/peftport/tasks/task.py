"""A task: labelled texts in three leak-free splits, and how its labels are asked for and read out of a host.

Shapes: N items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

from peftport.core.hashing import digest

DIGEST_VERSION = 1

Labels: TypeAlias = npt.NDArray[np.int64]


class TaskSpec(BaseModel):
    """How a task's labels are worded. All tuples run parallel to ``labels``.

    ``words`` answer ``prompt`` and ``causal_prompt``; ``masked_words`` fill the mask of ``masked_prompt``;
    ``descriptions`` are what the prototype readout embeds. Tasks of one ``domain`` share, or may share, texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    descriptions: tuple[str, ...]
    prompt: str
    causal_prompt: str
    masked_prompt: str
    masked_words: tuple[str, ...]
    domain: str

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
        for name in ("prompt", "causal_prompt", "masked_prompt"):
            if "{text}" not in getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)!r}: expected {{text}} in it")
        if self.masked_prompt.count("{mask}") != 1:
            raise ValueError(f"masked_prompt {self.masked_prompt!r}: expected {{mask}} in it once")
        return self

    def prompt_for(self, text: str) -> str:
        """The input of an encoder-decoder host for one text."""
        return self.prompt.replace("{text}", text)

    def causal_prompt_for(self, text: str) -> str:
        """The input of a decoder host for one text; it ends where the label word (with a leading space) begins."""
        return self.causal_prompt.replace("{text}", text)

    def masked_prompt_for(self, text: str, mask: str) -> str:
        """The input of a masked language model for one text; ``mask`` is its tokenizer's mask token."""
        return self.masked_prompt.replace("{mask}", mask).replace("{text}", text)


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled texts in an order derived from hashes of the texts: every prefix is a random sample."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: Labels  # (N,) indices into TaskSpec.labels, read-only

    def __post_init__(self) -> None:
        """Make the labels int64 and read-only."""
        assert len(self.ids) == len(self.texts) == len(self.labels), "a split's columns differ in length"
        labels = np.array(self.labels, dtype=np.int64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        """N."""
        return len(self.texts)

    def head(self, n: int) -> Split:
        """The first ``n`` items (all of them where there are fewer): a deterministic random sample, not stratified."""
        assert n >= 0, "head of a negative number of items"
        return Split(self.ids[:n], self.texts[:n], self.labels[:n])


@dataclass(frozen=True)
class Dropped:
    """How many items of the source are in no split, by reason. The reasons are applied in this order."""

    unlabelled: int = 0  # hub data sets: label absent or -1 in a labelled split
    empty_texts: int = 0  # hub data sets; an own file with one is refused
    neutral_ratings: int = 0  # |mean rating| < 0.5
    conflicting_labels: int = 0  # all copies of a text that carries several labels
    exact_duplicates: int = 0  # further copies of a text, after normalisation
    straddling_groups: int = 0  # training-side items of a group that declared splits tear apart
    near_duplicates: int = 0  # training-side items too like an item of a later split


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set, split so that no text of one split is a (near-)duplicate of a text of another."""

    spec: TaskSpec
    train: Split
    valid: Split
    test: Split
    report: Dropped
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Fill in the digest."""
        object.__setattr__(self, "digest", self._digest())

    def _digest(self) -> str:
        """sha256 of all that can change a result: the spec's wording, and texts and labels split by split, in order.

        Name, domain and ids are left out: the same texts under another file name are the same task.
        """
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        return digest(
            {
                "version": DIGEST_VERSION,
                "spec": self.spec.model_dump(mode="json", exclude={"name", "domain"}),
                "splits": {k: {"texts": s.texts, "labels": s.labels.tolist()} for k, s in splits.items()},
            }
        )
