"""The one training loop, testing and readouts: entries without company, prefixes of budgets, scores by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftport.core.errors import BadRequest, TaskRefused, TrainingFailed
from peftport.hosts.host import Host
from peftport.modules.module import HEAD, stack
from peftport.objectives import bind_objective, objective_named
from peftport.objectives.base import Objective, Row
from peftport.objectives.label_tokens import LabelTokens, label_rows
from peftport.tasks.kinds.classification import Classification
from peftport.techniques import TECHNIQUES, technique_named
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import Parameters, TechniqueSpec
from peftport.training.evaluation import Scores, score_entries
from peftport.training.loop import POOL, Checkpoint, Entry, TrainSettings, batches, same_structure, train_entries
from pico import SPECS, TOY, WORDS, pico_host, random_matrices

host_of = cache(pico_host)  # shared: nothing may change it
ADAM_EPS = 1e-8  # torch's
SETTINGS = TrainSettings(batch_size=4, weight_decay=0.01, max_grad_norm=0.5)
GOOD, BAD = ("good", "great", "fine", "positive"), ("bad", "terrible", "dull", "negative")
FILLER = [word for word in WORDS if word not in GOOD + BAD]
COMPANIES = {"bert": "prototype", "t5": "label_tokens", "llama": "label_tokens"}
VIEWS: dict[str, Any] = {"prototype": "body", "linear": "body", "label_tokens": "language_model"}
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


def texts(n: int, seed: int) -> tuple[list[str], Any]:
    """Texts of unequal length with one telling word each, and labels that this word decides."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    made = []
    for label in labels:
        words = list(rng.choice(FILLER, size=rng.integers(2, 9)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if label else BAD)))
        made.append(" ".join(words))
    return made, labels.astype(np.int64)


def bound(model_type: str, readout: str, dtype: torch.dtype = torch.float64, task: Classification = TOY) -> Objective:
    host = host_of(model_type, view=VIEWS[readout], dtype=dtype)
    return bind_objective(readout, host, task)


def fresh(readout: Objective, spec: TechniqueSpec, seed: int) -> Parameters:
    technique = technique_named(spec.kind)
    start = technique.start(spec, technique.slots(spec, readout.host.slots), seed)
    shapes = readout.head_shapes()
    return {**start, HEAD: {name: torch.zeros(shape) for name, shape in shapes.items()}} if shapes else start


def entry(readout: Objective, spec: TechniqueSpec, seed: int, rate: float = 1e-2, n: int = 18) -> Entry:
    """Start, texts, labels and data order, all of this seed's own."""
    own, labels = texts(n, seed)
    return Entry(fresh(readout, spec, seed), readout.encode(own), labels, seed, rate)


def run(
    readout: Objective, spec: TechniqueSpec, entries: Sequence[Entry], budgets: Sequence[int]
) -> list[dict[int, Checkpoint]]:
    return train_entries(readout.host, readout, spec, entries, budgets, SETTINGS)


def assert_same(one: Checkpoint, other: Checkpoint, *, exact: bool, rate: float = 1e-2) -> None:
    """Losses are float64; matrices are kept in float32, so that equal ones may differ by one rounding.

    Gradients, clipped to .5, differ by float64's rounding where sums are taken in another order, as processors do it. A
    step moves an entry by rate g / (|g| + eps), so where g is hardly more than Adam's eps that rounding moves it too.
    """
    moved = one.step * rate * torch.finfo(torch.float64).eps / ADAM_EPS
    assert (one.step, one.matrices.keys()) == (other.step, other.matrices.keys())
    assert (one.loss is None) == (other.loss is None)
    if one.loss is not None and other.loss is not None:
        assert one.loss == (other.loss if exact else pytest.approx(other.loss, rel=0, abs=1e-10))
    for slot, own in one.matrices.items():
        for name, tensor in own.items():
            rounding = 0.0 if exact else 1.2e-7
            torch.testing.assert_close(tensor, other.matrices[slot][name], rtol=rounding, atol=0 if exact else moved)


