"""All four techniques against the `adapters` library, which runs in an environment of its own (make oracle)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from oracles.agreement import TOLERANCE, Run, batch, loss_weight, random_matrices, run, worst_gradient, worst_output
from oracles.library import ask_library, need_oracle, save_host
from peftport.hosts.host import Host
from peftport.techniques import make_spec
from peftport.techniques.adapter import AdapterSpec
from peftport.techniques.base import Parameters, TechniqueSpec
from peftport.techniques.compacter import CompacterSpec
from peftport.techniques.lora import LoraSpec
from peftport.techniques.prefix import PrefixSpec
from pico import pico_host

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Case:
    """One comparison: a host, a technique (none: the bare host), and what the request says besides."""

    host: str
    spec: TechniqueSpec | None = None
    prefix_has_no_position: bool = False


# T5 as Flan has it: gated, its head untied. `t5-level` has a relative position bias of zeros, `t5-square` attention as
# wide as the model (the library's MLP of a prefix needs it).
HOSTS: dict[str, Callable[[], Host]] = {
    "bert": lambda: pico_host("bert"),
    "t5": lambda: untied(pico_host("t5", tie_word_embeddings=False)),
    "t5-level": lambda: level(untied(pico_host("t5", tie_word_embeddings=False))),
    "t5-square": lambda: untied(pico_host("t5", tie_word_embeddings=False, num_heads=4)),
    "llama": lambda: pico_host("llama"),
    "gemma3_text": lambda: pico_host("gemma3_text"),
    "gpt2": lambda: pico_host("gpt2"),
}

HOULSBY = AdapterSpec(placement="houlsby", reduction_factor=4, activation="swish")
PFEIFFER = AdapterSpec(placement="pfeiffer", reduction_factor=4, activation="relu")
COMPACTER = CompacterSpec(reduction_factor=4)
PREFIX = PrefixSpec(length=5, hidden=0)
MLP = PrefixSpec(length=5, hidden=7)
CASES: dict[str, Case] = {
    **{host: Case(host) for host in HOSTS},
    **{
        f"{host}-{name}": Case(host, spec)
        for host in ("bert", "t5", "llama", "gemma3_text", "gpt2")
        for name, spec in {"houlsby": HOULSBY, "pfeiffer": PFEIFFER, "compacter": COMPACTER}.items()
    },
    **{f"{host}-lora": Case(host, LoraSpec(rank=4, alpha=10)) for host in ("bert", "t5", "llama", "gemma3_text")},
    **{f"{host}-prefix": Case(host, PREFIX) for host in ("bert", "t5-level", "llama", "gpt2")},
    "bert-prefix-mlp": Case("bert", MLP),
    "t5-prefix": Case("t5", PREFIX, prefix_has_no_position=True),
    "t5-prefix-mlp": Case("t5-square", MLP, prefix_has_no_position=True),
    # Settings: bottlenecks of 16 // 3, 2, 1 and less than 1; every nonlinearity; other Kronecker factors.
    "bert-houlsby-3-gelu": Case("bert", AdapterSpec(reduction_factor=3, activation="gelu")),
    "bert-houlsby-8-relu": Case("bert", AdapterSpec(reduction_factor=8, activation="relu")),
    "bert-houlsby-16-swish": Case("bert", AdapterSpec(reduction_factor=16, activation="swish")),
    "bert-pfeiffer-32-swish": Case("bert", AdapterSpec(placement="pfeiffer", reduction_factor=32, activation="swish")),
    "bert-compacter-2-3": Case("bert", CompacterSpec(phm_dim=2, phm_rank=3, reduction_factor=4, activation="swish")),
}
# The library's own way of numbering a prefix, which is not ours: see test_a_prefix_of_t5_has_no_position.
LIBRARY_POSITIONS = "t5-prefix-with-positions"
DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoubleSeqBnConfig": ("adapter", {}),
    "CompacterConfig": ("compacter", {}),
    "PrefixTuningConfig": ("prefix", {}),
    "LoRAConfig": ("lora", {}),
}


def untied(host: Host) -> Host:
    """A head of its own."""
    head: Any = host.model.lm_head
    weight = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(11))
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return host


def level(host: Host) -> Host:
    """A relative position bias of zero everywhere."""
    for name, parameter in host.model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data.zero_()
    return host


def library_config(spec: TechniqueSpec) -> tuple[str, dict[str, Any]]:
    """The library's name and settings for a spec of ours."""
    if isinstance(spec, AdapterSpec):
        name = {"houlsby": "DoubleSeqBnConfig", "pfeiffer": "SeqBnConfig"}[spec.placement]
        return name, {"reduction_factor": spec.reduction_factor, "non_linearity": spec.activation}
    if isinstance(spec, CompacterSpec):
        return "CompacterConfig", {
            "reduction_factor": spec.reduction_factor, "non_linearity": spec.activation,
            "phm_dim": spec.phm_dim, "phm_rank": spec.phm_rank,
        }  # fmt: skip
    if isinstance(spec, PrefixSpec):
        mlp = {"flat": False, "bottleneck_size": spec.hidden} if spec.hidden else {"flat": True}
        return "PrefixTuningConfig", {"prefix_length": spec.length, **mlp}
    assert isinstance(spec, LoraSpec)
    letters = [site[-1] for site in spec.sites if site.startswith("attn_")]
    return "LoRAConfig", {"r": spec.rank, "alpha": spec.alpha, "attn_matrices": letters}


