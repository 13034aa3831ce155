"""LoRA folders as the wild has them: real `peft` makes them, we read them, real `peft` loads what we write again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oracles.agreement import TOLERANCE, batch, loss_weight, named_outputs, outputs_with, run, worst_output
from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import check_fits
from peftport.modules.record import PeftRecord
from pico import pico_host, pico_model, word_tokenizer

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROUNDING = 2.0**-22  # of a slot's scale, multiplied into B and out again
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}


@dataclass(frozen=True)
class Wild:
    """A folder: which host, with which settings peft made it, and what was done to its files afterwards."""

    model_type: str
    settings: dict[str, Any]
    change: Callable[[Path], object] = field(default=lambda folder: None)


def tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], object]:
    return lambda folder: save_file(change(load_file(folder / TENSORS)), folder / TENSORS)


def config(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], object]:
    path = CONFIG
    return lambda folder: (folder / path).write_text(json.dumps(change(json.loads((folder / path).read_text()))))


def as_numbers(dtype: torch.dtype) -> Callable[[Path], object]:
    return tensors(lambda flat: {name: tensor.to(dtype) for name, tensor in flat.items()})


def renamed(change: Callable[[str], str]) -> Callable[[Path], object]:
    return tensors(lambda flat: {change(name): tensor for name, tensor in flat.items()})


OF_OLD = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "fan_in_fan_out", "base_model_name_or_path")
QV = {"target_modules": ["q_proj", "v_proj"]}
LAST = {"target_modules": ["q_proj"], "layers_to_transform": [1]}
WILD: dict[str, Wild] = {
    "rank pattern": Wild("llama", {**QV, "rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_proj": 7}}),
    "alpha pattern": Wild("llama", {**QV, "alpha_pattern": {"v_proj": 3, "model.layers.1.self_attn.q_proj": 20}}),
    "both, regular expressions": Wild(
        "bert", {"rank_pattern": {r"layer\.[1-9]\..*": 2}, "alpha_pattern": {r".*\.(query|key)": 5}}),
    "rslora with patterns": Wild("llama", {**QV, "use_rslora": True, "rank_pattern": {"v_proj": 9}}),
    "rslora": Wild("t5", {"use_rslora": True}),
    "one layer": Wild("llama", LAST),
    "one layer, by its pattern": Wild("llama", {**LAST, "layers_pattern": "layers"}),
    "one layer, as a number": Wild("bert", {"target_modules": ["query"], "layers_to_transform": 0}),
    "names in full": Wild("llama", {"target_modules": ["model.layers.0.self_attn.o_proj", "layers.1.mlp.up_proj"]}),
    "a regular expression": Wild("t5", {"target_modules": r".*decoder.*(SelfAttention|EncDecAttention)\.(q|v)"}),
    "all but some": Wild("llama", {"target_modules": "all-linear", "exclude_modules": ["o_proj"]}),
    "all linear maps": Wild("llama", {"target_modules": "all-linear"}),
    "all linear maps, fused": Wild("gpt2", {"target_modules": "all-linear"}),
    "fan in, fan out": Wild("gpt2", {"rank_pattern": {"h.0.attn.c_attn": 6}, "target_modules": ["c_attn", "c_fc"]}),
    "PEFT's own targets": Wild("bert", {}, config(lambda c: {**c, "target_modules": None})),
    "an old configuration": Wild("bert", {}, config(lambda c: {key: c[key] for key in OF_OLD})),
    "names of training scripts": Wild("bert", {}, renamed(lambda n: n.replace(".weight", ".default.weight"))),
    "names without a wrapper": Wild("bert", {}, renamed(lambda n: n.removeprefix("base_model.model."))),
    "bfloat16": Wild("llama", QV, as_numbers(torch.bfloat16)),
    "float16 with patterns": Wild("llama", {**QV, "alpha_pattern": {"v_proj": 3}}, as_numbers(torch.float16)),
    "dropout": Wild("bert", {"lora_dropout": 0.25}),
}  # fmt: skip
LOADABLE = {name for name in WILD if name not in ("names of training scripts", "names without a wrapper")}


def made_by_peft(wild: Wild, folder: Path) -> nn.Module:
    """Make the folder; the model that made it, its numbers as rounded as the folder's."""
    host = pico_host(wild.model_type)
    fused = {"fan_in_fan_out": True} if wild.model_type == "gpt2" else {}
    settings = {"r": 4, "lora_alpha": 8, **fused, **wild.settings}
    model = get_peft_model(pico_model(wild.model_type), LoraConfig(task_type=TASK_TYPES[host.kind], **settings)).eval()
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    wild.change(folder)
    kept = load_file(folder / TENSORS)
    if next(iter(kept.values())).dtype != torch.float32:
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(next(iter(kept.values())).dtype).float()
    return model