# --- entries and budgets ---------------------------------------------------------------------------------------------


@by_technique
@pytest.mark.parametrize(("model_type", "readout_name"), [*COMPANIES.items(), ("bert", "linear")])
def test_an_entry_does_not_feel_its_company(model_type: str, readout_name: str, technique: str) -> None:
    """Seeds, learning rates, texts and labels differ; one of the five diverges on its own."""
    readout, spec = bound(model_type, readout_name), SPECS[technique]
    rates = (1e-3, 3e-2, 1e-2, 1e-4, 3e-1)
    entries = [entry(readout, spec, seed, rate) for seed, rate in enumerate(rates)]
    together = run(readout, spec, entries, (3, 7))
    for index in (0, 2, 4):
        [alone] = run(readout, spec, [entries[index]], (3, 7))
        for budget in (3, 7):
            assert_same(together[index][budget], alone[budget], exact=False, rate=rates[index])
    assert len({kept[7].loss for kept in together}) == 5


@by_technique
def test_the_order_of_slots_does_not_count(technique: str) -> None:
    """A module that was saved and loaded has its slots in another order than a fresh one; they go in one stack."""
    readout, spec = bound("t5", "label_tokens"), SPECS[technique]
    one = entry(readout, spec, 0)
    turned = replace(one, start={slot: dict(reversed(own.items())) for slot, own in reversed(one.start.items())})
    assert list(turned.start) != list(one.start) or list(next(iter(turned.start.values()))) != list(
        next(iter(one.start.values()))
    )
    assert same_structure(one.start, turned.start)
    kept, other = run(readout, spec, [one, turned], (3,))
    assert_same(kept[3], other[3], exact=False)


def test_only_equal_shapes_go_in_one_stack() -> None:
    start = {"a": {"x": torch.ones(2, 3), "y": torch.ones(3)}, "b": {"x": torch.ones(1)}}
    assert not same_structure(start, {**start, "b": {"x": torch.ones(2)}})
    assert not same_structure(start, {**start, "b": {"z": torch.ones(1)}})
    assert not same_structure(start, {"a": start["a"]})


def test_labels_of_one_entry_are_its_own() -> None:
    """The same start, texts and order with labels turned over: another training."""
    readout, spec = bound("bert", "prototype"), SPECS["lora"]
    one = entry(readout, spec, 0)
    turned = Entry(one.start, one.rows, 1 - one.targets, one.seed, one.learning_rate)
    kept, other = run(readout, spec, [one, turned], (2,))
    first = next(iter(kept[2].matrices))
    assert not torch.equal(kept[2].matrices[first]["B"], other[2].matrices[first]["B"])


def test_entries_with_batches_of_unequal_size_are_refused() -> None:
    """The stack is cut into equal parts: rows of one entry would be trained as another's."""
    readout, spec = bound("bert", "prototype"), SPECS["lora"]
    with pytest.raises(BadRequest, match="got 1 and 3 texts"):
        run(readout, spec, [entry(readout, spec, 0, n=3), entry(readout, spec, 1, n=1)], (1,))
    few = [entry(readout, spec, seed, n=3) for seed in (0, 1)]
    for one, kept in zip(few, run(readout, spec, few, (2,)), strict=True):
        assert_same(kept[2], run(readout, spec, [one], (2,))[0][2], exact=False)


@by_technique
@pytest.mark.parametrize(("model_type", "readout_name"), COMPANIES.items())
def test_budgets_are_prefixes(model_type: str, readout_name: str, technique: str) -> None:
    readout, spec = bound(model_type, readout_name, torch.float32), SPECS[technique]
    one = entry(readout, spec, 0)
    [long] = run(readout, spec, [one], (7, 0, 3))
    [short] = run(readout, spec, [one], (3,))
    [rest] = run(readout, spec, [one], (7,))
    assert long.keys() == {0, 3, 7}
    assert_same(long[3], short[3], exact=True)
    assert long[0].loss is None
    assert rest[7].loss == pytest.approx((3 * (long[3].loss or 0) + 4 * (long[7].loss or 0)) / 7, rel=1e-6)
    made = technique_named(spec.kind)
    start = made.materialise(spec, made.slots(spec, readout.host.slots), stack([one.start]))
    assert all(torch.equal(long[0].matrices[s][n], t[0]) for s, own in start.items() for n, t in own.items())


