"""Prompts and answers through the Python interface: train, evaluate, compare, a page; nothing is cut in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import peftport
from peftport.core.errors import BadRequest, TaskRefused
from peftport.tasks import Task, load_task
from peftport.training.bound_task import bind_task
from peftport.training.loop import TrainSettings
from peftport.workflows.reading import reading_of
from pico import WORDS


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Prompts of words; the answer is the last of them."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    texts = [" ".join(rng.permutation(WORDS[:14])[: rng.integers(4, 9)]) for _ in range(120)]
    path.write_text("".join(json.dumps({"text": t, "label": t.split()[-1]}) + "\n" for t in texts), encoding="utf-8")
    return load_task(str(path), kind="completion")


@pytest.mark.parametrize("host", ["llama", "t5"])
def test_answers_are_trained_evaluated_and_compared(
    host: str, hosts: dict[str, Path], questions: Task, tmp_path: Path
) -> None:
    short = {"max_tokens": 24, "test_items": 12}
    trained = peftport.train(
        hosts[host], questions, "lora", out=tmp_path / "m", steps=30, learning_rate=1e-2, generate=4, **short
    )
    bare, own = (test.measures()["negative_log_likelihood"] for test in (trained.bare, trained.scores))
    assert bare is not None and own is not None and own < bare
    assert trained.accuracy is None and "majority" in trained.as_json()
    again = peftport.evaluate(hosts[host], questions, module=tmp_path / "m", generate=4, **short)
    assert again.scores.values["text"].tolist() == trained.scores.values["text"].tolist()
    assert sum(text is not None for text in again.scores.values["text"]) == 4
    assert "negative_log_likelihood" in again.as_json() and again.as_json()["n_items"] == 12
    with pytest.raises(BadRequest, match="--metric accuracy: expected one that measures a task of kind completion"):
        peftport.evaluate(hosts[host], questions, module=tmp_path / "m", metric="accuracy", **short)
    compared = peftport.compare(
        tmp_path / "m", to=hosts[f"{host}-updated"], task=questions, budgets=(0, 2), seeds=2, batch_size=8, generate=3,
        metric="negative_log_likelihood", out=tmp_path / "page.html", **short,
    )  # fmt: skip
    document = compared.as_json()
    assert {row["arm"] for row in document["rows"]} == {"ported", "sampled", "scratch"}
    assert all(isinstance(row["negative_log_likelihood"], float) for row in document["rows"])
    assert document["metric"]["name"] == "negative_log_likelihood"
    assert "negative log-likelihood" in (tmp_path / "page.html").read_text(encoding="utf-8").lower()
    assert [row["seed"] for row in document["few_shot"]] == [0, 1] and document["plan"]["shots"] == 4
    assert all(isinstance(row["negative_log_likelihood"], float) for row in document["few_shot"])
    assert "bare host that reads 4 examples in its prompt" in document["few_shot_summary"]
    assert document["few_shot_summary"] in compared.lines()
    first = {row["who"]: row["answer"] for row in document["answers"] if row["item"] == 1}
    assert first["reference"] == questions.test.targets[0][0]
    assert set(first) == {
        "reference", "bare host", "bare host, 4 examples in its prompt", "ported, 0 steps", "ported, 2 steps",
        "scratch, 0 steps", "scratch, 2 steps",
    }  # fmt: skip
    assert document["answers"][0]["prompt"] == questions.test.texts[0]
    assert any("answers at home are not shown" in remark for remark in compared.remarks())
    home = peftport.compare(
        tmp_path / "m", to=hosts[f"{host}-updated"], from_=hosts[host], task=questions, budgets=(0,), seeds=1,
        arms=("ported",), shots=0, generate=2, **short,
    ).as_json()  # fmt: skip
    assert home["few_shot"] == [] and {row["who"] for row in home["answers"]} == {
        "reference", "bare host", "ported, 0 steps", f"{host}, where it was trained",
    }  # fmt: skip


def test_what_cannot_answer_is_refused(hosts: dict[str, Path], questions: Task) -> None:
    with pytest.raises(BadRequest, match="needs a host that generates"):
        peftport.evaluate(hosts["bert"], questions)
    with pytest.raises(TaskRefused, match="answers have more than 1 tokens"):
        peftport.evaluate(hosts["llama"], questions, max_tokens=1)


def test_examples_in_the_prompt_are_for_answers(
    hosts: dict[str, Path], modules: dict[str, Path], reviews: Path, questions: Task, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="--shots 2: expected a task of kind completion, got classification"):
        peftport.compare(modules["lora"], to=hosts["bert-updated"], task=reviews, budgets=(0,), seeds=1, shots=2)


def test_tasks_show_what_a_host_reads(hosts: dict[str, Path], reviews: Path, questions: Task, tmp_path: Path) -> None:
    """The tokens that training encodes, special ones included; the answer apart; without the weights."""
    for name in ("llama", "t5"):
        bare = shutil.copytree(hosts[name], tmp_path / name)
        reading = reading_of(questions, str(bare), None, 24)
        bound = bind_task(str(hosts[name]), questions, settings=TrainSettings(max_tokens=24))
        rows = bound.readout.encode_split(questions.train.head(3)).rows
        decode = bound.host.tokenizer.decode
        assert [one.text for one in reading.examples] == [decode(row) for row in rows]
        assert [one.answer for one in reading.examples] == [decode(row.target) for row in rows]  # type: ignore[attr-defined]
        assert reading.readout == "answer_tokens"
    for readout in ("prototype", "linear", "label_tokens"):
        reading = reading_of(load_task(str(reviews)), str(hosts["bert"]), readout, 24)
        assert all(one.answer is None and one.tokens > 1 for one in reading.examples)
