"""Files of the package `evals`: what is read of lines like theirs, what is refused, and the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.hosts.offline.catalogue import offline_catalogue, offline_text_folder
from peftport.tasks.chats import Turn
from peftport.tasks.evals_files import Sample, read_corr2cause, read_headlines, read_samples
from peftport.tasks.sources import TASKS
from peftport.tasks.split import make_task

SYSTEM = {"role": "system", "content": "Answer the question."}
TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


def sample(content: str, ideal: Any, **more: Any) -> dict[str, Any]:
    return {"input": [SYSTEM, {"role": "user", "content": content}], "ideal": ideal, **more}


def written(path: Path, rows: list[Any], end: str = "\n") -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end, encoding="utf-8")
    return str(path)


@given(rows=st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_what_was_written_is_read(rows: list[tuple[str, list[str]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Messages as they are, answers without outer spaces; lines are ended by line feeds only, whatever is in a text."""
    path = tmp_path_factory.mktemp("evals") / "samples.jsonl"
    found = read_samples(written(path, [sample(content, ideal) for content, ideal in rows]))
    system = Turn("system", "Answer the question.")
    assert found == [
        Sample((system, Turn("user", content)), tuple(each.strip() for each in ideal)) for content, ideal in rows
    ]


def test_one_answer_or_several_other_keys_and_a_last_line_without_an_end(tmp_path: Path) -> None:
    rows = [sample("Where is it?", " Bakers"), sample("How much?", ["0.1"], deception=False)]
    path = written(tmp_path / "samples.jsonl", rows, end="")
    assert [each.ideal for each in read_samples(path)] == [("Bakers",), ("0.1",)]


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("{", "got Expecting"),
        ("[]", "got list"),
        ('{"input": []}', "got an object without them"),
        (json.dumps({"input": [], "ideal": "x"}), r"got the input \[\]"),
        (json.dumps({"input": "text", "ideal": "x"}), 'got the input "text"'),
        (json.dumps({"input": [{"role": "tool", "content": "x"}], "ideal": "x"}), "got the message"),
        (json.dumps({"input": [{"role": "user", "content": " "}], "ideal": "x"}), "got the message"),
        (json.dumps({"input": [{"role": "user"}], "ideal": "x"}), "got the message"),
        (json.dumps(sample("x", " ")), 'got the answer " "'),
        (json.dumps(sample("x", [])), r"got the answer \[\]"),
        (json.dumps(sample("x", 3)), "got the answer 3"),
    ],
)
def test_a_line_that_is_no_sample_is_named(line: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(sample("a", "b")) + "\n\n" + line, encoding="utf-8")
    with pytest.raises(TaskRefused, match=f"samples.jsonl, line 3: expected an object with input .*{got}") as refusal:
        read_samples(path)
    assert "\n" not in str(refusal.value)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text("\n")
    with pytest.raises(TaskRefused, match="no samples"):
        read_samples(tmp_path / "samples.jsonl")


# --- the two classification tasks ------------------------------------------------------------------------------------


def test_headlines_are_the_last_message_and_one_is_sarcastic(tmp_path: Path) -> None:
    spec = TASKS["headlines"].spec
    path = written(tmp_path / "samples.jsonl", [sample("area man sleeps", "1"), sample("senate votes", "0")])
    items = read_headlines(path, spec)
    assert items.examples == ("area man sleeps", "senate votes")
    assert [spec.labels[target] for target in items.targets] == ["sarcastic", "serious"]
    with pytest.raises(TaskRefused, match=r"sample 1: answer '2', expected one for serious, sarcastic"):
        read_headlines(written(tmp_path / "samples.jsonl", [sample("area man sleeps", "2")]), spec)


def causal(premise: str, hypothesis: str, label: str) -> dict[str, Any]:
    return sample(f"Premise: {premise} Hypothesis: {hypothesis}", f"Answer: {label}")


def test_pairs_are_grouped_by_premise(tmp_path: Path) -> None:
    """All hypotheses of a premise lie in one split; a repeated pair is in it once."""
    spec = TASKS["corr2cause"].spec
    rows = [
        causal(f"w{p} {' '.join(f'v{p * 7 + k}' for k in range(9))}.", f"h{p} {h} g{p * 31 + h}.", spec.labels[h % 3])
        for p in range(40)
        for h in range(3)
    ]
    path = written(tmp_path / "corr2cause.jsonl", [*rows, *rows[:5]])
    items = read_corr2cause(path, spec)
    assert items.examples[0] == ("w0 v0 v1 v2 v3 v4 v5 v6 v7 v8.", "h0 0 g0.")
    assert [spec.labels[target] for target in items.targets[:3]] == ["contradiction", "neutral", "entailment"]
    task = make_task(spec, items)
    homes = [{premise for premise, _ in split.examples} for split in (task.train, task.valid, task.test)]
    assert all(homes) and sum(map(len, homes)) == 40 and task.report.exact_duplicates == 5


@pytest.mark.parametrize(
    ("row", "got"),
    [
        (sample("Premise: p", "Answer: neutral"), "sample 1: expected Premise: ... Hypothesis: ..., got 'Premise: p'"),
        (sample("p Hypothesis: h", "Answer: neutral"), "sample 1: expected Premise: ... Hypothesis: ..., got 'p'"),
        (
            causal("p", "h", "unknown"),
            "sample 1: answer 'unknown', expected one for contradiction, neutral, entailment",
        ),
    ],
)
def test_what_is_no_pair_is_refused(row: dict[str, Any], got: str, tmp_path: Path) -> None:
    with pytest.raises(TaskRefused, match=got):
        read_corr2cause(written(tmp_path / "corr2cause.jsonl", [row]), TASKS["corr2cause"].spec)


# --- the real files --------------------------------------------------------------------------------------------------

# Samples, different inputs among them, different answers.
REAL = {
    "sarcasm/samples.jsonl": (28614, 28498, 2),
    "corr2cause/corr2cause.jsonl": (2246, 1522, 3),
    "theory_of_mind/tomi/test.jsonl": (5993, 5993, 13),
    "imperial_date_to_string/samples.jsonl": (1000, 1000, 1000),
    "soc_codes/samples.jsonl": (1998, 1975, 649),
    "resistor_ohm_calculator/samples.jsonl": (1080, 1080, 1080),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_what_is_said_of_them(name: str) -> None:
    found = read_samples(offline_text_folder("evals") / name)
    assert (len(found), len({s.messages for s in found}), len({s.ideal for s in found})) == REAL[name]
    assert {s.messages[-1].role for s in found} == {"user"} and {len(s.ideal) for s in found} == {1}


@pytest.mark.real
def test_no_real_file_is_left_out() -> None:
    spec: Any = offline_catalogue().texts["evals"]
    assert {f"{spec.below}/{name}" for name in REAL} == set(spec.files)