@by_technique
@pytest.mark.parametrize("model_type", COMPANIES)
def test_training_leaves_host_and_starts_alone(model_type: str, technique: str) -> None:
    readout, spec = bound(model_type, COMPANIES[model_type], torch.float32), SPECS[technique]
    state = readout.host.model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    one = entry(readout, spec, 0)
    start = {slot: {name: t.clone() for name, t in own.items()} for slot, own in one.start.items()}
    [kept] = run(readout, spec, [one], (0, 5))
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and not p.requires_grad for p in readout.host.model.parameters())
    assert all(torch.equal(one.start[slot][name], t) for slot, own in start.items() for name, t in own.items())
    moved = [not torch.equal(kept[0].matrices[s][n], t) for s, own in kept[5].matrices.items() for n, t in own.items()]
    assert any(moved)


@by_technique
@pytest.mark.parametrize("model_type", COMPANIES)
def test_every_matrix_learns(model_type: str, technique: str) -> None:
    """No matrix of a module is left out of training, the shared one and the head included."""
    readout, spec = bound(model_type, "linear"), SPECS[technique]
    [kept] = run(readout, spec, [entry(readout, spec, 0)], (0, 4))
    still = [
        f"{slot}.{name}"
        for slot, own in kept[4].matrices.items()
        for name, tensor in own.items()
        if torch.equal(tensor, kept[0].matrices[slot][name])
        and not (slot.startswith("decoder.") and readout.host.kind == "encoder_decoder")  # linear reads the encoder
    ]
    assert still == []


@by_technique
@pytest.mark.parametrize(("model_type", "readout_name"), [*COMPANIES.items(), ("bert", "linear")])
def test_a_separable_task_is_learnt(model_type: str, readout_name: str, technique: str) -> None:
    """Texts of telling words only. A prefix on a random decoder finds the label words, not which of them is right."""
    readout, spec = bound(model_type, readout_name, torch.float32), SPECS[technique]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    rows = readout.encode([" ".join(rng.choice(GOOD if label else BAD, size=rng.integers(1, 4))) for label in labels])
    one = Entry(fresh(readout, spec, 0), rows, labels, 0, 3e-2)
    [kept] = train_entries(readout.host, readout, spec, [one], (0, 5, 80), TrainSettings(batch_size=16))
    assert (kept[80].loss or 9) < 0.9 * (kept[5].loss or 0)
    modules = [kept[0].matrices, kept[80].matrices]
    start, trained = (s.accuracy for s in score_entries(readout.host, readout, spec, modules, rows, labels))
    if (model_type, technique) != ("llama", "prefix"):
        assert trained > 0.8 > start


@by_technique
def test_a_training_that_diverges_fails_by_name(technique: str) -> None:
    readout, spec = bound("bert", "prototype", torch.float32), SPECS[technique]
    healthy, broken = entry(readout, spec, 0), entry(readout, spec, 1)
    for tensor in next(iter(broken.start.values())).values():
        tensor.fill_(math.nan)
    with pytest.raises(
        TrainingFailed, match="entry 1: the loss at step 1 is not finite before any training.*another start"
    ) as failure:
        run(readout, spec, [healthy, broken], (2,))
    assert failure.value.exit_code == 1 and "\n" not in str(failure.value)
    with pytest.raises(TrainingFailed, match="entry 1, step 0: .* is no longer finite"):
        run(readout, spec, [healthy, broken], (0,))


@by_technique
def test_an_infinite_learning_rate_is_noticed(technique: str) -> None:
    """Though the last loss is finite: the step after it was not."""
    readout, spec = bound("bert", "prototype", torch.float32), SPECS[technique]
    with pytest.raises(TrainingFailed):
        run(readout, spec, [entry(readout, spec, 0, rate=1e39)], (1,))


