"""What a host does not read is said: texts that are cut, by how much and what to set; prompts that do not act."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.core.errors import TaskRefused
from peftport.hosts.host import Host
from peftport.objectives import bind_objective
from peftport.objectives.cuts import CutTexts
from peftport.porting.alignment.words import read
from peftport.porting.base import PortCache
from peftport.tasks.chats import Chat, Turn
from peftport.tasks.columns import Wording
from peftport.tasks.kinds.classification import own_spec
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.kinds.regression import RegressionTask
from peftport.tasks.task import Dropped, Split, Task
from peftport.training.bound_task import BoundTask
from peftport.training.loop import TrainSettings
from peftport.workflows.port_inputs import cut_in_ports, cut_remarks
from pico import TOY, WORDS, pico_host

words = st.lists(st.sampled_from(WORDS[:8]), min_size=1, max_size=12).map(" ".join)
NUMBERS = RegressionTask.worded(name="sts", prompt="{a} {b}", causal_prompt="{a} {b}", domain="sts", fields=("a", "b"))


@given(st.lists(words, min_size=1, max_size=9), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("readout", ["linear", "prototype", "label_tokens"])
def test_tokens_that_are_cut_are_counted_once_a_text(readout: str, texts: list[str], limit: int) -> None:
    view: Any = "language_model" if readout == "label_tokens" else "body"
    objective = bind_objective(readout, pico_host("bert", view=view), TOY, max(limit, 4))
    lengths = [len(text.split()) for text in set(texts)]
    lost = [max(0, length - max(limit, 4)) for length in lengths]
    for _ in range(2):
        objective.encode(texts)
    expected = CutTexts(len(lengths), sum(map(bool, lost)), sum(lengths), sum(lost), max(lengths))
    assert objective.cuts.total() == objective.cut_of(texts) == expected
    found = expected.sentence(4)
    assert (found == "") == (not any(lost))


def test_pairs_and_texts_that_are_read_apart() -> None:
    host = pico_host("bert", view="body")
    pair = ("the film was good it is fine", "bad")  # 7 and 1 words
    apart, together = (bind_objective(name, host, NUMBERS, 4).cut_of([pair]) for name in ("cosine", "linear"))
    assert apart == CutTexts(texts=2, cut=1, tokens=8, lost=3, longest=7)
    assert together == CutTexts(texts=1, cut=1, tokens=8, lost=4, longest=8)


@given(st.lists(words, min_size=1, max_size=9, unique=True), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_texts_of_which_activations_are_compared(texts: list[str], limit: int) -> None:
    """The first words are read and the others counted, with a prefix and special tokens around them that stay."""
    host = pico_host("bert", view="body")
    prefixed = Host(**{**host.__dict__, "text_prefix": "review is "})
    shared = PortCache()
    for reader in (host, prefixed):
        reading = read(reader, texts, limit)
        shared.note(reader, dict(zip(texts, reading.lengths, strict=True)))
        kept = {(text, word) for text, own in enumerate(texts) for word in range(min(limit, len(own.split())))}
        assert reading.tokens.keys() == kept
    lengths = [len(text.split()) for text in texts]
    lost = [max(0, length - limit) for length in lengths]
    expected = CutTexts(len(lengths), sum(map(bool, lost)), sum(lengths), sum(lost), max(lengths))
    assert list(cut_in_ports(shared).values()) == ([expected] * 2 if any(lost) else [])
    for remark in cut_remarks(shared, limit):
        assert remark == f"pico-bert, where activations are compared: {expected.sentence(limit)}"


def test_no_more_is_read_for_activations_than_the_host_has_positions_for() -> None:
    host, shared = pico_host("bert", view="body", max_position_embeddings=20), PortCache()
    texts = ["good " * 40]
    shared.note(host, {texts[0]: read(host, texts, 30).lengths[0]})
    assert read(host, texts, 30).length == 20 and read(pico_host("bert"), ["good " * 200]).length == 96
    [remark] = cut_remarks(shared, 30)
    assert "50% of all tokens are not read" in remark and remark.endswith("this host cannot read more")


def test_turns_that_are_left_out_count() -> None:
    task = Completion.worded(name="qa", domain="qa", prompt="{text}", causal_prompt="{text}")
    objective = bind_objective(None, pico_host("llama"), task, 5)
    chat = Chat([Turn("user", "good film good film"), Turn("assistant", "fine"), Turn("user", "bad plot")])
    assert objective.cut_of([chat, "it was fine"]) == CutTexts(texts=2, cut=1, tokens=10, lost=4, longest=7)


def test_what_to_set_is_what_the_host_can_read() -> None:
    """At the limit that is named nothing is cut, or the row is as long as the host's table of positions."""
    short, long = "good " * 9, "bad " * 40
    for positions, remedy in ((512, 40), (20, 20), (4, None)):
        host = pico_host("bert", view="body", max_position_embeddings=positions)
        objective = bind_objective("linear", host, TOY, 4)
        said = objective.cut_of([short, long]).sentence(4, most=objective.most_tokens())
        assert said.startswith(
            "2 of 2 texts were cut at --max-tokens 4: 84% of all tokens are not read, and the longest"
        )
        if remedy is None:
            assert said.endswith("this host cannot read more")
            continue
        assert f"--max-tokens {remedy} keeps" in said
        again = bind_objective("linear", host, TOY, remedy)
        assert max(map(len, again.encode([short, long]))) <= positions
        assert bool(again.cut_of([short, long]).cut) == (positions == 20)
    assert bind_objective("linear", pico_host("llama", view="body"), TOY, 4).most_tokens() is None
    assert bind_objective("linear", pico_host("t5", view="body"), TOY, 4).most_tokens() is None
    roberta = pico_host("roberta", view="body", max_position_embeddings=20)
    longest = bind_objective("linear", roberta, TOY).most_tokens()
    assert longest == 19 and roberta.base.embeddings.position_embeddings.num_embeddings == 20


