"""Pairs of texts on hosts: the tokenizer's own pairs on encoders, prompts elsewhere; stacked as alone; learnt."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftport.core.errors import BadRequest, TaskRefused
from peftport.hosts.host import Host
from peftport.modules.module import HEAD
from peftport.objectives import bind_objective, objective_for
from peftport.objectives.base import Objective, PairRow
from peftport.tasks.columns import Wording
from peftport.tasks.kinds.classification import own_spec
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques import make_spec
from peftport.training.bound_task import BoundTask, Start
from peftport.training.evaluation import score_entries
from peftport.training.loop import TrainSettings
from peftport.workflows.distill import DistillOptions, distill
from pico import SPECIAL, SPECS, TOY, WORDS, pico_host, random_matrices

PAIR = ("premise", "hypothesis")
NLI = own_spec("nli", ("no", "yes"), Wording(words=("bad", "good")), PAIR)
GOOD, BAD = ("good", "great", "fine", "positive"), ("bad", "terrible", "dull", "negative")
VIEWS: dict[str, Any] = {"linear": "body", "label_tokens": "language_model"}
Pair = tuple[str, str]


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as BERT has one: ``<s> first </s> second </s>`` with token types, and pieces of words."""
    words = ["##good", "##ly", "##s", "##ish", "##b", "un"]
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS[: len(WORDS) - len(words)], *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 4))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@cache
def host_of(model_type: str, view: Any = "body", dtype: torch.dtype = torch.float64, **changes: int) -> Host:
    host = pico_host(model_type, view=view, dtype=dtype, **changes)
    object.__setattr__(host, "tokenizer", pair_tokenizer()) if host.kind == "encoder" else None
    return host


def texts(n: int, seed: int) -> tuple[tuple[Pair, ...], np.ndarray[Any, np.dtype[np.int64]]]:
    """Pairs whose label says whether both texts are of one mood, so that one text alone says nothing."""
    rng = np.random.default_rng(seed)
    moods = rng.integers(0, 2, (n, 2))
    word = [[str(rng.choice(GOOD if mood else BAD)) for mood in row] for row in moods]
    filler = [["film", "the plot"][int(k)] for k in rng.integers(0, 2, n)]
    pairs = tuple((f"{start} {a}", b) for start, (a, b) in zip(filler, word, strict=True))
    return pairs, (moods[:, 0] == moods[:, 1]).astype(np.int64)


def split(n: int, seed: int, field: int | None = None) -> Split:
    examples, labels = texts(n, seed)
    own = examples if field is None else tuple(example[field] for example in examples)
    return Split(tuple(map(str, range(n))), own, labels)


def bound(model_type: str, readout: str, dtype: torch.dtype = torch.float64, **changes: int) -> BoundTask:
    host = host_of(model_type, VIEWS[readout], dtype, **changes)
    task = Task(NLI, split(80, 0), split(20, 1), split(40, 2), Dropped())
    return BoundTask(host, task, bind_objective(readout, host, NLI, 16), TrainSettings(batch_size=4))


words = st.lists(st.sampled_from([*WORDS[:8], "goodly", "filmsish", "badly"]), min_size=1, max_size=12).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_pairs_are_encoded_as_the_tokenizer_does(pairs: list[Pair], limit: int) -> None:
    """Ids and token types, and the longer text cut first."""
    host = host_of("bert")
    rows = bind_objective("linear", host, NLI, limit).encode(pairs)
    for row, (first, second) in zip(rows, pairs, strict=True):
        own = host.tokenizer(first, second, truncation="longest_first", max_length=limit + 3)
        assert isinstance(row, PairRow)
        assert (list(row), list(row.types)) == (own["input_ids"], own["token_type_ids"])


@pytest.mark.parametrize("model_type", ["roberta", "distilbert"])
def test_hosts_without_token_types_get_the_pair_s_ids(model_type: str) -> None:
    host = host_of(model_type, type_vocab_size=1)
    [row] = bind_objective("linear", host, NLI).encode([("a good film", "bad")])
    assert not isinstance(row, PairRow)
    assert list(row) == host.tokenizer("a good film", "bad")["input_ids"]