def test_progress_counts_the_steps_of_all_entries() -> None:
    readout, spec = bound("bert", "prototype", torch.float32), SPECS["lora"]
    done: list[int] = []
    entries = [entry(readout, spec, seed) for seed in (0, 1, 2)]
    train_entries(readout.host, readout, spec, entries, (0, 2, 4), SETTINGS, done.append)
    assert sum(done) == 3 * 4


# --- batches ---------------------------------------------------------------------------------------------------------


def rows_of(lengths: Sequence[int]) -> list[Row]:
    return [(7,) * length for length in lengths]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=150), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_every_item_at_most_once(lengths: list[int], size: int, seed: int) -> None:
    """Each epoch has as many full batches as fit, of different items; the same call gives the same batches."""
    rows, full = rows_of(lengths), min(size, len(lengths))
    per_epoch = len(rows) // full
    drawn = list(islice(batches(rows, size, seed), 3 * per_epoch))
    again = list(islice(batches(rows, size, seed), 3 * per_epoch))
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert {len(batch) for batch in drawn} == {full}
    for epoch in range(3):
        items = np.concatenate(drawn[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(set(items.tolist())) == len(items) == per_epoch * full
        assert items.min() >= 0 and items.max() < len(rows)


def test_seeds_and_epochs_differ_in_order_and_leave_nobody_out() -> None:
    rows = rows_of(np.random.default_rng(0).integers(1, 40, 103).tolist())
    one, other = (np.concatenate(list(islice(batches(rows, 4, seed), 25))) for seed in (0, 1))
    assert not np.array_equal(one, other)
    many = list(islice(batches(rows, 4, 0), 250))
    assert not np.array_equal(np.concatenate(many[:25]), np.concatenate(many[25:50]))
    assert set(np.concatenate(many).tolist()) == set(range(103))


def test_batches_depend_on_lengths_only_and_hold_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1, 4 * POOL + 1)).tolist()  # one pool, all lengths differ
    rows = rows_of(lengths)
    other = [tuple(range(len(row))) for row in rows]
    drawn = list(islice(batches(rows, 4, 5), POOL))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, islice(batches(other, 4, 5), POOL), strict=True))
    spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in drawn)
    assert spans == [(4 * i + 1, 4 * i + 4) for i in range(POOL)]
    assert [min(lengths[i] for i in batch) for batch in drawn] != [
        first for first, _ in spans
    ]  # not from short to long


# --- testing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model_type", "readout_name"), COMPANIES.items())
@by_technique
def test_modules_are_tested_together_as_one_by_one(model_type: str, readout_name: str, technique: str) -> None:
    """Ten modules on 21 texts: more than go on the host at once, in both directions."""
    readout, spec = bound(model_type, readout_name), SPECS[technique]
    modules = [random_matrices(readout.host, spec, seed) for seed in range(10)]
    made, labels = texts(21, 0)
    rows, done = readout.encode(made), list[int]()
    together = score_entries(readout.host, readout, spec, modules, rows, labels, done.append)
    assert sum(done) == len(together) * len(rows) == 210
    for index in (0, 4, 8, 9):
        [alone] = score_entries(readout.host, readout, spec, [modules[index]], rows, labels)
        np.testing.assert_allclose(together[index].scores, alone.scores, rtol=1e-6, atol=1e-6)
    assert len({scores.scores.tobytes() for scores in together}) == 10


@pytest.mark.parametrize(("model_type", "readout_name"), [*COMPANIES.items(), ("bert", "label_tokens")])
def test_scores_come_back_in_the_order_of_the_texts(model_type: str, readout_name: str) -> None:
    """Each equal to what the text scores when it is the only one."""
    readout = bound(model_type, readout_name)
    made, labels = texts(70, 1)
    rows = readout.encode(made)
    assert [len(row) for row in rows] != sorted(len(row) for row in rows)
    [found] = score_entries(readout.host, readout, None, [], rows, labels)
    assert found.scores.shape == (70, 2) and np.array_equal(found.labels, labels)
    for index in (0, 1, 35, 69):
        [alone] = score_entries(readout.host, readout, None, [], rows[index : index + 1], labels[index : index + 1])
        np.testing.assert_allclose(found.scores[index], alone.scores[0], rtol=1e-6, atol=1e-6)


