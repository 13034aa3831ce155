"""PEFT files that are more than a plain LoRA, made by real `peft`: copied as they are, else folded into a LoRA."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor

from peftport.core.errors import ModuleRefused
from peftport.core.hashing import rng_for
from peftport.hosts.changes import add_to_weights
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import HEAD, Module, in_host_dtype, stack
from peftport.porting import porter_named
from peftport.porting.base import PortInputs
from peftport.techniques.attach import attached
from pico import pico_model, word_tokenizer

# peft 0.21 asks transformers 5.23 for this under its old name; the others are advice to whoever trains.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = torch.randint(2, 24, (3, 9), generator=torch.Generator().manual_seed(3))
QV = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Case:
    """A configuration of peft on a host; ``outside``: whether it changes more than linear maps of the layers."""

    config: str
    settings: dict[str, Any]
    model_type: str = "llama"
    outside: bool = False
    tied: bool = False


CASES = {
    "DoRA": Case("LoraConfig", {"target_modules": QV, "r": 2, "use_dora": True}),
    "DoRA with rsLoRA": Case("LoraConfig", {"target_modules": QV, "r": 2, "use_dora": True, "use_rslora": True}),
    "DoRA of a transposed matrix": Case(
        "LoraConfig", {"target_modules": ["c_attn"], "r": 2, "use_dora": True, "fan_in_fan_out": True}, "gpt2"),
    "PiSSA": Case("LoraConfig", {"target_modules": QV, "r": 2, "init_lora_weights": "pissa"}),
    "OLoRA": Case("LoraConfig", {"target_modules": QV, "r": 2, "init_lora_weights": "olora"}),
    "AdaLoRA": Case("AdaLoraConfig", {"target_modules": QV, "init_r": 3, "target_r": 2, "total_step": 10}),
    "IA3": Case(
        "IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "VeRA": Case("VeraConfig", {"target_modules": ["q_proj", "o_proj"], "r": 4}),
    "VeRA without its projections": Case(
        "VeraConfig", {"target_modules": ["q_proj", "o_proj"], "r": 4, "save_projection": False}),
    "LoHa": Case("LoHaConfig", {"target_modules": QV, "r": 2}),
    "LoKr": Case("LoKrConfig", {"target_modules": QV, "r": 2}),
    "OFT": Case("OFTConfig", {"target_modules": QV, "oft_block_size": 4, "r": 0}),
    "a LoRA on the head": Case("LoraConfig", {"target_modules": ["q_proj", "lm_head"], "r": 2}, outside=True),
    "a LoRA on a head that is the embedding": Case(
        "LoraConfig", {"target_modules": ["q_proj", "lm_head"], "r": 2}, outside=True, tied=True),
    "some tokens of a head that is the embedding": Case(
        "LoraConfig", {"target_modules": QV, "r": 2, "trainable_token_indices": [5, 9]}, outside=True, tied=True),
    "a LoRA on an embedding": Case("LoraConfig", {"target_modules": ["q_proj", "embed_tokens"], "r": 2}, outside=True),
    "a whole head": Case("LoraConfig", {"target_modules": QV, "r": 2, "modules_to_save": ["lm_head"]}, outside=True),
    "whole embeddings": Case(
        "LoraConfig", {"target_modules": QV, "r": 2, "modules_to_save": ["embed_tokens"]}, outside=True),
    "some tokens": Case(
        "LoraConfig", {"target_modules": QV, "r": 2, "trainable_token_indices": [5, 9]}, outside=True),
    "biases of a LoRA": Case("LoraConfig", {"target_modules": QV, "r": 2, "lora_bias": True}, "opt", outside=True),
    "the host's biases": Case("LoraConfig", {"target_modules": QV, "r": 2, "bias": "all"}, "opt", outside=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folded")


def a_host(home: Path, model_type: str, seed: int = 0, tied: bool = False) -> Path:
    folder = home / f"{model_type}{seed}{'tied' if tied else ''}"
    if not folder.exists():
        pico_model(model_type, seed=seed, tie_word_embeddings=tied).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return folder


def a_model(host: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(host).eval()


def trained(host: Path, case: Case, out: Path) -> Tensor:
    """What real peft makes of random numbers, saved; returns its logits."""
    torch.manual_seed(1)
    model = get_peft_model(a_model(host), getattr(peft, case.config)(task_type="CAUSAL_LM", **case.settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(out)
    return logits(model.eval())


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


@torch.no_grad()
def ours(host: Host, module: Module) -> Tensor:
    if module.kept is not None:
        add_to_weights(host, module.kept.outside, parts_vocabularies=module.kept.parts_vocabularies)
    body = {slot: own for slot, own in module.matrices.items() if slot != HEAD}
    with attached(host, module.spec, in_host_dtype(host, stack([body]))):
        return logits(host.model)


@pytest.mark.parametrize("name", CASES)
def test_it_is_copied_as_it_is_and_used_as_it_acts(name: str, home: Path, tmp_path: Path) -> None:
    case = CASES[name]
    folder = a_host(home, case.model_type, tied=case.tied)
    want, bare = trained(folder, case, tmp_path / "peft"), logits(a_model(folder))
    assert (want - bare).abs().max() > 0.01
    host = load_host(str(folder), "language_model")
    module = read_module(tmp_path / "peft", host)
    assert module.kept is not None and bool(module.kept.outside) == case.outside
    ported = porter_named("copy").port(module, host, rng_for(0, "porting"))
    write_module(ported, host, tmp_path / "copied", "peft")
    again = PeftModel.from_pretrained(a_model(folder), tmp_path / "copied").eval()
    torch.testing.assert_close(logits(again), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(host, module), want, rtol=0, atol=1e-2 * float((want - bare).abs().max()))


def test_a_dora_on_another_host_acts_as_peft_does_there(home: Path, tmp_path: Path) -> None:
    """Its magnitudes meet other weights: what `copy` gives is folded on them, and any other method carries a LoRA."""
    trained(a_host(home, "llama"), CASES["DoRA"], tmp_path / "peft")
    host, other = load_host(str(a_host(home, "llama"))), a_host(home, "llama", 1)
    receiver = load_host(str(other), "language_model")
    module = read_module(tmp_path / "peft", host)
    ported = porter_named("copy").port(module, receiver, rng_for(0, "porting"))
    want = logits(PeftModel.from_pretrained(a_model(other), tmp_path / "peft").eval())
    difference = float((want - logits(a_model(other))).abs().max())
    torch.testing.assert_close(ours(receiver, ported), want, rtol=0, atol=1e-2 * difference)
    assert [port.method for port in ported.ports] == ["copy", "folded from DoRA"]
    resized = porter_named("resize").port(module, receiver, rng_for(0, "porting"))
    assert resized.kept is None and [port.method for port in resized.ports] == ["folded from DoRA", "resize"]
    assert resized.ports[0].settings["largest_error"] <= 1e-3
    write_module(resized, receiver, tmp_path / "resized", "peft")
    said = json.loads((tmp_path / "resized" / "adapter_config.json").read_text())
    assert not said.get("use_dora") and said["task_type"] == "CAUSAL_LM"
    plain = logits(PeftModel.from_pretrained(a_model(other), tmp_path / "resized").eval())
    torch.testing.assert_close(plain, ours(receiver, resized), rtol=0, atol=1e-5)
    write_module(ported, receiver, tmp_path / "copied", "peft")
    kept = read_module(tmp_path / "copied", receiver)
    assert kept.kept is not None and [port.method for port in kept.ports] == ["copy", "folded from DoRA"]


def test_what_no_map_of_the_layers_has_is_left_out_by_name(home: Path, tmp_path: Path) -> None:
    host = load_host(str(a_host(home, "llama")))
    trained(a_host(home, "llama"), CASES["a LoRA on the head"], tmp_path / "peft")
    module = read_module(tmp_path / "peft", host)
    with pytest.raises(ModuleRefused, match=r"changes lm_head too; leave them out \(--leave-out lm_head\)"):
        porter_named("resize").port(module, host, rng_for(0, "porting"))
    with pytest.raises(ModuleRefused, match="changes lm_head too"):
        write_module(module, host, tmp_path / "native")
    rest = read_module(tmp_path / "peft", host, ("lm_head",))
    assert rest.kept is None
    write_module(porter_named("resize").port(rest, host, rng_for(0, "porting")), host, tmp_path / "rest", "peft")
    PeftModel.from_pretrained(a_model(a_host(home, "llama")), tmp_path / "rest")


@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        ("LoraConfig", {"target_modules": QV, "init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight"),
        ("LoraConfig", {"target_modules": QV, "layer_replication": [[0, 2], [1, 2]]}, "trained on a deeper host"),
        ("LNTuningConfig", {"target_modules": ["input_layernorm"]}, "got LN_TUNING, which is not an update"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason(
    config: str, settings: dict[str, Any], says: str, home: Path, tmp_path: Path
) -> None:
    trained(a_host(home, "llama"), Case(config, settings), tmp_path / "peft")
    with pytest.raises(ModuleRefused, match=says) as refusal:
        read_module(tmp_path / "peft", load_host(str(a_host(home, "llama"))))
    assert len(str(refusal.value).splitlines()) == 1


def test_trained_tokens_follow_their_spelling(home: Path, tmp_path: Path) -> None:
    """On a receiver whose tokenizer has the same words in another order, the same words are trained ones."""
    origin = a_host(home, "llama")
    trained(origin, CASES["some tokens"], tmp_path / "peft")
    receiver = tmp_path / "receiver"
    shutil.copytree(origin, receiver)
    rules = json.loads((receiver / "tokenizer.json").read_text())
    words = rules["model"]["vocab"]
    turned = {word: index if index < 5 else 29 - index for word, index in words.items()}  # 5 <-> 24, 6 <-> 23, ...
    rules["model"]["vocab"] = turned
    (receiver / "tokenizer.json").write_text(json.dumps(rules))
    host, other = load_host(str(origin)), load_host(str(receiver))
    module = read_module(tmp_path / "peft", host)
    ported = porter_named("copy").port(module, other, rng_for(0, "porting"), PortInputs(host))
    write_module(ported, other, tmp_path / "ported", "peft")
    said = json.loads((tmp_path / "ported" / "adapter_config.json").read_text())
    assert said["trainable_token_indices"] == [29 - 5, 29 - 9]
    before, after = (a_model(receiver).get_input_embeddings().weight, rows_of(tmp_path / "ported", receiver))
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert changed == [29 - 9, 29 - 5]
    torch.testing.assert_close(after[[24, 20]], rows_of(tmp_path / "peft", origin)[[5, 9]], rtol=0, atol=0)
    trained(origin, CASES["whole embeddings"], tmp_path / "whole")
    with pytest.raises(ModuleRefused, match="a row for every token; leave it out"):
        porter_named("copy").port(read_module(tmp_path / "whole", host), other, rng_for(0, "porting"))


def rows_of(folder: Path, host: Path) -> Tensor:
    """The embeddings that real peft computes with."""
    merged = PeftModel.from_pretrained(a_model(host), folder).merge_and_unload()
    return merged.get_input_embeddings().weight.detach()


def test_added_tokens_need_the_host_that_has_them(home: Path, tmp_path: Path) -> None:
    model = a_model(a_host(home, "llama"))
    model.resize_token_embeddings(31)
    made = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=QV, modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(model, made).save_pretrained(tmp_path / "peft")
    with pytest.raises(ModuleRefused, match="got 31: tokens were added before the training; give that host"):
        read_module(tmp_path / "peft", load_host(str(a_host(home, "llama"))))
