"""Pairs of texts as a task: read, worded, split without leaks, and refused in one line where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused, UnknownName
from peftport.tasks import Task, leaks, load_task
from peftport.tasks.columns import Wording
from peftport.tasks.duplicates import near_examples
from peftport.tasks.kinds.classification import own_spec
from peftport.tasks.split import Items, key_of, make_task

from .conftest import Rows, made_up_rows
from .test_files import refusal

Save = Callable[..., str]
PAIR = ("premise", "hypothesis")
SPLITS = ("train", "valid", "test")
SPEC = own_spec("made-up", ("no", "yes"), Wording(), PAIR)


def made_up_pairs(n: int = 200) -> Rows:
    """n pairs of random words; every premise is that of four hypotheses."""
    premises, hypotheses = made_up_rows(n // 4, seed=1), made_up_rows(n, seed=2, words=8)
    return [
        {"premise": premises[i % len(premises)]["text"], "hypothesis": row["text"], "label": row["label"]}
        for i, row in enumerate(hypotheses)
    ]


@pytest.fixture
def pairs() -> Rows:
    return made_up_pairs()


def test_three_formats_and_both_ways_to_name_columns_are_one_task(pairs: Rows, save: Save) -> None:
    files = [save(pairs, f"pairs.{suffix}") for suffix in ("csv", "jsonl", "parquet")]
    tasks = [load_task(file, text=text) for file in files for text in (PAIR, list(PAIR), "premise,hypothesis")]
    assert len({task.digest for task in tasks}) == 1
    assert tasks[0].spec.fields == PAIR
    kept = {example: label for s in parts(tasks[0]) for example, label in zip(s.examples, s.targets, strict=True)}
    assert kept == {(row["premise"], row["hypothesis"]): row["label"] == "positive" for row in pairs}
    assert tasks[0].train.texts[0] == " ".join(tasks[0].train.examples[0])


def parts(task: Task) -> list:  # type: ignore[type-arg]
    return [getattr(task, name) for name in SPLITS]


def test_the_order_of_columns_and_rows(pairs: Rows, save: Save) -> None:
    """Rows may come in any order; which text is the first one matters."""
    one = load_task(save(pairs), text=PAIR)
    assert load_task(save(pairs[::-1], "backwards.csv"), text=PAIR).digest == one.digest
    assert load_task(save(pairs, "swapped.csv"), text=PAIR[::-1]).digest != one.digest


def test_default_and_own_wording(pairs: Rows, save: Save) -> None:
    spec = load_task(save(pairs), text=PAIR).spec
    example = ("P {hypothesis}", "H {mask} {premise}")  # what looks like a field in a text is none
    assert spec.prompt_for(example) == (
        "Classify as negative or positive. Premise: P {hypothesis} Hypothesis: H {mask} {premise}"
    )
    assert spec.causal_prompt_for(example) == "Premise: P {hypothesis}\nHypothesis: H {mask} {premise}\nLabel:"
    assert spec.masked_prompt_for(example, "[M]") == ("P {hypothesis}", "H {mask} {premise} This is [M].")  # type: ignore[attr-defined]
    own = load_task(save(pairs), text=PAIR, prompt="{hypothesis}? Given {premise}:").spec
    assert own.prompt_for(("p", "h")) == own.causal_prompt_for(("p", "h")) == "h? Given p:"


def test_one_named_column_is_a_single_text(pairs: Rows, save: Save) -> None:
    """By whatever name: in prompts it is {text}, as before there were pairs."""
    task = load_task(save(pairs), text="hypothesis")
    assert task.spec.fields == ("text",)
    assert set(task.train.examples) < {row["hypothesis"] for row in pairs}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("premise,sentence", "no column 'sentence', expected one of those present (premise, hypothesis, label)"),
        ("sentence,hypothesis", "no column 'sentence'"),
        ("a,b,c", "--text a,b,c: 3 columns, expected one, or two for pairs of texts"),
        ("premise,", "--text premise,: expected a column, or two different ones"),
        ("premise,premise", "--text premise,premise: expected a column, or two different ones"),
        ((), "--text : expected a column"),
        ("premise,mask", "expected names that can stand in a prompt as {name}, not mask"),
    ],
)
def test_columns_that_make_no_pair(pairs: Rows, save: Save, text: str, message: str) -> None:
    assert message in refusal(save(pairs), text=text)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("field", PAIR)
@pytest.mark.parametrize("empty", ["", " \t", None])
def test_an_empty_text_is_named_by_row_and_field(
    pairs: Rows, save: Save, suffix: str, field: str, empty: str | None
) -> None:
    pairs[6][field] = empty
    assert f"pairs.{suffix}, row 7: the {field} is empty" in refusal(save(pairs, f"pairs.{suffix}"), text=PAIR)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Given {premise}", "expected {hypothesis} in it"),
        ("{text} or {premise}", "expected {hypothesis} in it"),
        ("{premise} {hypothesis} {text}", "expected {premise} and {hypothesis} in it, got {text} too"),
    ],
)
def test_a_prompt_that_lacks_a_field_or_has_another(pairs: Rows, save: Save, prompt: str, message: str) -> None:
    assert message in refusal(save(pairs), text=PAIR, prompt=prompt)


def test_a_prompt_of_single_texts_with_a_pair_s_fields(rows: Rows, save: Save) -> None:
    assert "expected {text} in it, got {hypothesis} too" in refusal(save(rows), prompt="{text} {hypothesis}")


def test_an_unknown_kind(rows: Rows, save: Save) -> None:
    with pytest.raises(UnknownName, match="unknown kind of task 'clasification': did you mean 'classification'"):
        load_task(save(rows), kind="clasification")


def random_pairs(seed: int, n: int = 150) -> tuple[tuple[tuple[str, str], ...], list[int]]:
    """Pairs of which many repeat both fields or one of an earlier one, whole or with a word changed."""
    rng = np.random.default_rng(seed)
    made: list[tuple[str, str]] = []
    for _ in range(n):
        fields = []
        for field in range(2):
            words = [f"w{k}" for k in rng.integers(0, 60, rng.integers(2, 20))]
            if made and rng.random() < 0.6:
                words = made[-1 - int(rng.integers(min(len(made), 4)))][field].split()
                if rng.random() < 0.7:
                    words[rng.integers(len(words))] = f"w{rng.integers(60)}"
            fields.append(" ".join(words))
        made.append((fields[0], fields[1]))
    return tuple(made), [int(k) for k in rng.integers(0, 2, n)]


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_no_pair_straddles_splits(seed: int) -> None:
    """No near-duplicate of a pair is in another split; each pair is there once, and pairs that share a text may be."""
    examples, labels = random_pairs(seed)
    try:
        task = make_task(SPEC, Items(examples, np.array(labels)))
    except TaskRefused as refused:  # rarely too few are left
        assert "has no item in" in str(refused)
        return
    keys = {name: [key_of(example) for example in getattr(task, name).examples] for name in SPLITS}
    assert not near_examples(keys["train"], keys["valid"] + keys["test"]).any()
    assert not near_examples(keys["valid"], keys["test"]).any()
    assert leaks(task.train, task.test) == 0
    every = [key for part in keys.values() for key in part]
    assert len(set(every)) == len(every)


def test_duplicates_are_told_by_both_fields(save: Save) -> None:
    rows = made_up_pairs()
    rows += [dict(premise="Same thing!", hypothesis="Other.", label=label) for label in ("negative", "positive")]
    rows += [dict(premise=p, hypothesis="Twice, seen", label="positive") for p in ("One more.", "one MORE")]
    report = load_task(save(rows), text=PAIR).report
    assert (report.conflicting_labels, report.exact_duplicates, report.near_duplicates) == (2, 1, 0)


def test_pairs_of_a_data_set_folder(tmp_path: Path) -> None:
    """As of the hub: rows with an empty text in either field are left out, and counted."""
    rows = made_up_pairs(120)
    rows[5]["hypothesis"], rows[9]["premise"] = "", " "
    folder = tmp_path / "nli"
    folder.mkdir()
    for split, begin, end in (("train", 0, 80), ("validation", 80, 100), ("test", 100, 120)):
        text = "\n".join(",".join(row.values()) for row in [dict(zip(rows[0], rows[0], strict=True)), *rows[begin:end]])
        (folder / f"{split}.csv").write_text(text + "\n", encoding="utf-8")
    task = load_task(str(folder), text=PAIR)
    assert task.spec.fields == PAIR and task.report.empty_texts == 2
    assert set(task.test.examples) == {(row["premise"], row["hypothesis"]) for row in rows[100:]}
    assert "no column 'other'" in refusal(str(folder), text=("premise", "other"))