scored = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=40)


def scores_of(items: Sequence[tuple[int, int, int]]) -> Scores:
    return Scores(np.array([i[:2] for i in items], np.float32), np.array([i[2] for i in items], np.int64))


@given(scored)
@settings(max_examples=150, deadline=None)
def test_auroc_is_the_share_of_pairs_in_the_right_order(items: list[tuple[int, int, int]]) -> None:
    """Ties count half, counted pair by pair."""
    margins = [(second - first, label) for first, second, label in items]
    pairs = [(a > b) + (a == b) / 2 for a, one in margins for b, other in margins if one == 1 and other == 0]
    found = scores_of(items).measures()["auroc"]
    assert found is None if not pairs else found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(scored)
@settings(max_examples=150, deadline=None)
def test_accuracies_by_counting(items: list[tuple[int, int, int]]) -> None:
    scores = scores_of(items)
    right = [(second > first) == bool(label) for first, second, label in items]  # a tie goes to the first label
    assert scores.accuracy == pytest.approx(sum(right) / len(right))
    ordered = sorted(second - first for first, second, _ in items)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    above = [((second - first) > middle) == bool(label) for first, second, label in items]
    known = scores.measures()
    assert known["accuracy_at_median"] == pytest.approx(sum(above) / len(above))
    shifted = Scores(scores.scores + np.array([0, 100], np.float32), scores.labels).measures()
    assert all(shifted[name] == known[name] for name in ("accuracy_at_median", "auroc"))


def test_three_labels_have_no_median() -> None:
    scores = Scores(np.eye(3, dtype=np.float32), np.array([0, 1, 0]))
    assert scores.measures()["accuracy_at_median"] is None
    assert scores.accuracy == pytest.approx(2 / 3)


# --- readouts --------------------------------------------------------------------------------------------------------

LONG = TOY.model_copy(update={"words": ("terrible bad", "great"), "masked_words": ("bad plot", "good film")})
NESTED = TOY.model_copy(update={"words": ("good", "good film"), "masked_words": ("bad", "good")})
THREE = TOY.model_copy(
    update={
        "labels": ("negative", "neutral", "positive"),
        "words": ("terrible bad film", "fine", "great film"),
        "descriptions": ("a bad film", "a film", "a good film"),
        "masked_words": ("bad", "fine", "good"),
    }
)


def log_p(logits: Tensor, token: int) -> float:
    return float(logits.log_softmax(-1)[token])


def said_by(host: Host, row: Row, words: Sequence[int], shift: int) -> float:
    """log p of a label's words after a text, one forward pass a word, one text at a time, without padding."""
    total = 0.0
    for index, word in enumerate(words):
        told = list(words[:index])
        if host.kind == "encoder_decoder":
            start = host.config.decoder_start_token_id
            logits = host.model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[start, *told]])).logits
        else:
            ids = torch.tensor([[*row, *told]])
            logits = host.model(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None] + shift).logits
        total += log_p(logits[0, -1], word)
    return total


@pytest.mark.parametrize("task", [TOY, LONG, NESTED, THREE], ids=["one-token", "long", "nested", "three"])
@pytest.mark.parametrize("model_type", ["t5", "bart", "llama", "gpt2"])
@pytest.mark.parametrize("technique", [None, "lora", "prefix"])
@torch.no_grad()
def test_label_tokens_by_separate_forward_passes(model_type: str, task: Classification, technique: str | None) -> None:
    readout: Any = bound(model_type, "label_tokens", task=task)
    host, rows = readout.host, readout.encode(texts(5, 0)[0])
    assert len({len(row) for row in rows}) > 1
    spec = SPECS[technique] if technique else None
    matrices = stack([random_matrices(host, spec)], host.dtype) if spec else {}
    shift = prefix_length(spec, host)
    with attached(host, spec, matrices):
        got = readout.scores(rows, None, shift)
        expected = [[said_by(host, row, words, shift) for words in readout.labels] for row in rows]
        labels = torch.tensor([0, 1, 0, 1, 1])
        loss = readout.loss(rows, labels, None, shift)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(loss, -got[torch.arange(5), labels], rtol=0, atol=1e-10)