def bound(host: Any, readout: str, task: Any) -> BoundTask:
    split = Split(("0", "1"), ("good film", "the plot was dull . it was bad"), np.array([1, 0]))
    return BoundTask(
        host, Task(task, split, split, split, Dropped()), bind_objective(readout, host, task, 5), TrainSettings()
    )


def test_a_bound_task_says_it_of_what_was_read() -> None:
    bench = bound(pico_host("bert", view="body"), "linear", TOY)
    assert bench.remarks == ()
    bench.test(None, [])
    assert bench.remarks == (
        "pico-bert: 1 of 2 texts was cut at --max-tokens 5: 30% of all tokens are not read, and the longest text has "
        "8; --max-tokens 8 keeps all",
    )


PROMPTS = {
    "plain": "say {text} now",
    "filled": "{text} it is {mask} .",
    "masked": "it is {mask} : {text}",
}
READ = {  # what each kind of host reads of a text X; None: as without a prompt
    ("bert", "plain"): None, ("t5", "plain"): "say X now", ("llama", "plain"): "say X now",
    ("bert", "filled"): "X it is <mask> .", ("t5", "filled"): "X it is", ("llama", "filled"): "X it is",
    ("bert", "masked"): "it is <mask> : X", ("t5", "masked"): None, ("llama", "masked"): None,
}  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model_type", ["bert", "t5", "llama"])
def test_a_prompt_acts_on_every_kind_of_host_or_it_is_said(model_type: str, prompt: str) -> None:
    host = pico_host(model_type)
    plain = own_spec("own", ("no", "yes"), Wording(words=("bad", "good")))
    own = own_spec("own", ("no", "yes"), Wording(words=("bad", "good"), prompt=PROMPTS[prompt]))
    said = bind_objective("label_tokens", host, own).wording("X")
    unprompted = bind_objective("label_tokens", host, own).unprompted()
    expected = READ[model_type, prompt]
    assert said == (expected or bind_objective("label_tokens", host, plain).wording("X"))
    assert unprompted.startswith("--prompt does not act here: pico-") == (expected is None)
    assert bind_objective("label_tokens", host, plain).unprompted() == ""
    assert bound(host, "label_tokens", own).remarks[:1] == ((unprompted,) if unprompted else ())
    assert "reads the texts alone" in bind_objective("linear", host, own).unprompted()
    assert own.identity() | {"prompt": 0, "causal_prompt": 0, "masked_prompt": 0} == plain.identity() | {
        "prompt": 0, "causal_prompt": 0, "masked_prompt": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("it is {mask} or {mask}: {text}", "expected {mask} in it once"),
        ("it is {mask}", r"expected \{text\} in it"),
        ("{text} {words}", r"got \{words\} too"),
    ],
)
def test_a_prompt_that_does_not_fit(prompt: str, says: str) -> None:
    with pytest.raises(TaskRefused, match=says):
        own_spec("own", ("no", "yes"), Wording(prompt=prompt))


def test_a_mask_in_the_prompt_of_another_kind_of_task() -> None:
    with pytest.raises(TaskRefused, match="--prompt with {mask}: expected none for a task of kind regression"):
        NUMBERS.reworded(Wording(prompt="{a} {b} {mask}"))