def outputs_of_peft(model: nn.Module, host: Host) -> dict[str, Tensor]:
    with torch.no_grad():
        return named_outputs(model(**batch(host), output_hidden_states=True))


def loaded(folder: Path, model_type: str) -> nn.Module:
    """Real peft's model of a folder, with every tensor of it and no other."""
    model = PeftModel.from_pretrained(pico_model(model_type), folder).eval()
    written, arrived = load_file(folder / TENSORS), get_peft_model_state_dict(model, save_embedding_layers=False)
    assert written.keys() == arrived.keys()
    assert all(torch.equal(written[key].float(), arrived[key].float()) for key in written)
    return model


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("name", WILD)
def test_what_peft_made_computes_the_same_here_and_written_again(name: str, tmp_path: Path) -> None:
    wild = WILD[name]
    host, model = pico_host(wild.model_type), made_by_peft(wild, tmp_path / "made")
    theirs = outputs_of_peft(model, host)
    module = read_module(tmp_path / "made", host)
    check_fits(module, host)
    inputs = batch(host)
    assert worst_output(inputs, outputs_with(host, module, inputs), theirs) <= TOLERANCE
    write_module(module, host, tmp_path / "written", "peft")
    assert (
        worst_output(inputs, outputs_of_peft(loaded(tmp_path / "written", wild.model_type), host), theirs) <= TOLERANCE
    )
    assert worst_output(inputs, theirs, outputs_with(host, None, inputs)) > 1e-2


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("name", sorted(LOADABLE))
def test_ranks_alphas_and_numbers_are_written_as_they_were(name: str, tmp_path: Path) -> None:
    """The same tensors at the same names but for rounding, and the same rank, alpha and scale at each."""
    wild = WILD[name]
    host = pico_host(wild.model_type)
    made_by_peft(wild, tmp_path / "made")
    write_module(read_module(tmp_path / "made", host), host, tmp_path / "written", "peft")
    before, after = load_file(tmp_path / "made" / TENSORS), load_file(tmp_path / "written" / TENSORS)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        torch.testing.assert_close(after[key], tensor, rtol=ROUNDING, atol=0)
    read, written = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("made", "written"))
    for key, default in (("use_rslora", False), ("lora_dropout", 0.0)):
        assert written.get(key, default) == read.get(key, default)
    first, second = (read_module(tmp_path / name, host).file for name in ("made", "written"))
    assert isinstance(first, PeftRecord) and first == second


def test_a_module_with_patterns_is_saved_natively_and_comes_back(tmp_path: Path) -> None:
    """PEFT -> native -> PEFT: the card keeps what the file had at each slot."""
    host = pico_host("llama")
    made_by_peft(WILD["rank pattern"], tmp_path / "made")
    module = read_module(tmp_path / "made", host)
    write_module(module, host, tmp_path / "native")
    again = read_module(tmp_path / "native")
    assert again.file == module.file
    write_module(again, host, tmp_path / "written", "peft")
    before, after = load_file(tmp_path / "made" / TENSORS), load_file(tmp_path / "written" / TENSORS)
    torch.testing.assert_close(after, before, rtol=ROUNDING, atol=0)


def test_zeros_that_fill_a_rank_up_stay_zeros_when_the_module_is_trained(tmp_path: Path) -> None:
    """Their gradient is zero, so that stacked training keeps the ranks of the file."""
    host = pico_host("llama")
    made_by_peft(WILD["rank pattern"], tmp_path / "made")
    module = read_module(tmp_path / "made", host)
    inputs = batch(host)
    gradients = run(host, module.spec, module.matrices, inputs, loss_weight(host, inputs)).gradients
    record = module.file
    assert isinstance(record, PeftRecord)
    assert len({slot.rank for slot in record.slots.values()}) == 3
    for slot, own in gradients.items():
        rank = record.slots[slot].rank
        assert not own["A"][rank:].any() and not own["B"][:, rank:].any()
        assert own["A"][:rank].any()


