"""Load and save adapter folders with the `adapters` library, for tests/oracles/test_adapters_files.py.

    .oracle-venv/bin/python tools/oracle_adapter_files.py FOLDER

Runs in the oracle's environment (tools/make_env.sh oracle) and imports nothing of peftport. FOLDER holds

    files.json              a list of cases: name, host, and a folder of ours to load, or a config class with settings
    hosts/NAME/             hosts as transformers saves them
    NAME.safetensors        of each case: input/...

and gets, of each case,

    NAME.answer.safetensors output/... with the adapter
    NAME.saved/             the adapter as the library saves it: the one loaded, or one of random numbers
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from safetensors.torch import load_file, save_file

from oracle_adapters import NAME, named_outputs

AUTO = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "distilbert"), "AutoModelForMaskedLM"),
    **dict.fromkeys(("t5", "mt5", "bart"), "AutoModelForSeq2SeqLM"),
}  # anything else: AutoModelForCausalLM


def main(folder: Path) -> None:
    for request in json.loads((folder / "files.json").read_text(encoding="utf-8")):
        answer(folder, request)


def answer(folder: Path, request: dict[str, Any]) -> None:
    host = folder / "hosts" / request["host"]
    model_type = json.loads((host / "config.json").read_text(encoding="utf-8"))["model_type"]
    auto = getattr(transformers, AUTO.get(model_type, "AutoModelForCausalLM"))
    # Eager: see oracle_adapters.py.
    model = auto.from_pretrained(host, use_safetensors=True, local_files_only=True, attn_implementation="eager")
    adapters.init(model)
    name = load(model, Path(request["folder"])) if "folder" in request else make(model, request)
    save(model, name, folder / f"{request['name']}.saved")
    tensors = load_file(folder / f"{request['name']}.safetensors")
    inputs: dict[str, Any] = {key.removeprefix("input/"): tensor for key, tensor in tensors.items()}
    if AUTO.get(model_type) != "AutoModelForMaskedLM":
        inputs["use_cache"] = False
    with torch.no_grad():
        output = model.eval()(**inputs, output_hidden_states=True)
    out = {f"output/{key}": tensor.clone().contiguous() for key, tensor in named_outputs(output)}
    save_file(out, folder / f"{request['name']}.answer.safetensors")


def load(model: Any, adapter: Path) -> str:
    """Load a folder of ours; every tensor must find its place, and every place its tensor."""
    info: dict[str, Any] = {}
    name = model.load_adapter(
        str(adapter), set_active=True, use_safetensors=True, loading_info=info, with_head=False, local_files_only=True
    )
    # Layers point to the pool of all prefixes, which the library takes for more tensors.
    missing = [key for key in info.get("missing_keys", []) if ".prefix_tuning.pool." not in key]
    if missing or info.get("unexpected_keys"):
        sys.exit(f"{adapter}: {info}")
    return str(name)


def save(model: Any, name: str, out: Path) -> None:
    """With safetensors; for the same reason the library itself can save a prefix as a pickle only."""
    prefix = model.adapters_config.get(name).architecture == "prefix_tuning"
    model.save_adapter(str(out), name, with_head=False, use_safetensors=not prefix)
    if prefix:
        tensors = torch.load(out / "pytorch_adapter.bin", weights_only=True)
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, out / "adapter.safetensors")


def make(model: Any, request: dict[str, Any]) -> str:
    """An adapter of random numbers."""
    model.add_adapter(NAME, config=getattr(adapters, request["config"])(**request["settings"]))
    model.train_adapter(NAME)
    torch.manual_seed(11)
    for parameter in model.base_model.parameters():  # the library trains the head too
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn_like(parameter)
    return NAME


if __name__ == "__main__":
    main(Path(sys.argv[1]))
