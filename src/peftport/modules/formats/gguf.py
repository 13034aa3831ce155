"""Write a LoRA as a GGUF file, which llama.cpp puts beside a model (``--lora FILE``).

    general.type "adapter"     adapter.type "lora"     adapter.lora.alpha     general.architecture
    blk.0.attn_q.weight.lora_a (R, D_in), blk.0.attn_q.weight.lora_b (D_out, R), ...

llama.cpp adds alpha / R B A, with R as each pair of tensors has it. Names are those of the library `gguf`, which the
project of llama.cpp keeps. Where llama.cpp's files have the rows of a head's queries and keys in another order than
transformers (`ROPE_BY_PAIRS`: its rotary embedding turns neighbours, that of transformers turns halves), the rows of B
are put in that order.

Sources: gguf-py/gguf/tensor_mapping.py, convert_lora_to_gguf.py and convert_hf_to_gguf.py of llama.cpp.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import BadRequest, ModuleRefused
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot, linear_shape
from peftport.modules.module import Module
from peftport.techniques.lora import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor

# By model type of transformers, the architecture as llama.cpp calls it.
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma", "gemma3_text": "gemma3",
    "smollm3": "smollm3", "gpt2": "gpt2", "phi": "phi2", "t5": "t5",
}  # fmt: skip
ROPE_BY_PAIRS = ("llama", "mistral", "smollm3")


def check_gguf(module: Module, host: Host, where: str) -> None:
    """Refuse a module that cannot be written as GGUF.

    Raises:
        BadRequest: the library `gguf` is not installed.
        ModuleRefused: it is no LoRA, or llama.cpp has no name for the places of this host, as far as known here.

    """
    if find_spec("gguf") is None:
        raise BadRequest("gguf: expected the library gguf, which is not installed; pip install 'peftport[gguf]'")
    if not isinstance(module.spec, LoraSpec):
        raise ModuleRefused(
            f"{where}: expected a lora, got a {module.spec.kind}, for which llama.cpp has no place; use it with "
            "transformers (peftport.attach)"
        )
    if host.fingerprint.model_type not in ARCHITECTURES:
        raise ModuleRefused(
            f"{where}: expected a host of model type {', '.join(ARCHITECTURES)}, got {host.fingerprint.model_type}, "
            "whose names in llama.cpp are not known here; fold the module in (peftport merge) and convert the whole "
            "model with llama.cpp's convert_hf_to_gguf.py"
        )


def gguf_tensors(module: Module, host: Host) -> dict[str, Tensor]:
    """Return A and B of every slot that does something, by their names in the file."""
    import gguf

    model_type = host.fingerprint.model_type
    [architecture] = [a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[model_type]]
    names = gguf.get_tensor_name_map(architecture, host.fingerprint.layers)
    prefix = "" if model_type == "t5" else f"{_head_prefix(model_type)}."
    paths: dict[str, list[Slot]] = {}
    for name, own in module.matrices.items():
        if name in host.slots and own["B"].any():
            paths.setdefault(host.slots[name].path, []).append(host.slots[name])
    found: dict[str, Tensor] = {}
    for path, slots in paths.items():
        target = names.get_name(f"{prefix}{path}")
        if target is None:
            raise ModuleRefused(
                f"{slots[0].name}: llama.cpp has no name for {path} in a {ARCHITECTURES[model_type]}; leave this site "
                "out when you train, or fold the module in (peftport merge)"
            )
        a, b = _whole(module, slots, host)
        if model_type in ROPE_BY_PAIRS and slots[0].site in ("attn_q", "attn_k"):
            b = by_pairs(b, _heads(host, slots[0].site))
        found[f"{target}.weight.lora_a"], found[f"{target}.weight.lora_b"] = a, b
    if not found:
        raise ModuleRefused("gguf: expected a lora that changes its host, got one whose B are all zeros; train it")
    return found


def gguf_bytes(module: Module, host: Host, name: str, folder: Path) -> bytes:
    """Return the bytes of the file; ``folder`` is one for a temporary file."""
    import gguf

    assert isinstance(module.spec, LoraSpec)
    path = folder / "lora.gguf"
    writer: Any = gguf.GGUFWriter(path, ARCHITECTURES[host.fingerprint.model_type])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_name(name)
    for key, tensor in gguf_tensors(module, host).items():
        writer.add_tensor(key, tensor.float().contiguous().numpy())
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, _as_float32(module.spec.alpha))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def by_pairs(b: Tensor, heads: int) -> Tensor:
    """Put the rows of B (H W, R) in llama.cpp's order: within a head, unit i and unit i + W / 2 become neighbours."""
    return b.view(heads, 2, -1, b.shape[1]).transpose(1, 2).reshape(b.shape)


def _whole(module: Module, slots: list[Slot], host: Host) -> tuple[Tensor, Tensor]:
    """Combine the LoRAs of the parts of a fused matrix: their A are stacked, their B on a block diagonal.

    llama.cpp divides alpha by the rank of the pair, which grows with the number of parts; B makes up for that.
    """
    out_width, _ = linear_shape(host.slot_module(slots[0]))
    a = torch.cat([module.matrices[slot.name]["A"] for slot in slots])
    b, column = torch.zeros(out_width, len(a)), 0
    for slot in slots:
        own = module.matrices[slot.name]["B"]
        b[slot.start : slot.start + slot.out_width, column : column + own.shape[1]] = own * len(slots)
        column += own.shape[1]
    return a, b


def _heads(host: Host, site: str) -> int:
    config = host.config
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(config.num_attention_heads if site == "attn_q" else key_heads)


def _head_prefix(model_type: str) -> str:
    return "transformer" if model_type == "gpt2" else "model"


def _as_float32(value: float) -> float:
    """The nearest number that the file can hold."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
