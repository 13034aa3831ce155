"""Numbers and sets of labels as targets: read, guessed, split, and refused with the row that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused, UnknownName
from peftport.core.scale import Scale
from peftport.study.sections import Data
from peftport.tasks import load_task
from peftport.tasks.kinds.guess import guess_kind
from peftport.tasks.kinds.multi_label import guess_separator, label_sets
from peftport.tasks.kinds.regression import as_number

from .conftest import Rows
from .test_files import refusal

Save = Callable[..., str]


def with_targets(rows: Rows, target: Callable[[int], object]) -> Rows:
    return [{**row, "label": target(i)} for i, row in enumerate(rows)]


def test_numbers_of_three_formats_are_one_task(rows: Rows, save: Save) -> None:
    made = with_targets(rows, lambda i: i / 7 - 3)
    tasks = [load_task(save(made, f"rated.{suffix}")) for suffix in ("csv", "jsonl", "parquet")]
    assert len({task.digest for task in tasks}) == 1 and {task.spec.kind for task in tasks} == {"regression"}
    task = tasks[0]
    wanted = {row["text"]: row["label"] for row in made}
    assert all(wanted[text] == y for text, y in zip(task.train.texts, task.train.targets, strict=True))
    assert task.spec.scale == Scale.of(task.train.targets.tolist())
    assert task.spec.scale.mean == pytest.approx(task.train.targets.mean())
    assert task.spec.scale.deviation == pytest.approx(task.train.targets.std())
    assert "read as regression; --kind classification" in task.remarks[0]
    assert load_task(save(made), kind="regression").remarks == ()


def test_sets_of_three_formats_are_one_task(rows: Rows, save: Save) -> None:
    """Lists, and texts with a separator; an item may have none."""
    sets = [[name for k, name in enumerate(("joy", "fear", "9")) if (i >> k) & 1] for i in range(len(rows))]
    lists = with_targets(rows, lambda i: sets[i])
    texts = with_targets(rows, lambda i: " ; ".join(sets[i]))
    tasks = [load_task(save(lists, "moods.jsonl")), load_task(save(lists, "moods.parquet"))]
    tasks += [load_task(save(texts, "moods.csv"), kind="multi_label"), load_task(save(texts, "m.csv"), separator=";")]
    assert len({task.digest for task in tasks}) == 1
    assert tasks[0].spec.labels == ("9", "fear", "joy") and tasks[0].train.targets.shape[1] == 3
    wanted = {row["text"]: [name in row["label"] for name in ("9", "fear", "joy")] for row in lists}
    assert all(
        wanted[t] == y.astype(bool).tolist() for t, y in zip(tasks[0].test.texts, tasks[0].test.targets, strict=True)
    )
    assert "read as multi_label" in tasks[0].remarks[0] and "parted at ';'" in tasks[2].remarks[0]
    assert tasks[3].remarks == () and set(tasks[0].spec.summary(tasks[0].train.targets)) == {"9", "fear", "joy"}


def test_copies_that_differ_are_dropped_and_equal_ones_are_not(rows: Rows, save: Save) -> None:
    """Two numbers for one text contradict each other, however near; so do two sets of labels."""
    made = with_targets(rows, lambda i: i / 7)
    copies = [{**made[0]}, {**made[1], "label": made[1]["label"] + 1e-9}]
    report = load_task(save([*made, *copies])).report
    assert (report.exact_duplicates, report.conflicting_labels) == (1, 2)
    sets = with_targets(rows, lambda i: ["a", "b"][: 1 + i % 2])
    copies = [{**sets[0], "label": ["a"]}, {**sets[1], "label": ["a"]}, {**sets[3], "label": ["b", "a"]}]
    report = load_task(save([*sets, *copies], "sets.jsonl")).report
    assert (report.exact_duplicates, report.conflicting_labels) == (2, 2)


@pytest.mark.parametrize(
    ("kind", "target", "parts"),
    [
        ("regression", "four", ("row 3: target 'four'", "a number such as 3.5", "--kind")),
        ("regression", "3,5", ("row 3: target '3,5'",)),
        ("regression", "1_000", ("row 3: target '1_000'",)),
        ("regression", "", ("row 3: the target is missing",)),
        ("regression", "nan", ("row 3: target 'nan'", "finite")),
        ("regression", float("-inf"), ("row 3: target", "finite")),
        ("regression", True, ("row 3: target True",)),
        ("regression", [1.0], ("row 3: target [1.0]",)),
        ("regression", 10**400, ("row 3: target 1000", "finite")),
        ("regression", [], ("row 3: target []",)),
        ("classification", [], ("row 3: label []",)),
        ("multi_label", None, ("row 3: the labels are nothing", "write []")),
        ("multi_label", "joy", ("row 3: the labels are 'joy'", "a list")),
        ("multi_label", ["joy", "joy"], ("row 3: label 'joy' twice",)),
        ("multi_label", ["joy", " "], ("row 3: the label is missing",)),
        ("multi_label", [["joy"]], ("row 3: label ['joy'] of type list",)),
    ],
)
def test_one_bad_target_is_named_with_its_row(
    rows: Rows, save: Save, kind: str, target: object, parts: tuple[str]
) -> None:
    plain = {"regression": lambda i: i / 7, "classification": lambda i: "ab"[i % 2]}
    made = with_targets(rows, plain.get(kind, lambda i: ["joy", "fear"][: 1 + i % 2]))
    made[2]["label"] = target
    message = refusal(save(made, "bad.jsonl"), kind=kind)
    assert not [part for part in parts if part not in message], message


def test_options_and_splits_that_do_not_fit_are_refused(rows: Rows, save: Save) -> None:
    numbers, path = with_targets(rows, lambda i: i / 7), "numbers.csv"
    assert "--words" in refusal(save(numbers, path), kind="regression", words=("a", "b"))
    assert "--labels" in refusal(save(numbers, path), kind="regression", labels=("a", "b"))
    assert "--separator" in refusal(save(rows), kind="classification", separator=";")
    assert "--description" in refusal(save(rows), kind="multi_label", descriptions=("a", "b"))
    same = with_targets(rows, lambda i: 2)
    assert "the target is 2 in every item of train" in refusal(save(same), kind="regression")
    assert "1 labels ('x')" in refusal(save(with_targets(rows, lambda i: ["x"]), "x.jsonl"))
    rare = with_targets(rows, lambda i: ["a", "b"][: 1 + i % 2])
    assert "label 'c' is right for no item of train" in refusal(save(rare, "r.jsonl"), labels=("a", "b", "c"))
    assert "row 2: label 'b', expected one of a" in refusal(save(rare, "r.jsonl"), labels=("a", "c"))
    with pytest.raises(UnknownName, match="unknown kind of task 'regresion': did you mean 'regression'"):
        load_task(save(rows), kind="regresion")
    assert "--kind regression: expected classification" in refusal("rotten_tomatoes", kind="regression")


@pytest.mark.parametrize("columns", [("tokens", "ner_tags"), ("text", "label")])
def test_token_classification_is_refused_by_its_name(columns: tuple[str, str], tmp_path: Path, save: Save) -> None:
    text, label = columns
    made = [{text: ["a", "film", str(i)], label: [0, 1, 0]} for i in range(40)]
    message = refusal(save(made, "ner.jsonl"))
    assert "token classification (a tag for each token)" in message and "AutoModelForTokenClassification" in message


@pytest.mark.parametrize(
    ("targets", "kind", "said"),
    [
        (["a", "b", "1"], "classification", ""),
        (["0", "1", "1"], "classification", ""),
        ([True, False], "classification", ""),
        ([1, 2, 3, 4, 5], "classification", "--kind regression reads them as numbers"),
        ([str(i / 2) for i in range(21)], "classification", "--kind regression reads them as numbers"),
        ([str(i / 2) for i in range(23)], "regression", "23 different numbers"),
        ([0.5, 1, 1], "regression", "--kind classification"),
        (list(range(101)), "regression", "101 different numbers"),
        ([f"{i / 4}" for i in range(40)] + ["x"], "classification", ""),
        ([["a"], [], None], "multi_label", "lists"),
        ([float("nan"), 1, 0], "classification", "--kind regression"),
        (["", None], "classification", ""),
    ],
)
def test_the_kind_is_guessed_from_the_targets(targets: list[object], kind: str, said: str) -> None:
    found = guess_kind("x.csv", targets)
    assert found.kind == kind and said in found.remark and bool(said) is bool(found.remark)


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4), min_size=1), st.sampled_from(",;|"))
@settings(max_examples=50, deadline=None)
def test_a_separator_is_found_again(sets: list[list[str]], sign: str) -> None:
    texts = [f" {sign} ".join(own) for own in sets]
    assert label_sets("x", texts, None) == sets == label_sets("x", texts, sign)
    assert guess_separator(texts) == (sign if any(len(own) > 1 for own in sets) else None)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_they_are_written(value: float) -> None:
    assert as_number(repr(value)) == as_number(value) == value


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40).filter(lambda values: len({*values}) > 1))
@settings(max_examples=50, deadline=None)
def test_a_scale_is_numpys_and_of_no_order(values: list[float]) -> None:
    if np.std(values) < 1e-6:
        return
    found = Scale.of(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6) and found.deviation == pytest.approx(np.std(values))
    assert found.mean == Scale.of(values[::-1]).mean


def test_a_study_s_data_has_its_old_identity_where_nothing_new_is_said() -> None:
    old = {"source", "text", "label", "group", "labels", "words", "descriptions", "prompt"}
    assert Data(source="x.csv").identity.keys() == old
    assert Data(source="x.csv", kind="regression").identity.keys() == {*old, "kind"}
    with pytest.raises(UnknownName):
        Data(source="x.csv", kind="regresion")


def test_what_was_read_as_classes_is_read_as_before(rows: Rows, save: Save) -> None:
    """Named or guessed, the kind changes nothing of a classification."""
    path = save(with_targets(rows, lambda i: i % 5))
    guessed, named = load_task(path), load_task(path, kind="classification")
    assert guessed.digest == named.digest and guessed.spec == named.spec and guessed.spec.labels == tuple("01234")
    with pytest.raises(TaskRefused):
        load_task(save(with_targets(rows, lambda i: f"name {i}")))
