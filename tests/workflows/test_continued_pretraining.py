"""Properties of base model updates: drop-ins for their origin, repeatable, whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from peftport.core.errors import BadRequest, HostRefused, OutputRefused, TaskRefused, TrainingFailed
from peftport.core.hashing import rng_for
from peftport.core.progress import Silent
from peftport.hosts.load import load_host
from peftport.hosts.offline.catalogue import offline_host_folder
from peftport.workflows.continued_pretraining import HostUpdate, UpdateRecord, corrupt_spans, mask_tokens, update_host
from peftport.workflows.requests import HostUpdateRequest
from pico import WORDS, pico_model, word_tokenizer

KINDS = {
    "bert": ("language_model", "masked_lm"),
    "distilbert": ("body", "masked_lm"),
    "t5": ("language_model", "span_corruption"),
    "bart": ("language_model", "span_corruption"),
    "gpt2": ("language_model", "next_token"),
    "llama": ("language_model", "next_token"),
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "reviews.txt"
    lines = [" ".join(rng.choice(WORDS, size=rng.integers(4, 12))) for _ in range(40)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def saved(model_type: str, folder: Path, view: str | None = None, dtype: torch.dtype = torch.float32) -> Path:
    view = view or KINDS[model_type][0]
    pico_model(model_type, view=view).to(dtype).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def update(folder: Path, text: Path, out: Path, **changes: object) -> list[HostUpdate]:
    options: dict[str, object] = dict(steps=4, learning_rate=1e-3, batch_size=4, head_warm_up_steps=3)
    return update_host(HostUpdateRequest(folder, text, out=out, **{**options, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("model_type", KINDS)
def test_an_update_is_a_drop_in_for_its_origin(model_type: str, tmp_path: Path, text: Path) -> None:
    """Same slots, fingerprint of architecture and tokenizer, tensor names, shapes and dtypes, and config."""
    folder = saved(model_type, tmp_path / "host")
    [result] = update(folder, text, tmp_path / "out")
    view, objective = KINDS[model_type]
    before, after = load_host(str(folder), view), load_host(str(result.folder), view)  # type: ignore[arg-type]
    assert after.slots == before.slots
    assert after.fingerprint.architecture == before.fingerprint.architecture
    assert after.fingerprint.tokenizer == before.fingerprint.tokenizer
    assert after.fingerprint.weights != before.fingerprint.weights
    old, new = load_file(folder / "model.safetensors"), load_file(result.folder / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in new.items()} == {n: (t.shape, t.dtype) for n, t in old.items()}
    assert (result.folder / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert result.record.origin == before.fingerprint
    assert result.record.objective == objective
    assert UpdateRecord.model_validate_json((result.folder / "update.json").read_bytes()) == result.record


@pytest.mark.parametrize("model_type", KINDS)
def test_distance_grows_from_zero(model_type: str, tmp_path: Path, text: Path) -> None:
    folder = saved(model_type, tmp_path / "host")
    updates = update(folder, text, tmp_path / "out", steps=12, save_at=(1, 4))
    assert [u.folder.name for u in updates] == ["step-1", "step-4", "step-12"]
    weights = [u.record.distance.weights for u in updates]
    assert 0 < weights[0] < weights[1] < weights[2] < 1
    function = [u.record.distance.function for u in updates]
    assert 0 < function[0] < function[1] < function[2] < 1
    assert all(u.record.distance.tensor_distance >= u.record.distance.weights for u in updates)


@pytest.mark.parametrize("model_type", KINDS)
def test_training_lowers_the_loss(model_type: str, tmp_path: Path, text: Path) -> None:
    folder = saved(model_type, tmp_path / "host")
    updates = update(folder, text, tmp_path / "out", steps=60, save_at=(10, 50), learning_rate=5e-3)
    assert updates[2].record.loss < updates[0].record.loss


@pytest.mark.parametrize("model_type", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    model_type: str, tmp_path: Path, text: Path
) -> None:
    """Also where one of them goes on for longer, and whatever torch's own seed is."""
    folder = saved(model_type, tmp_path / "host")
    sums = []
    for index, (seed, steps) in enumerate([(0, 4), (0, 6), (1, 4)]):
        torch.manual_seed(index)
        first = update(folder, text, tmp_path / f"out{index}", seed=seed, steps=steps, save_at=(4,))[0]
        sums.append(hashlib.sha256((first.folder / "model.safetensors").read_bytes()).hexdigest())
    assert sums[0] == sums[1] != sums[2]


def test_a_fresh_head_is_warmed_up_alone_and_dropped(tmp_path: Path, text: Path) -> None:
    """The body does not feel the warm-up: with none of its own steps it would be the origin."""
    body, whole = saved("bert", tmp_path / "body", view="body"), saved("bert", tmp_path / "whole")
    [fresh] = update(body, text, tmp_path / "fresh", steps=1, learning_rate=1e-9, head_warm_up_steps=20)
    [own] = update(whole, text, tmp_path / "own", steps=1)
    assert fresh.record.head_warm_up_steps == 20
    assert fresh.record.distance.weights < 1e-7
    assert own.record.head_warm_up_steps == 0
    assert "bert.embeddings.word_embeddings.weight" in load_file(own.folder / "model.safetensors")


