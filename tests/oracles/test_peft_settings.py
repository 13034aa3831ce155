"""What a configuration says goes out as it came in: LoRAs drawn at random, made by `peft`, ported, loaded again."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oracles.agreement import TOLERANCE
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module
from peftport.porting import PORTERS
from pico import SMALL, pico_host

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OF_THE_HOST = {"base_model_name_or_path", "revision"}
LEAVES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"),
    "bert": ("query", "key", "value", "attention.output.dense"),
    "t5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    "gpt2": ("c_attn", "c_fc", "attn.c_proj"),
    "bart": ("q_proj", "v_proj", "fc1", "fc2"),
}
CLASSES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "llama": (("AutoModelForCausalLM", "CAUSAL_LM"), ("AutoModelForCausalLM", None),
              ("AutoModel", "FEATURE_EXTRACTION"), ("AutoModel", None), ("AutoModelForSequenceClassification", None)),
    "bert": (("AutoModel", "FEATURE_EXTRACTION"), ("AutoModelForMaskedLM", None),
             ("AutoModelForTokenClassification", None), ("AutoModelForQuestionAnswering", None)),
    "t5": (("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"), ("AutoModelForSeq2SeqLM", None),
           ("AutoModel", "FEATURE_EXTRACTION")),
    "gpt2": (("AutoModelForCausalLM", "CAUSAL_LM"), ("AutoModel", "FEATURE_EXTRACTION")),
    "bart": (("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"), ("AutoModel", None)),
}  # fmt: skip
CLASSES["qwen3"] = CLASSES["llama"]
STARTS = (True, False, "gaussian")


@dataclass(frozen=True)
class Drawn:
    """One LoRA: on which class of model, with which settings, in which numbers."""

    model_type: str
    auto: str
    settings: dict[str, Any]
    numbers: torch.dtype


@cache
def host_of(model_type: str, seed: int = 0) -> Host:
    return pico_host(model_type, seed)


def model_of(auto: str, host: Host) -> Any:
    """A model of that class with the host's own weights."""
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(host.config).eval()
    inner = getattr(model, host.model.base_model_prefix, model)
    inner.load_state_dict(host.base.state_dict(), strict=False)
    return model


@st.composite
def drawn(draw: st.DrawFn, model_types: tuple[str, ...] = tuple(LEAVES)) -> Drawn:
    model_type = draw(st.sampled_from(model_types))
    auto, task_type = draw(st.sampled_from(CLASSES[model_type]))
    leaves = draw(st.lists(st.sampled_from(LEAVES[model_type]), min_size=1, max_size=4, unique=True))
    spelling = draw(st.sampled_from(["list", "list", "pattern"]))
    said: dict[str, Any] = {
        "task_type": task_type,
        "target_modules": leaves if spelling == "list" else rf".*\.({'|'.join(leaves)})",
        "r": draw(st.integers(1, 6)),
        "lora_alpha": draw(st.one_of(st.integers(1, 40), st.floats(0.1, 40))),
        "lora_dropout": draw(st.sampled_from([0.0, 0.1])),
        "use_rslora": draw(st.booleans()),
        "init_lora_weights": draw(st.sampled_from(STARTS)),
        "fan_in_fan_out": model_type == "gpt2",
        "revision": draw(st.sampled_from([None, "main", "v1"])),
    }
    place = draw(st.sampled_from([r".*\.0\..*", r".*1\..*", leaves[0], rf".*({leaves[0]}|nothing)"]))
    ranks = draw(st.sampled_from([{}, {place: 3}, {leaves[-1]: 2, place: 5}]))
    alphas = draw(st.sampled_from([{}, {place: 7}, {place: 1.5, leaves[-1]: 3}]))
    # peft saves them sorted, and reads them in their order: in another one its own file means something else
    said |= {"rank_pattern": dict(sorted(ranks.items())), "alpha_pattern": dict(sorted(alphas.items()))}
    if spelling == "list" and model_type in ("llama", "qwen3") and auto != "AutoModel" and draw(st.booleans()):
        said["layers_to_transform"] = draw(st.sampled_from([0, 1, [0], [0, 1]]))
        said["layers_pattern"] = draw(st.sampled_from([None, "layers", ["layers"]]))
    elif len(leaves) > 1 and draw(st.booleans()):
        said["exclude_modules"] = draw(st.sampled_from([[leaves[0]], rf".*\.0\..*{leaves[0]}"]))
    numbers = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    return Drawn(model_type, auto, said, numbers)


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # of patterns that match nothing
        warnings.simplefilter("ignore", FutureWarning)
        yield


def made(lora: Drawn, host: Host, folder: Path) -> None:
    """Real peft makes it, every number of it random; the file's numbers are rounded to the drawn type."""
    model = get_peft_model(model_of(lora.auto, host), LoraConfig(**lora.settings))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder, save_embedding_layers=False)
    flat = load_file(folder / TENSORS)
    save_file({name: tensor.to(lora.numbers) for name, tensor in flat.items()}, folder / TENSORS)


def config_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return read


def logits(model: nn.Module, host: Host) -> Tensor:
    ids = torch.tensor([[5, 9, 20, 7, 11], [6, 14, 8, 10, 21]])
    more = {"decoder_input_ids": ids} if host.kind == "encoder_decoder" else {}
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    return next(
        iter(tensor for name, tensor in output.items() if name in ("logits", "last_hidden_state", "start_logits"))
    )