@pytest.mark.parametrize("task", [TOY, LONG], ids=["one-mask", "two-masks"])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
@torch.no_grad()
def test_masked_label_tokens_by_separate_forward_passes(model_type: str, task: Classification) -> None:
    readout: Any = bound(model_type, "label_tokens", task=task)
    host, rows = readout.host, readout.encode(texts(5, 0)[0])
    assert len({len(row) for row in rows}) > 1
    got = readout.scores(rows, None, 0)
    for row, own in zip(rows, got, strict=True):
        masks = [place for place, token in enumerate(row) if token == host.tokenizer.mask_token_id]
        assert len(masks) == len(readout.labels[0])
        logits = host.model(input_ids=torch.tensor([row])).logits[0]
        expected = [sum(log_p(logits[p], w) for p, w in zip(masks, words, strict=True)) for words in readout.labels]
        torch.testing.assert_close(own, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_text_that_holds_the_mask_is_read_as_any_text() -> None:
    """It is the prompt's mask that the label fills, not one that somebody wrote; neighbours feel nothing of it."""
    readout = bound("bert", "label_tokens")
    rows = readout.encode(["a <mask> film", "a good film", "<mask> <mask>", "a dull plot", "bad"])
    mask = readout.host.tokenizer.mask_token_id
    assert [row.count(mask) for row in rows] == [1] * 5
    together = readout.scores(rows, None, 0)
    for index, row in enumerate(rows):
        torch.testing.assert_close(together[index : index + 1], readout.scores([row], None, 0))


@pytest.mark.parametrize("model_type", ["t5", "llama"])
def test_labels_that_begin_other_labels_are_ended(model_type: str) -> None:
    """Else the longer could never be likelier than the shorter."""
    host = host_of(model_type)
    end = host.tokenizer.eos_token_id
    good, film = (host.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("good", "film"))
    assert label_rows(host, NESTED) == ((good, end), (good, film, end))
    assert all(end not in row for row in label_rows(host, LONG))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ("marvellous", "bad")}, "can spell, got 'marvellous'"),
        ({"words": ("good  film", "good film")}, "differ in tokens"),
    ],
)
@pytest.mark.parametrize("model_type", ["t5", "llama"])
def test_words_that_a_host_cannot_say_are_refused(model_type: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskRefused, match=message) as refusal:
        label_rows(host_of(model_type), TOY.model_copy(update=changes))
    assert refusal.value.exit_code == 2 and "\n" not in str(refusal.value)


def test_masked_words_of_unequal_length_are_refused() -> None:
    with pytest.raises(TaskRefused, match="one token count.*'good film': 2"):
        label_rows(host_of("bert"), TOY.model_copy(update={"masked_words": ("bad", "good film")}))


@pytest.mark.parametrize("readout_name", VIEWS)
@pytest.mark.parametrize("model_type", COMPANIES)
def test_texts_are_cut_and_prompts_are_not(model_type: str, readout_name: str) -> None:
    host = host_of(model_type, view=VIEWS[readout_name])
    readout = bind_objective(readout_name, host, TOY, max_tokens=5)
    long, short = readout.encode(["good bad film plot dull fine the a was", "good bad film plot dull"])
    assert long == short
    assert readout.encode(["good bad film plot fine"])[0] != short
    prompt = {"encoder_decoder": "is this review positive or negative", "decoder": "it is", "encoder": "it was"}
    if isinstance(readout, LabelTokens):
        wanted = host.tokenizer(prompt[host.kind], add_special_tokens=False)["input_ids"]
        own = list(long)
        assert any(own[i : i + len(wanted)] == wanted for i in range(len(own)))
    else:
        assert len(long) == 5