def test_tensors_the_model_has_no_use_for_and_reduced_precision_stay(tmp_path: Path, text: Path) -> None:
    folder = saved("bert", tmp_path / "host", view="body", dtype=torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.position_ids"] = torch.arange(512)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    [result] = update(folder, text, tmp_path / "out")
    new = load_file(result.folder / "model.safetensors")
    assert torch.equal(new["embeddings.position_ids"], torch.arange(512))
    assert new["embeddings.word_embeddings.weight"].dtype == torch.bfloat16
    assert result.record.distance.weights > 0


def test_ties_and_shards_stay_as_they_were(tmp_path: Path, text: Path) -> None:
    pico_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "tied", max_shard_size="4KB")
    word_tokenizer().save_pretrained(tmp_path / "tied")
    saved("t5", tmp_path / "untied")
    tensors = load_file(tmp_path / "untied" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["shared.weight"] * 0.5
    save_file(tensors, tmp_path / "untied" / "model.safetensors", metadata={"format": "pt"})
    [tied] = update(tmp_path / "tied", text, tmp_path / "a")
    [untied] = update(tmp_path / "untied", text, tmp_path / "b")
    names = sorted(file.name for file in (tmp_path / "tied").iterdir())
    assert len(names) > 6
    assert sorted(file.name for file in tied.folder.iterdir() if file.name != "update.json") == names
    model = load_host(str(tied.folder), "language_model").model
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()  # type: ignore[operator, union-attr]
    model = load_host(str(untied.folder), "language_model").model
    head, embeddings = model.lm_head.weight, model.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    assert not torch.equal(head, embeddings * 0.5)  # type: ignore[operator]
    torch.testing.assert_close(head, embeddings * 0.5, atol=0.01, rtol=0)  # type: ignore[operator]


@pytest.mark.parametrize("words", [2, 3, 7, 20, 126])
def test_corrupted_spans_can_be_put_back(words: int) -> None:
    """What is read, with what is told in place of the sentinels, is the row; 15 % of it is told."""
    rng, sentinels = rng_for(0, "test"), list(range(999, 900, -1))
    row = tuple(range(10, 10 + words)) + (1,)
    read, told = corrupt_spans(row, frozenset({1}), sentinels, rng)
    assert read[-1] == told[-1] == 1
    spans: dict[int, list[int]] = {}
    for token in told[:-1]:
        spans.setdefault(token, []) if token > 900 else spans[next(reversed(spans))].append(token)
    assert list(spans) == sentinels[: len(spans)] == [token for token in read if token > 900]
    assert tuple(t for token in read for t in spans.get(token, [token])) == row
    assert sum(map(len, spans.values())) == max(1, round(0.15 * words))


def test_masked_tokens_follow_the_paper() -> None:
    rng, row = rng_for(0, "test"), (2, *range(10, 110), 1)
    pairs = [mask_tokens(row, frozenset({1, 2}), 3, 1000, rng) for _ in range(200)]
    fates = [
        "masked" if new == 3 else "left" if new == old else "replaced"
        for seen, labels in pairs
        for old, new, label in zip(row, seen, labels, strict=True)
        if label != -100
    ]
    assert all(old == new or label == old for seen, ls in pairs for old, new, label in zip(row, seen, ls, strict=True))
    assert len(fates) == 200 * 15
    assert fates.count("masked") / len(fates) == pytest.approx(0.8, abs=0.03)
    assert fates.count("left") / len(fates) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"caf\xe9\n" * 20, "can't decode byte 0xe9 in position 3"),
        (b"good film\n\n  \n" * 7, "7 lines"),
        (b"good\n" * 20, "0 lines of two tokens"),
    ],
)
def test_text_that_cannot_serve_is_refused_and_nothing_is_written(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    folder, path = saved("gpt2", tmp_path / "host"), tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskRefused, match=message) as caught:
        update(folder, path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"save_at": (5,)},
        {"save_at": (0,)},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"max_tokens": 7},
        {"max_tokens": 5000},
        {"head_warm_up_steps": -1},
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, object], tmp_path: Path, text: Path) -> None:
    folder = saved("bert", tmp_path / "host")
    with pytest.raises(BadRequest):
        update(folder, text, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_taken_place_is_refused_before_the_host_is_looked_at(tmp_path: Path, text: Path) -> None:
    with pytest.raises(OutputRefused):
        update(tmp_path / "no host", text, tmp_path)


def test_tokenizers_that_lack_what_the_objective_needs_are_refused(tmp_path: Path, text: Path) -> None:
    for model_type, lack in (("bert", "mask token"), ("t5", "sentinel")):
        folder = saved(model_type, tmp_path / model_type)
        tokenizer = word_tokenizer()
        if lack == "mask token":
            tokenizer.mask_token = None
        else:
            tokenizer.add_tokens(["<extra_id_0>"])  # beyond the host's embeddings
        tokenizer.save_pretrained(folder)
        with pytest.raises(HostRefused, match=lack):
            update(folder, text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_crash_leaves_nothing(tmp_path: Path, text: Path) -> None:
    folder = saved("gpt2", tmp_path / "host")
    done: list[int] = []

    class Impatient(Silent):
        def stage(self, title: str, total: int) -> Callable[[int], None]:
            return self.advance

        def advance(self, steps: int) -> None:
            done.append(steps)
            if len(done) == 3:
                raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        update(folder, text, tmp_path / "out", save_at=(1,), progress=Impatient())
    assert done == [1, 1, 1]
    assert sorted(tmp_path.iterdir()) == before


def test_a_loss_that_is_no_longer_finite_is_an_error(tmp_path: Path, text: Path) -> None:
    folder = saved("gpt2", tmp_path / "host")
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        update(folder, text, tmp_path / "out", learning_rate=1e30, steps=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_a_sentence_encoder_gets_an_update(tmp_path: Path, text: Path) -> None:
    folder = offline_host_folder("all-MiniLM-L6-v2")
    assert folder is not None
    asked = HostUpdateRequest(folder, text, steps=3, out=tmp_path / "out", head_warm_up_steps=5)
    [result] = update_host(asked)
    assert 0 < result.record.distance.weights < 0.01
    assert load_host(str(result.folder)).slots == load_host(str(folder)).slots