def test_a_rank_that_a_port_filled_is_written_in_full(tmp_path: Path) -> None:
    """A method that uses the zeros' place loses nothing: the file's rank grows."""
    host = pico_host("llama")
    made_by_peft(WILD["one layer"], tmp_path / "made")
    module = read_module(tmp_path / "made", host)
    filled = {slot: {name: t + 0.1 for name, t in own.items()} for slot, own in module.matrices.items()}
    full = module.with_matrices(filled)
    write_module(full, host, tmp_path / "written", "peft")
    assert len(load_file(tmp_path / "written" / TENSORS)) == 2 * len(module.matrices)
    theirs = outputs_of_peft(loaded(tmp_path / "written", "llama"), host)
    assert worst_output(batch(host), outputs_with(host, full, batch(host)), theirs) <= TOLERANCE


def test_a_lora_made_on_a_model_with_a_head_is_written_for_one(tmp_path: Path) -> None:
    """Though we read it on the body alone: PEFT finds matrices by their names below the whole model."""
    made_by_peft(WILD["dropout"], tmp_path / "made")
    body = pico_host("bert", view="body")
    write_module(read_module(tmp_path / "made", body), body, tmp_path / "written", "peft")
    before, after = load_file(tmp_path / "made" / TENSORS), load_file(tmp_path / "written" / TENSORS)
    assert before.keys() == after.keys()
    assert loaded(tmp_path / "written", "bert")


# --- hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_sharded_host_is_the_same_host(tied: bool, tmp_path: Path) -> None:
    model: Any = pico_model("llama", tie_word_embeddings=tied)
    for name, shards in (("whole", "1GB"), ("sharded", "4KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=shards)
        word_tokenizer().save_pretrained(tmp_path / name)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    whole, sharded = (load_host(str(tmp_path / name), "language_model") for name in ("whole", "sharded"))
    assert sharded.fingerprint.same_host(whole.fingerprint)
    adapter = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)).eval()
    adapter.save_pretrained(tmp_path / "lora")
    module = read_module(tmp_path / "lora", sharded)
    inputs = batch(sharded)
    theirs = outputs_of_peft(adapter, sharded)
    assert worst_output(inputs, outputs_with(sharded, module, inputs), theirs) <= TOLERANCE


# --- refused by name -------------------------------------------------------------------------------------------------

LLAMA = Wild("llama", QV)
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
REFUSED: dict[str, tuple[Wild, str]] = {
    "a matrix that no target names": (Wild("llama", QV, config(lambda c: {**c, "target_modules": ["v_proj"]})),
                                      "target_modules leaves out model.layers.0.self_attn.q_proj"),
    "a target without its matrix": (Wild("llama", QV, tensors(
        lambda t: {k: v for k, v in t.items() if not k.startswith(FIRST[:-2])})), r"layers.0.attn_q: expected lora_A"),
    "a matrix twice": (Wild("llama", QV, tensors(
        lambda t: {**t, f"{FIRST}.other.weight": t[f"{FIRST}.weight"].clone()})), "expected one lora_A for layers.0"),
    "another rank than said": (Wild("llama", QV, config(lambda c: {**c, "rank_pattern": {"q_proj": 3}})), r"\(3, 16\)"),
    "a pattern that is none": (Wild("llama", QV, config(lambda c: {**c, "rank_pattern": {"(q": 3}})), r"got .*\(q"),
    "a pattern without an end": (Wild("llama", QV, config(
        lambda c: {**c, "alpha_pattern": {"(?:.|..|...)*[!?]": 3}})), "name the modules one by one"),
    "a setting of the future": (Wild("llama", QV, config(lambda c: {**c, "use_magic": True})), "use_magic = True"),
    "an alpha out of reach": (Wild("llama", QV, config(lambda c: {**c, "lora_alpha": 1e400})), "lora_alpha"),
    "a rank out of reach": (Wild("llama", QV, config(lambda c: {**c, "r": 10**30})), "layers.0.attn_q"),
    "merged maps of old": (Wild("gpt2", {}, config(lambda c: {**c, "enable_lora": [True, False]})), "enable_lora"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning", "ignore:.*embedding:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_is_refused_by_name(name: str, tmp_path: Path) -> None:
    wild, says = REFUSED[name]
    made_by_peft(wild, tmp_path)
    with pytest.raises(BadRequest, match=says) as refusal:
        read_module(tmp_path, pico_host(wild.model_type))
    assert len(str(refusal.value).splitlines()) == 1


def test_settings_of_the_future_that_are_off_are_no_matter(tmp_path: Path) -> None:
    made_by_peft(LLAMA, tmp_path)
    config(lambda c: {**c, "use_magic": False, "magic_config": None, "magic_list": []})(tmp_path)
    assert read_module(tmp_path, pico_host("llama")).parameters > 0