# --- asking the oracle, once for all cases ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


def asked(folder: Path) -> Path:
    """The folder with the oracle's answers to every case. Fails, not skips, where there is no oracle."""
    need_oracle()
    done = ask(folder)
    if done.returncode:
        pytest.fail(f"the oracle failed:\n{done.stderr}", pytrace=False)
    return folder


@cache
def ask(folder: Path) -> subprocess.CompletedProcess[str]:
    """Write every case and run the oracle once on all of them."""
    for name in HOSTS:
        save_host(HOSTS[name](), folder / "hosts" / name)
    cases = {**CASES, LIBRARY_POSITIONS: Case("t5", PREFIX)}
    requests = [write_case(folder, name, case) for name, case in cases.items()]
    requests += [{"name": config, "config": config} for config in DEFAULTS]
    (folder / "requests.json").write_text(json.dumps(requests))
    return ask_library("oracle_adapters.py", folder)


def write_case(folder: Path, name: str, case: Case) -> dict[str, Any]:
    """Write a case's tensors; its entry in requests.json."""
    host, inputs, weight, matrices = posed(case)
    tensors = {f"input/{key}": value for key, value in inputs.items() if torch.is_tensor(value)}
    flat = {f"matrix/{slot}/{key}": tensor for slot, own in matrices.items() for key, tensor in own.items()}
    save_file({**tensors, "weight": weight, **flat}, folder / f"{name}.safetensors")
    request: dict[str, Any] = {"name": name, "host": case.host}
    if case.spec is not None:
        config, settings = library_config(case.spec)
        paths = {slot: host.slots[slot].path for slot in matrices if slot in host.slots}
        request |= {"config": config, "settings": settings, "paths": paths}
    return {**request, "prefix_has_no_position": case.prefix_has_no_position}


def posed(case: Case) -> tuple[Host, dict[str, Any], Tensor, Parameters]:
    """Host, inputs, loss weights and matrices of a case. Positions start at 0, as the library has them."""
    host = HOSTS[case.host]()
    inputs = batch(host, shift=0)
    return host, inputs, loss_weight(host, inputs), random_matrices(host, case.spec) if case.spec else {}


def answered(folder: Path, name: str) -> Run:
    tensors = load_file(folder / f"{name}.answer.safetensors")
    outputs = {key.removeprefix("output/"): t for key, t in tensors.items() if key.startswith("output/")}
    gradients: Parameters = {}
    for key, tensor in tensors.items():
        if key.startswith("gradient/"):
            slot, _, matrix = key.removeprefix("gradient/").rpartition("/")
            gradients.setdefault(slot, {})[matrix] = tensor
    return Run(outputs, gradients)


# --- comparing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_adapters(name: str, folder: Path, record_property: Record) -> None:
    case = CASES[name]
    theirs = answered(asked(folder), name)
    host, inputs, weight, matrices = posed(case)
    ours = run(host, case.spec, matrices, inputs, weight)
    worst = {
        "outputs": worst_output(inputs, ours.outputs, theirs.outputs),
        "gradients": worst_gradient(ours.gradients, theirs.gradients),
    }
    record_property("worst", worst)
    assert worst["outputs"] <= TOLERANCE
    assert worst["gradients"] <= TOLERANCE
    if case.spec is not None:
        bare = answered(folder, case.host)
        assert worst_output(inputs, ours.outputs, bare.outputs) > 1e-2


def test_a_prefix_of_t5_has_no_position(folder: Path) -> None:
    """The one place where we leave the library.

    It counts keys from the start of the prefix and queries from the start of the text, so in T5's relative position
    bias all text moves P places away from itself, and a prefix that says nothing still changes the host. Ours has no
    position and leaves text where it was, which is what the library computes once it leaves the prefix out of its
    positions (`t5-prefix`), or on a host without a bias (`t5-level-prefix`).
    """
    library = answered(asked(folder), LIBRARY_POSITIONS)
    corrected = answered(folder, "t5-prefix")
    _, inputs, _, _ = posed(CASES["t5-prefix"])
    assert worst_output(inputs, corrected.outputs, library.outputs) > 1e-2


@pytest.mark.parametrize("config", DEFAULTS)
def test_defaults_are_those_of_adapters(config: str, folder: Path) -> None:
    spec = make_spec(*DEFAULTS[config])
    theirs = json.loads((asked(folder) / f"{config}.answer.json").read_text())
    _, ours = library_config(spec)
    assert ours == {name: theirs[name] for name in ours}
    assert not theirs.get("use_gating") and not theirs.get("cross_adapter")