@pytest.mark.parametrize("readout", VIEWS)
@torch.no_grad()
def test_scores_by_hand_with_token_types(readout: str) -> None:
    """Pair by pair through transformers itself; without token types the scores are others."""
    host = host_of("bert", VIEWS[readout])
    objective: Any = bind_objective(readout, host, NLI)
    pairs = [("the film was good", "bad"), ("a", "it is a dull plot ."), ("it was fine", "it is great")]
    head = {"weight": torch.randn(1, 2, 16).double(), "bias": torch.randn(1, 2).double()}
    got = objective.scores(objective.encode(pairs), head, 0)
    for own, (first, second) in zip(got, pairs, strict=True):
        asked = second if readout == "linear" else f"{second} This is <mask>."
        inputs = host.tokenizer(first, asked, return_tensors="pt")
        found = [by_hand(host, objective, inputs, head), by_hand(host, objective, untyped(inputs), head)]
        torch.testing.assert_close(own, found[0], rtol=0, atol=1e-9)
        assert (own - found[1]).abs().max() > 1e-6


def untyped(inputs: Any) -> dict[str, Any]:
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}


def by_hand(host: Host, objective: Any, inputs: Any, head: Any) -> torch.Tensor:
    if objective.name == "linear":
        return host.base(**inputs).last_hidden_state[0].mean(0) @ head["weight"][0].T + head["bias"][0]  # type: ignore[no-any-return]
    [[place]] = (inputs["input_ids"][0] == host.tokenizer.mask_token_id).nonzero().tolist()
    log = host.model(**inputs).logits[0, place].log_softmax(0)
    return torch.stack([log[host.tokenizer.convert_tokens_to_ids(word)] for word in NLI.words])


@pytest.mark.parametrize("readout", VIEWS)
@pytest.mark.parametrize(("model_type", "prompt"), [("t5", "prompt_for"), ("llama", "causal_prompt_for")])
def test_hosts_that_generate_read_both_fields_in_a_prompt(model_type: str, prompt: str, readout: str) -> None:
    """The prompt is whole, whatever is cut of the texts; the longer gives first."""
    host = host_of(model_type, VIEWS[readout])
    objective = bind_objective(readout, host, NLI, 6)
    [row] = objective.encode([("the film was good it is a review", "bad plot")])
    assert row == tuple(host.tokenizer(getattr(NLI, prompt)(("the film was good", "bad plot")))["input_ids"])


def test_so_few_tokens_that_a_field_is_left_with_none() -> None:
    with pytest.raises(BadRequest, match="--max-tokens 1: expected at least 2, a token for each of premise and"):
        bind_objective("linear", host_of("bert"), NLI, 1)


@pytest.mark.parametrize(
    ("kind", "default"), [("encoder", "linear"), ("encoder_decoder", "label_tokens"), ("decoder", "label_tokens")]
)
def test_the_prototype_readout_compares_single_texts(kind: Any, default: str) -> None:
    assert objective_for(None, kind, NLI).name == default
    with pytest.raises(
        BadRequest, match=r"readout prototype: nli is .*pairs of texts \(premise, hypothesis\), expected"
    ):
        objective_for("prototype", kind, NLI)


@pytest.mark.parametrize("technique", SPECS)
@pytest.mark.parametrize(
    ("model_type", "readout"),
    [
        ("bert", "linear"),
        ("bert", "label_tokens"),
        ("t5", "label_tokens"),
        ("llama", "label_tokens"),
        ("llama", "linear"),
    ],
)
def test_training_on_pairs_in_company_is_training_alone(model_type: str, readout: str, technique: str) -> None:
    bound_task, spec = bound(model_type, readout), SPECS[technique]
    starts = [Start(bound_task.fresh(spec, seed), seed) for seed in range(3)]
    together = bound_task.train(spec, starts, [2], 1e-2)
    scores = bound_task.test(spec, [kept[2].matrices for kept in together])
    for start, kept, scored in zip(starts, together, scores, strict=True):
        [alone] = bound_task.train(spec, [start], [2], 1e-2)
        assert alone[2].loss == pytest.approx(kept[2].loss, rel=1e-10)
        for slot, own in alone[2].matrices.items():
            for name, tensor in own.items():
                torch.testing.assert_close(kept[2].matrices[slot][name], tensor, rtol=0, atol=1e-6)
        [tested] = bound_task.test(spec, [kept[2].matrices])
        np.testing.assert_allclose(scored.scores, tested.scores, rtol=0, atol=1e-5)


