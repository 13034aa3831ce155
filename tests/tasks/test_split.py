from __future__ import annotations

from collections.abc import Iterable
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.tasks import Split, Task, leaks
from peftport.tasks.columns import Wording
from peftport.tasks.duplicates import near_examples, normalise
from peftport.tasks.kinds.classification import own_spec
from peftport.tasks.split import Items, make_task

SPEC = own_spec("made-up", ("no", "yes"), Wording())
SPLITS = ("train", "valid", "test")

Row = tuple[str, int, str, str]  # text, label, group, declared split


def random_rows(seed: int, n: int = 150) -> list[Row]:
    """Texts of which many repeat an earlier one, whole or nearly, in another group or with another label."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for _ in range(n):
        words = [f"w{k}" for k in rng.integers(0, 60, rng.integers(2, 20))]
        if rows and rng.random() < 0.4:
            words = rows[rng.integers(len(rows))][0].split()
            if rng.random() < 0.7:
                words[rng.integers(len(words))] = f"w{rng.integers(60)}"
        group = int(rng.integers(40))
        split = SPLITS[group % 3 if rng.random() < 0.95 else rng.integers(3)]
        rows.append((" ".join(words), int(rng.integers(2)), f"g{group}", split))
    return rows


def task_of(rows: Iterable[Row], grouped: bool = False, declared: bool = False) -> Task:
    texts, labels, groups, splits = zip(*rows, strict=True)
    items = Items(texts, np.array(labels), groups=groups if grouped else None, splits=splits if declared else None)
    return make_task(SPEC, items)


def possible(rows: Iterable[Row], grouped: bool, declared: bool) -> Task:
    """The task of rows that are not refused: rarely groups or duplicates leave a split empty."""
    try:
        return task_of(rows, grouped, declared)
    except TaskRefused:
        assume(False)
        raise


def places(task: Task) -> dict[str, str]:
    return {normalise(text): name for name in SPLITS for text in getattr(task, name).texts}


seeds = st.integers(0, 2**32)


@given(seeds, st.booleans(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_no_near_duplicate_crosses_splits(seed: int, grouped: bool, declared: bool) -> None:
    task = possible(random_rows(seed), grouped, declared)
    keys = {name: [(normalise(text),) for text in getattr(task, name).texts] for name in SPLITS}
    assert not near_examples(keys["train"], keys["valid"] + keys["test"]).any()
    assert not near_examples(keys["valid"], keys["test"]).any()
    every = [key for part in keys.values() for key in part]
    assert len(set(every)) == len(every)
    assert leaks(task.train, task.test) == 0


@given(seeds, st.booleans())
@settings(max_examples=50, deadline=None)
def test_groups_stay_together(seed: int, declared: bool) -> None:
    rows = [(f"{text} {i}x", label, group, own) for i, (text, label, group, own) in enumerate(random_rows(seed))]
    task = possible(rows, grouped=True, declared=declared)
    group_of, where = {normalise(row[0]): row[2] for row in rows}, places(task)
    homes: dict[str, set[str]] = {}
    for key, name in where.items():
        homes.setdefault(group_of[key], set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    assert declared or task.report.straddling_groups == 0


@given(seeds, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int, grouped: bool, declared: bool, random: Random) -> None:
    rows = random_rows(seed)
    shuffled = list(rows)
    random.shuffle(shuffled)
    try:
        one = task_of(rows, grouped, declared)
    except TaskRefused:  # rarely the groups leave a split empty: refused in either order
        with pytest.raises(TaskRefused):
            task_of(shuffled, grouped, declared)
        return
    other = task_of(shuffled, grouped, declared)
    assert one.digest == other.digest
    assert (one.train.ids, one.test.ids, one.report) == (other.train.ids, other.test.ids, other.report)


@given(seeds, seeds)
@settings(max_examples=50, deadline=None)
def test_adding_items_moves_no_item(seed: int, more: int) -> None:
    assume(seed != more)
    rows = random_rows(seed)
    before, after = places(task_of(rows)), places(task_of(rows + random_rows(more)))
    assert all(after.get(key, name) == name for key, name in before.items())


def test_a_text_falls_on_the_same_side_in_every_task() -> None:
    first, second = random_rows(1), random_rows(2)
    here, there = places(task_of(first)), places(task_of(first[:60] + second))
    shared = here.keys() & there.keys()
    assert len(shared) > 20
    assert all(here[key] == there[key] for key in shared)


def test_conflicting_copies_all_go_and_agreeing_ones_leave_one() -> None:
    rows = [(f"w{i} v{i} u{i} t{i}", i % 2, "", "train") for i in range(200)]
    rows += [("Same thing!", 0, "", ""), ("same thing", 1, "", "")]
    rows += [("Twice seen.", 1, "", ""), ("twice, seen", 1, "", "")]
    task = task_of(rows)
    assert (task.report.conflicting_labels, task.report.exact_duplicates, task.report.near_duplicates) == (2, 1, 0)
    assert "same thing" not in places(task)
    assert "Twice seen." in task.train.texts + task.valid.texts + task.test.texts
    assert sum(map(len, (task.train, task.valid, task.test))) == 201


def test_the_training_side_loses_what_both_sides_have() -> None:
    rows = [(f"w{i} v{i} u{i} t{i}", i % 2, "", SPLITS[i // 2 % 3]) for i in range(120)]
    shared = ("a copy in every split", 1, "")
    long = " ".join(f"l{i}" for i in range(40))
    rows += [(*shared, name) for name in SPLITS]
    rows += [(f"{long} x", 0, "", "train"), (f"{long} y", 0, "", "valid"), (f"{long} z", 0, "", "test")]
    task = task_of(rows, declared=True)
    assert shared[0] in task.test.texts and shared[0] not in task.train.texts + task.valid.texts
    assert f"{long} z" in task.test.texts and len(task.test) == 42
    assert (len(task.train), len(task.valid)) == (40, 40)
    assert (task.report.exact_duplicates, task.report.near_duplicates) == (2, 2)


def test_a_group_torn_by_declared_splits_stays_where_it_is_latest() -> None:
    rows = [(f"w{i} v{i} u{i} t{i}", i % 2, f"g{i // 2}", SPLITS[i // 2 % 3]) for i in range(120)]
    rows += [("one of a torn pair", 0, "torn", "train"), ("its other half here", 1, "torn", "test")]
    task = task_of(rows, grouped=True, declared=True)
    assert task.report.straddling_groups == 1
    assert "its other half here" in task.test.texts and "one of a torn pair" not in task.train.texts


@pytest.mark.parametrize(("given_splits", "test_size"), [(("train", "test"), 100), (("train", "valid"), 100)])
def test_the_second_declared_split_is_the_test(given_splits: tuple[str, str], test_size: int) -> None:
    rows = [(f"w{i} v{i} u{i} t{i}", i // 2 % 2, "", given_splits[i % 2]) for i in range(200)]
    task = task_of(rows, declared=True)
    assert len(task.test) == test_size
    assert 3 <= len(task.valid) <= 30
    assert len(task.train) + len(task.valid) == 100


def test_fractions_and_the_thousand_items() -> None:
    rows = [(f"w{i} v{i} u{i}", i % 2, "", "") for i in range(5000)]
    task = task_of(rows)
    assert len(task.test) >= 1000
    assert abs(len(task.train) / 5000 - 0.65) < 0.03 and abs(len(task.valid) / 5000 - 0.10) < 0.02
    assert abs(task.test.labels.mean() - 0.5) < 0.05


def test_head_is_a_prefix_and_a_random_sample() -> None:
    rows = [(f"w{i} v{i} u{i}", int(i >= 1000), "", "") for i in range(2000)]
    train = task_of(rows).train
    head = train.head(300)
    assert head.texts == train.texts[:300] and head.ids == train.ids[:300] and len(head) == 300
    assert abs(head.labels.mean() - 0.5) < 0.1
    assert len(train.head(10**6)) == len(train)


def test_a_split_cannot_be_changed() -> None:
    split = Split(("a",), ("text",), np.array([1]))
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(f"w{i}", i % 2, "", "") for i in range(29)], "made-up: 29 items, expected at least 30"),
        ([(f"w{i} v{i}", i % 2, "one", "") for i in range(90)], "no item is left for"),
        ([(f"w{i} v{i}", int(i == 0), "", "") for i in range(90)], "label 'yes' has no item in"),
    ],
)
def test_too_few_items(rows: list[Row], message: str) -> None:
    with pytest.raises(TaskRefused, match=message) as refusal:
        task_of(rows, grouped=True) if rows[0][2] else task_of(rows)
    assert refusal.value.exit_code == 2


def test_declared_splits_need_a_train() -> None:
    rows = [(f"w{i} v{i}", i // 2 % 2, "", ("valid", "test")[i % 2]) for i in range(90)]
    with pytest.raises(TaskRefused, match="splits test, valid, expected train among them"):
        task_of(rows, declared=True)


def test_the_digest_is_of_wording_texts_labels_and_splits() -> None:
    rows = random_rows(5)
    task = task_of(rows)
    assert task.digest == task_of(rows).digest
    assert len(task.digest) == 64
    renamed = Task(task.spec.model_copy(update={"name": "other"}), task.train, task.valid, task.test, task.report)
    reworded = Task(task.spec.model_copy(update={"words": ("a", "b")}), task.train, task.valid, task.test, task.report)
    swapped = Task(task.spec, task.valid, task.train, task.test, task.report)
    flipped = Split(task.test.ids, task.test.texts, 1 - task.test.labels)
    assert renamed.digest == task.digest
    relabelled = Task(task.spec, task.train, task.valid, flipped, task.report)
    assert len({task.digest, reworded.digest, swapped.digest, relabelled.digest}) == 4
