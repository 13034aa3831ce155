"""Answer the cases of tests/oracles/test_adapters.py with the `adapters` library.

    .oracle-venv/bin/python tools/oracle_adapters.py FOLDER

Runs in the oracle's environment (tools/make_env.sh oracle) and imports nothing of peftport. FOLDER holds

    requests.json           a list of cases: name, host, config class and settings of the library, places of slots
    hosts/NAME/             hosts as transformers saves them
    NAME.safetensors        of each case: input/..., weight (of each logit in the loss), matrix/SLOT/NAME

and gets

    NAME.answer.safetensors output/..., and gradient/SLOT/NAME of sum(logits * weight) for every matrix of the request
    NAME.answer.json        of a case that names a config class only: that class's default settings
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from adapters.methods.bottleneck import BottleneckLayer
from adapters.methods.prefix_tuning import PrefixTuningLayer, PrefixTuningPool
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

AUTO = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}  # anything else: AutoModelForCausalLM
LAYERS = {
    "bert": {"layers": "encoder.layer"},
    "llama": {"layers": "layers"},
    "gemma3_text": {"layers": "layers"},
    "gpt2": {"layers": "h"},
    "t5": {"encoder.layers": "encoder.block", "decoder.layers": "decoder.block"},
}
# The library has no class for these: it is told by their names where its adapters go.
INTERFACES: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "adapter_methods": ["bottleneck", "lora"], "model_embeddings": "embed_tokens", "model_layers": "layers",
        "base_model": "model", "layer_self_attn": "self_attn", "layer_cross_attn": None, "attn_q_proj": "q_proj",
        "attn_k_proj": "k_proj", "attn_v_proj": "v_proj", "attn_o_proj": "o_proj",
        "layer_intermediate_proj": "mlp.up_proj", "layer_output_proj": "mlp.down_proj",
        "layer_pre_ffn": "pre_feedforward_layernorm",
    },
}  # fmt: skip
# An adapter of the sum of a layer is told to be behind the norm that ends the FFN: the sum is that plus the residual.
ON_SUMS = {"gemma3_text": {"adapter_methods": ["bottleneck"], "layer_output_proj": "post_feedforward_layernorm"}}
BOTTLENECKS = {"attn_o": "mh_adapter", "ffn_out": "output_adapter", "ffn_sum": "output_adapter"}
HIDDEN = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
NAME = "oracle"

# One of our matrices: the library's parameter that holds it, and where in that parameter (or its gradient) it lies.
Place = tuple[nn.Parameter, Callable[[Tensor], Tensor]]


def main(folder: Path) -> None:
    for request in json.loads((folder / "requests.json").read_text(encoding="utf-8")):
        if "host" not in request:
            defaults = dataclasses.asdict(getattr(adapters, request["config"])())
            (folder / f"{request['name']}.answer.json").write_text(json.dumps(defaults), encoding="utf-8")
        else:
            answer(folder, request)


def answer(folder: Path, request: dict[str, Any]) -> None:
    tensors = load_file(folder / f"{request['name']}.safetensors")
    matrices = {key.removeprefix("matrix/"): t for key, t in tensors.items() if key.startswith("matrix/")}
    inputs: dict[str, Any] = {key.removeprefix("input/"): t for key, t in tensors.items() if key.startswith("input/")}
    model = load(folder / "hosts" / request["host"], request)
    places = {key: place(model, request, *key.rsplit("/", 1)) for key in matrices}
    check_all_placed(model, places)
    with torch.no_grad():
        for key, (parameter, where) in places.items():
            where(parameter).copy_(matrices[key])
    if model.config.model_type != "bert":
        inputs["use_cache"] = False
    output = model(**inputs, output_hidden_states=True)
    out = {f"output/{name}": tensor for name, tensor in named_outputs(output)}
    if places:
        (output.logits * tensors["weight"]).sum().backward()
    out |= {f"gradient/{key}": where(parameter.grad) for key, (parameter, where) in places.items()}
    save_file(
        {key: t.detach().clone().contiguous() for key, t in out.items()},
        folder / f"{request['name']}.answer.safetensors",
    )


def load(host: Path, request: dict[str, Any]) -> nn.Module:
    """The host with a fresh adapter that alone is trained, in evaluation mode. No config: the bare host."""
    model_type = json.loads((host / "config.json").read_text(encoding="utf-8"))["model_type"]
    auto = getattr(transformers, AUTO.get(model_type, "AutoModelForCausalLM"))
    # Eager: SDPA's masks are boolean, and the library hides a prefix behind the wrong value of those (of Llama, GPT-2).
    model = auto.from_pretrained(host, use_safetensors=True, local_files_only=True, attn_implementation="eager")
    if "config" in request:
        adapters.init(model, interface=interface(model_type, request))
        model.add_adapter(NAME, config=getattr(adapters, request["config"])(**request["settings"]))
        model.train_adapter(NAME)
        if request.get("prefix_has_no_position"):
            for module in model.modules():
                if getattr(module, "has_relative_attention_bias", False):
                    leave_prefix_out_of_positions(module, request["settings"]["prefix_length"])
    return model.eval()


def interface(model_type: str, request: dict[str, Any]) -> adapters.AdapterModelInterface | None:
    """Where adapters go in a model that the library does not know; None for one that it knows."""
    if model_type not in INTERFACES:
        return None
    sums = ON_SUMS[model_type] if any(slot.endswith("ffn_sum") for slot in request["paths"]) else {}
    return adapters.AdapterModelInterface(**INTERFACES[model_type] | sums)


def leave_prefix_out_of_positions(attention: Any, length: int) -> None:
    """Give text the relative positions it has without a prefix, and the prefix none.

    The library numbers keys from the start of the prefix and queries from the start of the text, so that a token
    seems ``length`` places away from itself.
    """
    compute_bias = attention.compute_bias

    def of_text_alone(query_length: Any, key_length: int, **options: Any) -> Tensor:
        return F.pad(compute_bias(query_length, key_length - length, **options), (length, 0))

    attention.compute_bias = of_text_alone


def place(model: Any, request: dict[str, Any], slot: str, matrix: str) -> Place:
    """Where the library keeps one of our matrices."""
    if slot == "shared":
        return model.base_model.shared_parameters[NAME][f"phm_{matrix}"], whole
    if slot.startswith("mlp:"):
        return place_in_mlp(model, slot.removeprefix("mlp:"), matrix)
    stack, index, site = slot.rsplit(".", 2)
    if matrix in ("A", "B"):
        return model.base_model.get_submodule(request["paths"][slot]).loras[NAME].get_parameter(f"lora_{matrix}"), whole
    layer = model.base_model.get_submodule(f"{LAYERS[model.config.model_type][stack]}.{index}")
    if matrix in ("keys", "values"):
        return place_in_flat_prefix(model, layer, location(stack, site), matrix)
    adapter = located(layer, BottleneckLayer, BOTTLENECKS[site]).adapters[NAME]
    linear = adapter.adapter_down[0] if matrix.startswith("down") else adapter.adapter_up
    part = matrix.partition("_")[2]
    if type(linear) is nn.Linear:
        return {"": linear.weight, "bias": linear.bias}[part], whole
    return {"left": linear.W_left, "right": linear.W_right, "bias": linear.b}[part], whole


def place_in_flat_prefix(model: Any, layer: nn.Module, key: str, matrix: str) -> Place:
    """Keys and values of one layer inside the one parameter (P * L * 2 * H * head width) of a stack."""
    group = pool(model).prefix_tunings[NAME][key]
    index = located(layer, PrefixTuningLayer, key).prefixes[NAME]
    shape = (group.config.prefix_length, group.n_layers, 2, group.n_heads * group.n_embd_per_head)
    return group.control_trans, lambda flat: flat.view(shape)[:, index, ("keys", "values").index(matrix)]


def place_in_mlp(model: Any, where: str, matrix: str) -> Place:
    group = pool(model).prefix_tunings[NAME][location(*where.rsplit(".", 1))]
    first, second = group.control_trans[0], group.control_trans[2]
    parameters = {
        "embedding": group.wte.weight,
        "in": first.weight, "in_bias": first.bias,
        "out": second.weight, "out_bias": second.bias,
    }  # fmt: skip
    return parameters[matrix], whole


def location(stack: str, site: str) -> str:
    """The library's name for a kind of attention."""
    if site == "cross":
        return "cross_prefix"
    return "encoder_prefix" if stack.startswith("encoder") else "self_prefix"