def learnt(field: int | None, host: Host) -> float:
    """Accuracy on 200 items after training on 400, of both fields or of one alone."""
    fields = PAIR if field is None else ("text",)
    spec = own_spec("nli", ("no", "yes"), Wording(words=("bad", "good")), fields)
    task = Task(spec, split(400, 0, field), split(20, 1, field), split(200, 2, field), Dropped())
    bound_task = BoundTask(host, task, bind_objective("linear", host, spec), TrainSettings(batch_size=32))
    technique = make_spec("lora", {"rank": 16, "alpha": 32})
    [kept] = bound_task.train(technique, [Start(bound_task.fresh(technique, 0), 0)], [LEARNING_STEPS], LEARNING_RATE)
    [scores] = bound_task.test(technique, [kept[LEARNING_STEPS].matrices])
    return scores.accuracy


LEARNING_STEPS, LEARNING_RATE = 250, 4e-3


def test_what_depends_on_both_fields_is_learnt_from_both() -> None:
    host = host_of("bert", "body", torch.float32, hidden_size=32)
    both, *alone = (learnt(field, host) for field in (None, 0, 1))
    assert both > 0.9 and max(alone) < 0.65


def test_pairs_are_distilled_as_pairs_and_single_texts_are_not() -> None:
    home, away = bound("bert", "linear"), bound("bert", "linear")
    spec = SPECS["lora"]
    [kept] = home.train(spec, [Start(home.fresh(spec, 0), 0)], [2], 1e-2)
    module = home.module(spec, kept[2], 0, 1e-2)
    made = distill(module, home, away, away.task.train.examples[:8], DistillOptions(steps=2))
    assert made.task == module.task and made.task is not None and made.task.fields == PAIR
    with pytest.raises(BadRequest, match=r"distill: nli is of pairs \(premise, hypothesis\), expected unlabelled"):
        distill(module, home, away, ["a single text"])


def test_a_module_of_pairs_is_none_of_single_texts_nor_the_reverse() -> None:
    pairs, spec = bound("bert", "linear"), SPECS["lora"]
    host = pairs.host
    task = Task(TOY, split(40, 0, 0), split(10, 1, 0), split(10, 2, 0), Dropped())
    single = BoundTask(host, task, bind_objective("linear", host, TOY), pairs.settings)
    for here, there, says in (
        (pairs, single, "pairs of texts.*got single"),
        (single, pairs, "single texts, got pairs"),
    ):
        module = here.module(spec, here.train(spec, [Start(here.fresh(spec, 0), 0)], [0], 1e-2)[0][0], 0, 1e-2)
        assert here.startable(module).keys() == {*module.matrices}
        with pytest.raises(TaskRefused, match=says):
            there.startable(module)


def test_scores_of_pairs_come_back_in_order_whatever_their_length() -> None:
    bound_task = bound("bert", "linear")
    objective: Objective = bound_task.readout
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(60)]
    pairs = list(zip(texts[:30], texts[30:], strict=True))
    rows = objective.encode(pairs)
    module = random_matrices(bound_task.host, SPECS["lora"]) | {
        HEAD: {"weight": torch.randn(2, 16), "bias": torch.zeros(2)}
    }
    [found] = score_entries(bound_task.host, objective, SPECS["lora"], [module], rows, np.zeros(30, dtype=np.int64))
    for index in (0, 7, 29):
        [alone] = score_entries(
            bound_task.host, objective, SPECS["lora"], [module], [rows[index]], np.zeros(1, dtype=np.int64)
        )
        np.testing.assert_allclose(found.scores[index], alone.scores[0], rtol=0, atol=1e-5)
