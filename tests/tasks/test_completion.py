"""Prompts and answers, and conversations, as they are read: what is asked, what answers it, what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.tasks import load_task
from peftport.tasks.chats import Chat, Turn, prompt_and_answer, read_template, turns_of
from peftport.tasks.kinds.completion import Completion

contents = st.text(min_size=1).filter(str.strip)
turns = st.tuples(st.sampled_from(["user", "assistant"]), contents).map(lambda pair: Turn(*pair))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def questions(n: int = 60) -> list[str]:
    return [f"What does the {noun} number {i} of the {place} do" for i, (noun, place) in enumerate(
        [(f"engine{k % 7}", f"ship{k % 11}") for k in range(n)]
    )]  # fmt: skip


@given(st.lists(turns, min_size=1, max_size=6))
def test_a_chat_is_a_text_and_keeps_its_turns(conversation: list[Turn]) -> None:
    chat = Chat(conversation)
    assert isinstance(chat, str) and chat.turns == tuple(conversation)
    assert all(turn.content in chat for turn in conversation)
    for again in (pickle.loads(pickle.dumps(chat)), copy.deepcopy(chat)):
        assert again == chat and again.turns == chat.turns
    assert turns_of(chat) == chat.turns
    assert turns_of("plain") == (Turn("user", "plain"),)


def test_messages_become_a_prompt_and_an_answer(tmp_path: Path) -> None:
    asked = questions()
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"It runs {i}"}]}
        for i, q in enumerate(asked)
    ]
    rows[0]["messages"][:0] = [{"role": "system", "content": "Be brief."}]
    task = load_task(written(tmp_path / "chat.jsonl", rows), text="messages", label="messages", kind="completion")
    spec = task.spec
    assert isinstance(spec, Completion) and spec.causal_prompt == "{text}\nAssistant:"
    found = {str(e): t for s in (task.train, task.valid, task.test) for e, t in zip(s.examples, s.targets, strict=True)}
    assert found[asked[5]] == ("It runs 5",)
    [chat] = [e for s in (task.train, task.valid, task.test) for e in s.examples if isinstance(e, Chat)]
    assert chat.turns == (Turn("system", "Be brief."), Turn("user", asked[0]))


def test_prompts_and_answers_with_several_references_and_numbers(tmp_path: Path) -> None:
    asked = questions()
    rows = [{"text": q, "label": [str(i), f"number {i}"] if i % 2 else i} for i, q in enumerate(asked)]
    task = load_task(written(tmp_path / "qa.jsonl", rows), kind="completion")
    found = {str(e): t for s in (task.train, task.valid, task.test) for e, t in zip(s.examples, s.targets, strict=True)}
    assert found[asked[3]] == ("3", "number 3") and found[asked[4]] == ("4",)
    assert task.spec.causal_prompt == "{text}\nAnswer:"
    summary = task.spec.summary(task.train.targets)
    assert summary["different answers"] == len(task.train)
    again = load_task(written(tmp_path / "other.jsonl", rows), kind="completion")
    assert again.digest == task.digest
    worded = load_task(str(tmp_path / "other.jsonl"), kind="completion", prompt="Q: {text} A:")
    assert worded.spec.causal_prompt == "Q: {text} A:" and worded.digest != task.digest
    assert load_task(str(tmp_path / "other.jsonl"), kind="completion", template="none").digest != task.digest


def test_an_instruction_and_its_input_are_one_prompt(tmp_path: Path) -> None:
    asked = questions()
    rows = [{"instruction": q, "input": "at sea" if i % 2 else "", "output": "yes"} for i, q in enumerate(asked)]
    task = load_task(written(tmp_path / "i.jsonl", rows), text="instruction,input", label="output", kind="completion")
    prompts = {str(e) for s in (task.train, task.valid, task.test) for e in s.examples}
    assert f"{asked[1]}\n\nat sea" in prompts and asked[2] in prompts


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER], "expected the assistant's turn at the end, which is the answer, got the turn of user"),
        ([ANSWER], "expected a user's turn before the answer"),
        ([], "expected a list of messages, got \\[\\]"),
        ("hello", "expected a list of messages, got 'hello'"),
        ([USER, {"role": "assistant"}], "message 2: expected a role and a content"),
        (
            [USER, {"role": "robot", "content": "b"}],
            "message 2: expected a role of system, user, assistant, got 'robot'",
        ),
        ([USER, {"role": "assistant", "content": " "}], "message 2: expected a text as content, got ' '"),
        ([USER, {"role": "assistant", "content": None}], "message 2: expected a text as content, got None"),
    ],
)
def test_messages_that_are_refused_name_the_row(messages: object, problem: str) -> None:
    with pytest.raises(TaskRefused, match=f"chat.jsonl, row 7.*{problem}"):
        prompt_and_answer("chat.jsonl", 7, messages)


@pytest.mark.parametrize("answer", ["", "  ", None, [], ["good", ""], {"a": 1}, True])
def test_an_answer_that_is_none_is_refused_with_its_row(answer: object, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": q, "label": "x"} for q in questions()]
    rows[41]["label"] = answer
    with pytest.raises(TaskRefused, match="row 42: expected an answer, a text or a list of texts, got"):
        load_task(written(tmp_path / "qa.jsonl", rows), kind="completion")


def test_templates_are_read_and_refused(tmp_path: Path) -> None:
    good, bad, other = tmp_path / "good.jinja", tmp_path / "bad.jinja", tmp_path / "other.jinja"
    good.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    bad.write_text("{% for m in messages %}")
    other.write_text("hello")
    assert read_template(str(good)) == good.read_text() and read_template(None) is None
    assert [read_template(word) for word in ("auto", "none")] == ["auto", "none"]
    for path, problem in ((bad, "Unexpected end of template"), (other, "which names messages"), ("nosuch", "No such")):
        with pytest.raises(TaskRefused, match=f"--template {path}: expected auto, none or a file.*{problem}"):
            read_template(str(path))
    with pytest.raises(TaskRefused, match="--template: expected a task of kind completion, got classification"):
        load_task(
            written(tmp_path / "r.jsonl", [{"text": q, "label": len(q) % 2} for q in questions()]), template="none"
        )
    with pytest.raises(TaskRefused, match="--labels: expected none for prompts and answers"):
        load_task(written(tmp_path / "q.jsonl", [{"text": q, "label": "x"} for q in questions()]), kind="completion",
                  labels=("x", "y"))  # fmt: skip


def test_prompts_of_one_template_are_no_copies_unless_their_answers_are(tmp_path: Path) -> None:
    """All say the same system message, and prompts differ in a number only; what is near and answered alike is one."""
    system = {
        "role": "system",
        "content": "You convert numbers, given in words, to digits and say nothing else at all.",
    }

    def row(number: int, answer: str) -> dict[str, Any]:
        asked = f"Which digits are meant by the word that stands on place {number} of the long list of all words known"
        return {"messages": [system, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}

    apart = load_task(written(tmp_path / "apart.jsonl", [row(i, f"it is {i}") for i in range(80)]))
    assert apart.spec.kind == "completion" and apart.report.near_duplicates == 0
    assert sum(map(len, (apart.train, apart.valid, apart.test))) == 80
    with pytest.raises(TaskRefused, match="no item is left"):
        load_task(written(tmp_path / "alike.jsonl", [row(i, "it is none") for i in range(80)]))


@pytest.mark.parametrize(
    ("columns", "remark"),
    [
        (
            {"prompt": "q", "completion": "a"},
            "guessed prompts from column prompt (--text), answers from column completion",
        ),
        (
            {"instruction": "q", "output": "a", "input": ""},
            "guessed prompts from columns instruction and input (--text)",
        ),
        ({"question": "q", "answer": "a"}, "guessed prompts from column question (--text), answers from column answer"),
    ],
)
def test_usual_columns_are_prompts_and_answers(columns: dict[str, str], remark: str, tmp_path: Path) -> None:
    rows = [{k: {"q": q, "a": f"answer {i}"}.get(v, v) for k, v in columns.items()} for i, q in enumerate(questions())]
    task = load_task(written(tmp_path / "some.jsonl", rows))
    assert task.spec.kind == "completion" and remark in task.remarks[0]
