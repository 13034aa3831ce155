"""A host's fingerprint changes when what is loaded changes, and only then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from peftport.core.errors import HostRefused
from peftport.hosts.fingerprint import Fingerprint, fingerprint, weight_files
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.hosts.settings import settings_of
from pico import inputs_of, pico_model, word_tokenizer

HEADS = {"num_attention_heads": 4}
ROPE: tuple[dict[str, Any], ...] = (
    {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    {"rms_norm_eps": 0.02},
    {"hidden_act": "relu"},
    {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
)
# By family: changes of config.json that change what the host says of a text of 24 tokens.
SHAPING: dict[str, tuple[dict[str, Any], ...]] = {
    "bert": ({"layer_norm_eps": 0.02}, {"hidden_act": "relu"}, HEADS, {"is_decoder": True}),
    "roberta": ({"layer_norm_eps": 0.02}, {"hidden_act": "silu"}, HEADS, {"pad_token_id": 3}),
    "distilbert": ({"activation": "relu"}, {"n_heads": 4}),
    "t5": (
        {"layer_norm_epsilon": 0.02}, {"dense_act_fn": "silu"}, {"relative_attention_max_distance": 12},
    ),
    "bart": ({"activation_function": "relu"}, {"scale_embedding": True}, {"encoder_attention_heads": 4}),
    "llama": ROPE,
    "mistral": (*ROPE, {"sliding_window": 3}),
    "qwen3": ROPE[:-1],
    "gemma": ROPE[:-1],
    "gemma3_text": (
        {"rms_norm_eps": 0.02}, {"hidden_activation": "relu"}, {"sliding_window": 3}, {"query_pre_attn_scalar": 2},
        {"layer_types": ["full_attention", "sliding_attention"]}, {"layer_types": ["full_attention"] * 2},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 50.0}}},
        {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 3.0}}},
        {"final_logit_softcapping": 0.5}, {"use_bidirectional_attention": True},
    ),
    "gpt2": (
        {"layer_norm_epsilon": 0.02}, {"activation_function": "relu"}, {"n_head": 4}, {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
    ),
    "opt": ({"activation_function": "gelu"}, HEADS),
    "phi": (
        {"layer_norm_eps": 0.02}, {"hidden_act": "relu"}, {**HEADS, "num_key_value_heads": 4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 99.0, "partial_rotary_factor": 0.5}},
    ),
}  # fmt: skip
# Changes of names, paths, versions, dropout, what is for training, generating or classifying: in every family.
HARMLESS: tuple[dict[str, Any], ...] = (
    {"_name_or_path": "/elsewhere"}, {"architectures": ["Another"]}, {"transformers_version": "4.0"},
    {"torch_dtype": "bfloat16"}, {"dtype": "float16"}, {"use_cache": False}, {"initializer_range": 0.5},
    {"id2label": {"0": "a", "1": "b"}}, {"problem_type": "regression"}, {"tokenizer_class": "Another"},
    {"attention_dropout": 0.3}, {"hidden_dropout_prob": 0.3}, {"dropout_rate": 0.3}, {"resid_pdrop": 0.3},
    {"bos_token_id": 7}, {"gradient_checkpointing": True}, {"unsloth_version": "1"}, {"classifier_dropout": 0.2},
    {"task_specific_params": {"summarization": {"num_beams": 4}}}, {"attn_implementation": "sdpa"},
)  # fmt: skip
HOMES = TemporaryDirectory()


@cache
def saved(model_type: str) -> Path:
    folder = Path(HOMES.name) / model_type
    pico_model(model_type).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def changed(folder: Path, home: Path, **values: Any) -> Path:
    """The same host with other values in its config.json."""
    copy = Path(shutil.copytree(folder, home / "changed"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **values}))
    return copy


@torch.no_grad()
def says(folder: Path) -> torch.Tensor:
    host = load_host(str(folder), "language_model")
    rows = [
        tuple(int(i) for i in torch.randint(5, 25, (24,), generator=torch.Generator().manual_seed(n))) for n in (0, 1)
    ]
    return host.model(**inputs_of(host, rows)).logits.detach()  # type: ignore[no-any-return]


@cache
def says_as_saved(model_type: str) -> torch.Tensor:
    return says(saved(model_type))


def mark(folder: Path) -> Fingerprint:
    return fingerprint(folder, "host", "family")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_fingerprint_changes_if_and_only_if_the_outputs_do(data: st.DataObject) -> None:
    model_type = data.draw(st.sampled_from(list(SHAPING)))
    picked = data.draw(st.lists(st.sampled_from((*SHAPING[model_type], *HARMLESS)), min_size=1, max_size=4))
    if data.draw(st.booleans()):  # what is said already, or what is a default, spelled out
        known = pico_model(model_type).config.to_dict()
        key = data.draw(st.sampled_from([key for key in known if not key.startswith("_")]))
        picked = [{key: json.loads(json.dumps(known[key], default=str))}, *picked]
    values = {key: value for one in picked for key, value in one.items()}
    before = saved(model_type)
    with TemporaryDirectory() as home:
        after = changed(before, Path(home), **values)
        same = mark(before).same_host(mark(after))
        assert same == torch.equal(says(after), says_as_saved(model_type)), values
        assert same != bool(mark(before).differences(mark(after)))


@pytest.mark.parametrize("model_type", SHAPING)
def test_every_shaping_setting_is_seen_and_named(model_type: str, tmp_path: Path) -> None:
    before = saved(model_type)
    for number, values in enumerate(SHAPING[model_type]):
        after = changed(before, tmp_path / str(number), **values)
        [said] = mark(before).differences(mark(after))
        assert said.startswith("settings (") and any(key in said for key in values), said
        assert not torch.equal(says(after), says_as_saved(model_type)), values


def test_a_setting_that_a_newer_version_has_with_a_default_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pico_model("llama").config
    before, to_dict = settings_of(config), type(config).to_dict
    monkeypatch.setattr(type(config), "to_dict", lambda self: {**to_dict(self), "newcomer": 7})
    assert settings_of(config) == before


@pytest.mark.parametrize(
    ("name", "change", "same"),
    [
        ("tokenizer.json", lambda t: t["model"]["vocab"].update(good=6, bad=5), False),
        ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"}), False),
        ("tokenizer.json", lambda t: t["added_tokens"].pop(), False),
        ("tokenizer.json", lambda t: t.update(truncation=TRUNCATION), True),
        ("tokenizer_config.json", lambda t: t.update(eos_token="<s>"), False),
        ("tokenizer_config.json", lambda t: t.update(add_prefix_space=True), False),
        ("tokenizer_config.json", lambda t: t.update(chat_template="{{ messages }}"), False),
        ("tokenizer_config.json", lambda t: t.update(name_or_path="/elsewhere", model_max_length=9), True),
    ],
)  # fmt: skip
def test_whatever_changes_ids_is_seen(name: str, change: Callable[[Any], object], same: bool, tmp_path: Path) -> None:
    before = saved("bert")
    after = changed(before, tmp_path)
    document = json.loads((after / name).read_text(encoding="utf-8"))
    (after / name).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    formatted = mark(after)
    change(document)
    (after / name).write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    assert formatted.differences(mark(after)) == ([] if same else ["tokenizer"])


TRUNCATION = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize("name", ["chat_template.jinja", "added_tokens.json"])
def test_a_file_beside_the_tokenizer_is_part_of_it(name: str, tmp_path: Path) -> None:
    after = changed(saved("bert"), tmp_path)
    (after / name).write_text('{"news": 24}', encoding="utf-8")
    assert mark(saved("bert")).differences(mark(after)) == ["tokenizer"]


# --- older fingerprints -----------------------------------------------------------------------------------------------


def as_version_1(new: Fingerprint) -> Fingerprint:
    """What the version before wrote into modules."""
    old = new.model_dump(exclude={"version", "settings", "config", "ids"})
    return Fingerprint.model_validate_json(json.dumps(old))


def test_an_old_fingerprint_is_compared_by_what_it_knows(tmp_path: Path) -> None:
    old = as_version_1(mark(saved("llama")))
    assert old.version == 1
    other = mark(changed(saved("llama"), tmp_path / "settings", rms_norm_eps=0.02))
    assert old.same_host(other) and other.same_host(old)  # it says nothing of settings
    worded = changed(saved("llama"), tmp_path / "words")
    (worded / "tokenizer.json").write_bytes((worded / "tokenizer.json").read_bytes().replace(b"good", b"goof"))
    assert old.differences(mark(worded)) == ["tokenizer"]
    weighed = changed(saved("llama"), tmp_path / "weights")
    tensors = load_file(weighed / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, weighed / "model.safetensors", metadata={"format": "pt"})
    assert old.differences(mark(weighed)) == ["weights"] and old.told_from(mark(weighed)) == "different weights"


# --- the files that are loaded ----------------------------------------------------------------------------------------


def sharded(folder: Path, *, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """Put the host's tensors, or others, in two shards with an index, beside whatever is there."""
    tensors = tensors or load_file(folder / "model.safetensors")
    names = sorted(tensors)
    half = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(half.values())):
        save_file({n: tensors[n] for n in names if half[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": half}))


@pytest.mark.parametrize("get", [load_host, open_host, lambda ref: weight_files(Path(ref))])
def test_two_sets_of_weights_are_refused(get: Callable[[str], object], tmp_path: Path) -> None:
    """transformers reads the single file; an index beside it, perhaps of another host, was hashed."""
    folder = changed(saved("t5"), tmp_path)
    sharded(folder, tensors={n: t + 1 for n, t in load_file(folder / "model.safetensors").items()})
    with pytest.raises(HostRefused, match="expected one set of weights, got two.*take away the one") as refusal:
        get(str(folder))
    assert "\n" not in str(refusal.value)


def test_an_index_of_the_single_file_is_no_second_set(tmp_path: Path) -> None:
    folder = changed(saved("bert"), tmp_path)
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert mark(folder).same_host(mark(saved("bert")))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = changed(saved("bert"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    sharded(folder)
    (folder / "model.safetensors").unlink()
    assert mark(folder).same_host(mark(saved("bert")))
    save_file(tensors, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    with pytest.raises(HostRefused, match="expected each tensor in one file, got .* in two"):
        load_host(str(folder))