def test_a_zero_head_prefers_no_label_and_learns() -> None:
    readout, spec = bound("bert", "linear"), SPECS["adapter"]
    one = entry(readout, spec, 0)
    [start] = score_entries(readout.host, readout, spec, [one.start], one.rows, one.targets)
    assert not start.scores.any()
    [kept] = run(readout, spec, [one], (0, 1, 6))
    assert kept[1].loss == pytest.approx(math.log(2))
    head = kept[6].matrices[HEAD]
    assert {name: tuple(t.shape) for name, t in head.items()} == {"weight": (2, 16), "bias": (2,)}
    assert head["weight"].any() and head["bias"].any()
    assert not kept[0].matrices[HEAD]["weight"].any()


@torch.no_grad()
def mean_state(host: Host, row: Row, shift: int = 0) -> Tensor:
    """Mean of the last hidden states of one text, without padding."""
    ids = torch.tensor([row])
    if host.kind == "encoder_decoder":
        hidden = host.model.get_encoder()(input_ids=ids).last_hidden_state  # type: ignore[operator]
    elif host.kind == "decoder":
        hidden = host.base(input_ids=ids, position_ids=torch.arange(len(row))[None] + shift).last_hidden_state
    else:
        hidden = host.base(input_ids=ids).last_hidden_state
    return hidden[0].mean(0)


@pytest.mark.parametrize("technique", [None, *TECHNIQUES])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "t5", "llama", "gpt2"])
@torch.no_grad()
def test_pooled_readouts_by_hand(model_type: str, technique: str | None) -> None:
    """Cosine to the bare host's descriptions over 0.05; a head's W h + b. Text by text, in numpy."""
    prototype, linear = bound(model_type, "prototype"), bound(model_type, "linear")
    host, rows = prototype.host, prototype.encode(texts(4, 0)[0])
    assert len({len(row) for row in rows}) > 1
    described = [mean_state(host, row).numpy() for row in prototype.encode(TOY.descriptions)]
    spec = SPECS[technique] if technique else None
    matrices = stack([random_matrices(host, spec)], host.dtype) if spec else {}
    shift = prefix_length(spec, host)
    generator = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn(1, 2, 16, generator=generator).double(), "bias": torch.tensor([[0.5, -1.0]]).double()}
    with attached(host, spec, matrices):
        states = [mean_state(host, row, shift).numpy() for row in rows]
        cosines = prototype.scores(rows, None, shift)
    with attached(linear.host, spec, matrices):
        scores = linear.scores(rows, head, shift)
    for state, cosine, score in zip(states, cosines, scores, strict=True):
        by_hand = [d @ state / np.linalg.norm(d) / np.linalg.norm(state) / 0.05 for d in described]
        np.testing.assert_allclose(cosine, by_hand, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            score, head["weight"][0].numpy() @ state + head["bias"][0].numpy(), rtol=0, atol=1e-9
        )


def test_pooled_readouts_put_the_host_s_prefix_before_texts() -> None:
    """As e5 was trained: `query: ` before every text, the descriptions too."""
    plain = host_of("bert", view="body", dtype=torch.float64)
    prefixed = replace(plain, text_prefix="this is ")
    for name in ("prototype", "linear"):
        one, other = bind_objective(name, prefixed, TOY), bind_objective(name, plain, TOY)
        assert one.encode(["a good film"]) == other.encode(["this is a good film"])
    expected = mean_state(plain, bind_objective("linear", plain, TOY).encode(["this is " + TOY.descriptions[0]])[0])
    got = bind_objective("prototype", prefixed, TOY).prototypes[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(got, expected / expected.norm())


def test_unknown_readouts_are_refused() -> None:
    with pytest.raises(BadRequest, match="unknown readout 'prototyp': did you mean 'prototype'"):
        objective_named("prototyp", "encoder")