def pool(model: nn.Module) -> Any:
    [found] = [module for module in model.modules() if isinstance(module, PrefixTuningPool)]
    return found


def located(layer: nn.Module, kind: type, key: str) -> Any:
    """The one module of that kind in a layer that the library calls ``key``."""
    [found] = [module for module in layer.modules() if isinstance(module, kind) and module.location_key == key]
    return found


def whole(tensor: Tensor) -> Tensor:
    return tensor


def check_all_placed(model: Any, places: dict[str, Place]) -> None:
    """Every number that the library trains below the head must be one of ours: no adapter where we have none."""
    trained = {name: p for name, p in model.base_model.named_parameters() if p.requires_grad} if places else {}
    known = {id(parameter) for parameter, _ in places.values()}
    missed = [name for name, parameter in trained.items() if id(parameter) not in known]
    placed = sum(where(parameter).numel() for parameter, where in places.values())
    total = sum(parameter.numel() for parameter in trained.values())
    if missed or placed != total:
        sys.exit(f"the library trains {total} numbers, the request has {placed}; not in the request: {missed}")


def named_outputs(output: Any) -> Iterator[tuple[str, Tensor]]:
    yield "logits", output.logits
    for kind in HIDDEN:
        for index, state in enumerate(output.get(kind) or ()):
            yield f"{kind}.{index}", state


if __name__ == "__main__":
    main(Path(sys.argv[1]))
