"""Deterministic, leak-free splits: an item's split depends on its own text (or group) and on nothing else.

    u = sha256(salt, group or normalised text) / 2^256       train: u < 0.65, valid: u < 0.75, test: the rest

A quarter for the test is at least 1,000 items wherever a task has 5,000. The salt is one for all tasks: a text that two
tasks share falls on the same side in both. Adding items moves no other item from one split to another; it can only drop
some from the training side.

Shapes: N items.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from peftport.core.errors import TaskRefused
from peftport.core.progress import Progress, Silent
from peftport.tasks.duplicates import Key, Likeness, near_examples, normalise
from peftport.tasks.spec import Example, Targets, TaskSpec, texts_of
from peftport.tasks.task import Dropped, Split, Task

SALT = "peftport split 1"
TRAIN, VALID = 0.65, 0.10
HALF = 0.5
SPLITS = ("train", "valid", "test")  # later ones keep what earlier ones lose
MIN_ITEMS = 30
_KEYS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Items:
    """N examples with targets as a source gives them, before anything is dropped for its likeness to another.

    ``ids`` and ``groups`` are optional; items of one group stay in one split. ``splits`` (of SPLITS) is what the source
    itself declares, if it does. ``dropped`` counts what the reader of the source has left out already.
    """

    examples: tuple[Example, ...]
    targets: Targets  # (N, ...)
    ids: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    dropped: Dropped = Dropped()


def make_task(spec: TaskSpec, items: Items, progress: Progress | None = None) -> Task:
    """Split ``items`` without leaks and make them a task. ``progress`` is told of a stage of about 4 N units.

    Raises TaskRefused if there are fewer than MIN_ITEMS items, if a split comes out empty, or if the kind of task
    refuses what came out (a label that is missing from the training or test split).
    """
    if len(items.examples) < MIN_ITEMS:
        raise TaskRefused(
            f"{spec.name}: {len(items.examples)} items, expected at least {MIN_ITEMS}; add labelled texts"
        )
    n = len(items.examples)
    done = (progress or Silent()).stage(f"splitting {spec.name}", 4 * n)
    keys = _keys(items.examples, done)
    places = _places(spec.name, items, keys)
    alone, conflicting, duplicates = _without_copies(spec, items, keys, places)
    whole = _without_straddlers(items, places, alone)
    done(n)
    kept = _without_near_copies(_near_keys(spec, items, keys), places, whole, done)
    splits = {name: _in_hash_order(items, keys, [i for i in kept if places[i] == name]) for name in SPLITS}
    _check(spec, splits)
    spec = spec.fitted(splits["train"].targets)
    done(n)
    report = replace(
        items.dropped,
        conflicting_labels=conflicting,
        exact_duplicates=duplicates,
        straddling_groups=len(alone) - len(whole),
        near_duplicates=len(whole) - len(kept),
    )
    return Task(spec, splits["train"], splits["valid"], splits["test"], report)


def leaks(train: Split, test: Split) -> int:
    """How many items of ``train`` are exact or near duplicates of one of ``test``, which may be of another task.

    In all their fields; a pair and a single text are compared as plain texts.
    """
    fields = {len(texts_of(example)) for example in (*train.examples, *test.examples)}
    of_train, of_test = (s.examples if len(fields) == 1 else s.texts for s in (train, test))
    return int(near_examples([key_of(each) for each in of_train], [key_of(each) for each in of_test]).sum())


def halves(split: Split, seed: int) -> tuple[Split, Split]:
    """Two parts of about half the items each, in their order.

    An item's part depends on its texts, in normal form, and the seed alone: a text that two tasks share is in the same
    part of both.
    """
    units = _units(f"half {seed}", _names_of(key_of(example) for example in split.examples))
    return split.pick(units < HALF), split.pick(units >= HALF)


def key_of(example: Example) -> Key:
    """The example as duplicates are told by: each of its texts in normal form."""
    return tuple(map(normalise, texts_of(example)))


def _keys(examples: Sequence[Example], done: Callable[[int], None]) -> list[Key]:
    """The keys of all examples; ``done`` is told how many more there are now."""
    keys: list[Key] = []
    for start in range(0, len(examples), _KEYS_AT_ONCE):
        keys.extend(map(key_of, examples[start : start + _KEYS_AT_ONCE]))
        done(len(keys) - start)
    return keys


def _near_keys(spec: TaskSpec, items: Items, keys: list[Key]) -> list[Key]:
    """The keys by which near copies are told: those of the examples, unless the kind of task goes by more."""
    if type(spec).alike_by is TaskSpec.alike_by:
        return keys
    return [tuple(map(normalise, spec.alike_by(*item))) for item in zip(items.examples, items.targets, strict=True)]


def _names_of(keys: Iterable[Key]) -> list[str]:
    """Each key as one string, by which its item is placed and ordered. No normal form has the separator in it."""
    return list(map("\x1f".join, keys))


def _units(role: str, names: Iterable[str]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), (N,), hashes of the names: uniform over names, independent between roles."""
    start = f"{SALT}\0{role}\0".encode()
    digests = b"".join([hashlib.sha256(start + name.encode()).digest()[:8] for name in names])
    return np.frombuffer(digests, dtype=">u8") / 2**64


