"""A task: examples with their targets in three leak-free splits, and the spec that says what is asked of a host.

Shapes: N items.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from peftport.core.hashing import digest
from peftport.tasks.spec import Example, Targets, TaskSpec, plain_text

DIGEST_VERSION = 1


@dataclass(frozen=True, eq=False)
class Split:
    """N examples with targets in an order derived from hashes of the texts: every prefix is a random sample."""

    ids: tuple[str, ...]
    examples: tuple[Example, ...]
    targets: Targets  # (N, ...), read-only; of classification (N,) indices into the spec's labels

    def __post_init__(self) -> None:
        """Make the targets read-only, and whole numbers int64."""
        assert len(self.ids) == len(self.examples) == len(self.targets), "a split's columns differ in length"
        whole = np.issubdtype(np.asarray(self.targets).dtype, np.integer)
        targets = np.array(self.targets, dtype=np.int64 if whole else None)
        targets.setflags(write=False)
        object.__setattr__(self, "targets", targets)

    @property
    def texts(self) -> tuple[str, ...]:
        """The examples as plain texts: those of a pair are joined."""
        return tuple(map(plain_text, self.examples))

    @property
    def labels(self) -> Targets:
        """The targets, by the name that they have where they are classes."""
        return self.targets

    def __len__(self) -> int:
        """The number N of items in the split."""
        return len(self.examples)

    def head(self, n: int) -> Split:
        """The first ``n`` items (all of them where there are fewer): a deterministic random sample, not stratified."""
        assert n >= 0, "head of a negative number of items"
        return Split(self.ids[:n], self.examples[:n], self.targets[:n])

    def pick(self, chosen: npt.NDArray[np.bool_]) -> Split:
        """The items that are chosen, (N,), in their order."""
        at = np.flatnonzero(chosen)
        return Split(tuple(self.ids[i] for i in at), tuple(self.examples[i] for i in at), self.targets[at])

    def shuffled(self, rng: np.random.Generator) -> Split:
        """The same items with their targets in random order: not as they were, unless all targets are the same."""
        order, targets = rng.permutation(len(self)), self.targets.tolist()
        differ = any(target != targets[0] for target in targets)
        while differ and self.targets[order].tolist() == targets:
            order = rng.permutation(len(self))
        return Split(self.ids, self.examples, self.targets[order])


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
    """A data set, split so that no example of one split is a (near-)duplicate of an example of another.

    ``remarks``: what to tell users of how the data was read, a line each. ``asked``: the file or name and the options
    that the user gave to have it read like this, as words of the command line.
    """

    spec: TaskSpec
    train: Split
    valid: Split
    test: Split
    report: Dropped
    remarks: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Fill in the digest."""
        object.__setattr__(self, "digest", self._digest())

    @property
    def command_words(self) -> tuple[str, ...]:
        """What names this task on a command line."""
        return self.asked or (self.spec.name,)

    def _digest(self) -> str:
        """sha256 of all that can change a result: the spec's wording, and texts and targets split by split, in order.

        Name, domain and ids are left out: the same texts under another file name are the same task.
        """
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        return digest(
            {
                "version": DIGEST_VERSION,
                "spec": self.spec.identity(),
                "splits": {k: {"texts": s.examples, "labels": s.targets.tolist()} for k, s in splits.items()},
            }
        )