def loaded(lora: Drawn, host: Host, folder: Path) -> nn.Module:
    """Real peft's model of a folder on the class it was trained on: no tensor missing, none left over."""
    model = PeftModel.from_pretrained(model_of(lora.auto, host), folder).eval()
    result = model.load_adapter(folder, "again")
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora_" in key]
    model.set_adapter("default")
    return model


def copied(module: Module, receiver: Host) -> Module:
    return PORTERS["copy"].port(module, receiver, rng_for(0, "test"))


FEW = settings(
    max_examples=8, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), derandomize=True
)


@FEW
@given(lora=drawn())
def test_to_the_same_host_a_lora_comes_out_as_it_came_in(lora: Drawn) -> None:
    """Every key of the configuration, every bit of every tensor, straight or by way of our own format."""
    host = host_of(lora.model_type)
    with tempfile.TemporaryDirectory() as home, quiet():
        before, after = Path(home) / "before", Path(home) / "after"
        made(lora, host, before)
        said = config_of(before) | {"a_key_of_tomorrow": None, "peft_version": "9.9"}
        (before / CONFIG).write_text(json.dumps(said))
        module = copied(read_module(before, host), host)
        write_module(module, host, after, "peft")
        assert json.dumps(config_of(after)) == json.dumps(said)  # in their order
        first, second = load_file(before / TENSORS), load_file(after / TENSORS)
        assert first.keys() == second.keys()
        assert all(
            second[key].dtype == tensor.dtype and torch.equal(second[key], tensor) for key, tensor in first.items()
        )
        write_module(module, host, Path(home) / "native")
        write_module(read_module(Path(home) / "native"), host, Path(home) / "again", "peft")
        assert config_of(Path(home) / "again") == said


@FEW
@given(lora=drawn())
def test_to_another_host_the_class_it_was_trained_on_loads_it_and_computes_what_peft_does(lora: Drawn) -> None:
    """The same matrices on an updated base: all settings but those of the host, and the logits of the file itself."""
    host, other = host_of(lora.model_type), host_of(lora.model_type, 1)
    with tempfile.TemporaryDirectory() as home, quiet():
        before, after = Path(home) / "before", Path(home) / "after"
        made(lora, host, before)
        write_module(copied(read_module(before, host), other), other, after, "peft")
        said, got = config_of(before), config_of(after)
        assert {key for key in said.keys() | got.keys() if said.get(key) != got.get(key)} <= OF_THE_HOST
        assert (got["base_model_name_or_path"], got["revision"]) == (other.name, None)
        same, ported = (logits(loaded(lora, other, folder), other) for folder in (before, after))
        torch.testing.assert_close(ported, same, rtol=TOLERANCE, atol=TOLERANCE)


PAIRS = (("llama", "qwen3"), ("qwen3", "llama"))


@FEW
@given(lora=drawn(("llama", "qwen3")))
def test_to_another_model_type_too(lora: Drawn) -> None:
    """Another model type, one layer more: the class that stands where its class stood loads it, with our logits."""
    host = host_of(lora.model_type)
    to = dict(PAIRS)[lora.model_type]
    other = deep(to)
    with tempfile.TemporaryDirectory() as home, quiet():
        before, after = Path(home) / "before", Path(home) / "after"
        made(lora, host, before)
        module = PORTERS["skip"].port(read_module(before, host), other, rng_for(0, "test"))
        write_module(module, other, after, "peft")
        said, got = config_of(before), config_of(after)
        assert got["task_type"] == said["task_type"] and got["init_lora_weights"] == said["init_lora_weights"]
        assert got["auto_mapping"] is None
        model = loaded(lora, other, after)
        deltas = {
            name: layer.get_delta_weight("default")
            for name, layer in model.named_modules()
            if hasattr(layer, "get_delta_weight")
        }
        spec: Any = module.spec
        for slot, own in module.matrices.items():
            expected = spec.alpha / spec.rank * own["B"] @ own["A"]
            [found] = [d for n, d in deltas.items() if n.endswith(f".{other.slots[slot].path}")] or [torch.zeros(())]
            torch.testing.assert_close(found.expand_as(expected), expected, rtol=1e-5, atol=1e-5)


@cache
def deep(model_type: str) -> Host:
    assert SMALL[model_type]["num_hidden_layers"] == 2
    return pico_host(model_type, num_hidden_layers=3)


def test_peft_reads_what_is_written(tmp_path: Path) -> None:
    """AutoPeftModel's own way to the base: the receiver, and never the origin's revision."""
    host, other = host_of("llama"), host_of("llama", 1)
    lora = Drawn("llama", "AutoModelForCausalLM", {"task_type": "CAUSAL_LM", "revision": "v1"}, torch.float32)
    with quiet():
        made(lora, host, tmp_path / "made")
    write_module(copied(read_module(tmp_path / "made", host), other), other, tmp_path / "ported", "peft")
    config = PeftConfig.from_pretrained(str(tmp_path / "ported"))
    assert (config.base_model_name_or_path, config.revision) == (other.name, None)