def _places(task: str, items: Items, keys: Sequence[Key]) -> list[str]:
    """The split of each item: the declared one; where the source declares none, or not all three, by hash."""
    units = (_units("group", items.groups) if items.groups else _units("text", _names_of(keys))).tolist()
    declared = set(items.splits or ())
    if items.splits is None or len(declared) == 1:
        return ["train" if u < TRAIN else "valid" if u < TRAIN + VALID else "test" for u in units]
    if "train" not in declared:
        shown = ", ".join(sorted(declared))
        raise TaskRefused(f"{task}: splits {shown}, expected train among them; add it or declare none")
    if len(declared) == len(SPLITS):
        return list(items.splits)
    # Of train and one more, that one is the test, and train gives some of its own items for validation.
    share = VALID / (TRAIN + VALID)
    from_train = ["valid" if u < share else "train" for u in units]
    return [place if split == "train" else "test" for split, place in zip(items.splits, from_train, strict=True)]


def _without_copies(
    spec: TaskSpec, items: Items, keys: Sequence[Key], places: Sequence[str]
) -> tuple[list[int], int, int]:
    """Indices of one item for each example, and how many were dropped for conflicting targets and as further copies.

    The copy in the latest split stays: a test set does not shrink because the training texts repeat it.
    """
    counts = Counter(keys)
    copies: defaultdict[Key, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if counts[key] > 1:
            copies[key].append(i)

    def preference(i: int) -> tuple[int, Example, str, str]:
        group, item_id = items.groups[i] if items.groups else "", items.ids[i] if items.ids else ""
        return -SPLITS.index(places[i]), items.examples[i], group, item_id

    kept, conflicting = [i for i, key in enumerate(keys) if counts[key] == 1], 0
    for rows in copies.values():
        if spec.contradict(items.targets[rows]):
            conflicting += len(rows)
        else:
            kept.append(min(rows, key=preference))
    return sorted(kept), conflicting, len(keys) - conflicting - len(kept)


def _without_straddlers(items: Items, places: Sequence[str], rows: list[int]) -> list[int]:
    """The rows whose group has no item in a later split; only declared splits can tear a group apart."""
    if items.groups is None or items.splits is None:
        return rows
    latest: dict[str, int] = {}
    for i in rows:
        latest[items.groups[i]] = max(latest.get(items.groups[i], 0), SPLITS.index(places[i]))
    return [i for i in rows if SPLITS.index(places[i]) == latest[items.groups[i]]]


def _without_near_copies(
    keys: Sequence[Key], places: Sequence[str], rows: list[int], done: Callable[[int], None]
) -> list[int]:
    """The rows less those of valid near one of test, then those of train near one of test or of what stays of valid."""
    likeness = Likeness([keys[i] for i in rows])
    done(len(keys) // 2)
    of = {name: np.array([n for n, i in enumerate(rows) if places[i] == name], dtype=np.int64) for name in SPLITS}
    valid = of["valid"][~likeness.near(of["valid"], of["test"])]
    train = of["train"][~likeness.near(of["train"], np.concatenate([of["test"], valid]))]
    done(len(keys) - len(keys) // 2)
    return [rows[n] for n in np.sort(np.concatenate([train, valid, of["test"]]))]


def _in_hash_order(items: Items, keys: Sequence[Key], rows: Sequence[int]) -> Split:
    """The items of one split, ordered by the hash of their texts; an item without an id gets one from its text."""
    names = _names_of(keys[i] for i in rows)
    units = _units("order", names)
    by_hash = np.argsort(units)
    if (np.diff(units[by_hash]) == 0).any():  # equal hashes: the texts decide
        by_hash = np.array(sorted(range(len(rows)), key=lambda n: (units[n], keys[rows[n]])), dtype=np.int64)
    order = [rows[n] for n in by_hash]
    ids = (
        [items.ids[i] for i in order]
        if items.ids
        else [hashlib.sha256(names[n].encode()).hexdigest()[:16] for n in by_hash]
    )
    return Split(tuple(ids), tuple(items.examples[i] for i in order), items.targets[order])


def _check(spec: TaskSpec, splits: dict[str, Split]) -> None:
    """Refuse a task with an empty split, or with targets that cannot be learnt or tested."""
    for name, split in splits.items():
        if not len(split):
            raise TaskRefused(f"{spec.name}: no item is left for {name}, expected some; add items, or declare splits")
    spec.check({name: split.targets for name, split in splits.items()})
