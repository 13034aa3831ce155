"""Refusals of PEFT files give the true reason, and the remedy that each names works, as docs/files.md shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from oracles.agreement import batch, outputs_with, worst_output
from oracles.test_peft_settings import CONFIG, TENSORS, config_of, copied, host_of, logits, model_of
from oracles.test_peft_wild import outputs_of_peft
from peftport.core.errors import BadRequest
from peftport.modules.folders import read_module, write_module
from pico import pico_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:peft"),
]
PAGE = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")


def trained(model: Any, folder: Path, **settings: Any) -> Any:
    """A LoRA whose matrices are all random, as training leaves them; DoRA's magnitudes stay as they began."""
    model = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **settings})).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model


def refused(folder: Path, model_type: str, *says: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        read_module(folder, host_of(model_type))
    said = str(refusal.value)
    assert len(said.splitlines()) == 1 and all(word in said for word in says), said
    assert "train it without" not in said
    for anchor in re.findall(r"docs/files\.md#([\w-]+)", said):
        assert anchor in {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", PAGE, re.M)}


KINDS: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
    ("llama", ["q_proj", "v_proj"], {"use_dora": True}),
    ("gpt2", ["c_attn"], {"init_lora_weights": "pissa"}),
)


@pytest.mark.parametrize(("model_type", "names", "settings"), KINDS)
def test_another_kind_of_lora_is_read_for_a_model_in_memory(
    model_type: str, names: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    host = host_of(model_type)
    trained(
        pico_model(model_type), tmp_path / "made", task_type="CAUSAL_LM", target_modules=names,
        fan_in_fan_out=model_type == "gpt2", **settings,
    )  # fmt: skip
    theirs = outputs_of_peft(PeftModel.from_pretrained(pico_model(model_type), tmp_path / "made").eval(), host)
    module = read_module(tmp_path / "made", host)
    inputs = batch(host)
    bare = worst_output(inputs, outputs_with(host, None, inputs), theirs)
    assert worst_output(inputs, outputs_with(host, module, inputs), theirs) <= 1e-2 * bare
    assert bare > 1e-2


HEADED = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}


@pytest.mark.parametrize("auto", HEADED)
def test_without_its_head_a_lora_is_ported_and_loads_on_the_class_it_was_trained_on(auto: str, tmp_path: Path) -> None:
    host, other, folder = host_of("bert"), host_of("bert", 1), tmp_path / "made"
    trained(model_of(auto, host), folder, task_type=HEADED[auto], target_modules=["query", "value"])
    write_module(copied(read_module(folder, host, ("head",)), other), other, tmp_path / "ported", "peft")
    model = PeftModel.from_pretrained(model_of(auto, other), tmp_path / "ported").eval()
    result = model.load_adapter(tmp_path / "ported", "again")
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora_" in key]
    assert float((logits(model, other) - logits(model_of(auto, other), other)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("model_type", "auto", "names", "outside"),
    [
        ("bert", "AutoModel", ["dense"], "pooler.dense"),
        ("bert", "AutoModel", "all-linear", "pooler.dense"),
        ("llama", "AutoModelForCausalLM", ["q_proj", "lm_head"], "lm_head"),
    ],
)
def test_without_its_lora_on_a_pooler_or_head_the_rest_is_ported(
    model_type: str, auto: str, names: Any, outside: str, tmp_path: Path
) -> None:
    host, folder = host_of(model_type), tmp_path / "made"
    trained(model_of(auto, host), folder, target_modules=names)
    write_module(read_module(folder, host, (outside,)), host, tmp_path / "ported", "peft")
    assert config_of(tmp_path / "ported") == config_of(folder) | {"exclude_modules": [outside]}
    PeftModel.from_pretrained(model_of(auto, host), tmp_path / "ported")


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    flat = {change(name): tensor for name, tensor in load_file(folder / TENSORS).items()}
    save_file(flat, folder / TENSORS, metadata={"format": "pt"})


def test_names_of_a_larger_model_and_empty_tensors_are_told_apart_from_another_host(tmp_path: Path) -> None:
    trained(pico_model("llama"), tmp_path, task_type="CAUSAL_LM", target_modules=["q_proj"])
    whole = read_module(tmp_path, host_of("llama")).matrices
    for wrapper in ("model.language_model.layers", "language_model.model.layers"):
        renamed(tmp_path, lambda name, into=wrapper: name.replace("model.layers", into))
        part = read_module(tmp_path, host_of("llama")).matrices
        assert all(torch.equal(part[slot][name], t) for slot, own in whole.items() for name, t in own.items())
        renamed(tmp_path, lambda name, out=wrapper: name.replace(out, "model.layers"))
    renamed(tmp_path, lambda name: name.replace("model.layers", "model.vision_tower.layers"))
    refused(tmp_path, "llama", "larger model", "model.vision_tower")
    renamed(tmp_path, lambda name: name.replace("vision_tower.", ""))
    flat = load_file(tmp_path / TENSORS)
    save_file({name: torch.empty(0) if "lora_B" in name else t for name, t in flat.items()}, tmp_path / TENSORS)
    refused(tmp_path, "llama", "ZeRO-3", "zero_to_fp32.py")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: n.replace("base_model.model.", "base_model.model.module."),
        lambda n: n.replace(".self_attn", "._fsdp_wrapped_module.self_attn").replace(
            "base_", "_fsdp_wrapped_module.base_"
        ),
        lambda n: n.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
    ],
)
def test_wrappers_in_names_are_read_past(wrap: Callable[[str], str], tmp_path: Path) -> None:
    host = host_of("llama")
    trained(pico_model("llama"), tmp_path / "made", task_type="CAUSAL_LM", target_modules=["q_proj"])
    before = load_file(tmp_path / "made" / TENSORS)
    renamed(tmp_path / "made", wrap)
    assert load_file(tmp_path / "made" / TENSORS).keys().isdisjoint(before)
    write_module(read_module(tmp_path / "made", host), host, tmp_path / "written", "peft")
    after = load_file(tmp_path / "written" / TENSORS)
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())


def test_names_that_do_not_start_alike_are_refused(tmp_path: Path) -> None:
    trained(pico_model("llama"), tmp_path, task_type="CAUSAL_LM", target_modules=["q_proj"])
    renamed(
        tmp_path,
        lambda name: name.replace("model.layers.1", "layers.1").replace("base_model.layers", "base_model.model.layers"),
    )
    refused(tmp_path, "llama", "expected names that all start alike")


def test_a_lora_of_an_encoder_alone_is_read_once_its_targets_say_so(tmp_path: Path) -> None:
    host = host_of("t5")
    trained(pico_model("t5"), tmp_path, target_modules=r"encoder.*\.(q|v)")
    kept = config_of(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(kept | {"target_modules": ["q", "v"]}))
    with pytest.raises(
        BadRequest, match="encoder.*alone; let target_modules name that part only, as '(?P<it>.*)'$"
    ) as no:
        read_module(tmp_path, host)
    pattern = str(no.value).rpartition(" as '")[2][:-1].replace("\\\\", "\\")
    (tmp_path / CONFIG).write_text(json.dumps(kept | {"target_modules": pattern}))
    assert {slot.split(".")[0] for slot, own in read_module(tmp_path, host).matrices.items() if own["B"].any()} == {
        "encoder"
    }
