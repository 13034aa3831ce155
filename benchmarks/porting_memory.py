"""Time and memory of porting a LoRA between two random Llama-shaped hosts by weights alone, one method a process.

    PYTHONPATH=src:benchmarks python benchmarks/porting_memory.py     writes benchmarks/results/porting_memory.json
    PYTHONPATH=src:benchmarks python benchmarks/porting_memory.py --width 512 --layers 4 --methods copy,crosslora

The defaults are the shape of a host of one billion parameters (width 2048, 32 heads of which 8 key heads, FFN 8192,
128,256 tokens, bf16) with 4, 8 and 16 of its layers: up to 2.5 GB of disk for each of the two, and once more while
their bytes are copied, which is what a port by `copy` is held against. Peak memory is that of the whole process less
what it held once everything was imported; the time is that of opening both hosts (their fingerprints read every byte
once) and of the port.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from peftport.hosts.opening import open_host
from peftport.modules.module import Module, fresh_module
from peftport.porting import porter_named
from peftport.porting.base import PortInputs
from peftport.techniques import make_spec

OUT = Path(__file__).parent / "results" / "porting_memory.json"
SITES = ["attn_q", "attn_k", "attn_v", "attn_o"]


def write_host(folder: Path, shape: argparse.Namespace, layers: int, seed: int) -> None:
    """A Llama folder with random bf16 weights, written layer by layer: one file a layer."""
    folder.mkdir(parents=True)
    width, kv = shape.width, shape.width // shape.heads * shape.key_heads
    config = dict(
        model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, intermediate_size=4 * width,
        vocab_size=shape.tokens, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * columns**-0.5).bfloat16()

    index: dict[str, str] = {}

    def write(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name)
        index.update(dict.fromkeys(tensors, name))

    def ones() -> torch.Tensor:
        return torch.ones(width, dtype=torch.bfloat16)

    write(
        "embeddings.safetensors",
        {"model.embed_tokens.weight": matrix(shape.tokens, width), "model.norm.weight": ones()},
    )
    for i in range(layers):
        sizes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width)}
        sizes |= {"self_attn.o_proj": (width, width), "mlp.gate_proj": (4 * width, width)}
        sizes |= {"mlp.up_proj": (4 * width, width), "mlp.down_proj": (width, 4 * width)}
        own = {f"model.layers.{i}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        own |= {f"model.layers.{i}.{norm}.weight": ones() for norm in ("input_layernorm", "post_attention_layernorm")}
        write(f"layer-{i:03d}.safetensors", own)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def peak_bytes() -> int:
    """The most memory this process has held; what the parent held is not counted, as it is in getrusage."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def measure(method: str, folders: tuple[Path, Path], rank: int, queue: Any) -> None:
    """One port in a process of its own."""
    torch.set_num_threads(1)
    before, begun = peak_bytes(), time.perf_counter()
    origin, receiver = (open_host(str(folder)) for folder in folders)
    opened = time.perf_counter() - begun
    spec = make_spec("lora", {"rank": rank, "alpha": 2.0 * rank, "sites": SITES})
    module: Module = fresh_module(origin, spec, 0)
    generator = torch.Generator().manual_seed(0)
    for own in module.matrices.values():
        own["B"] = torch.randn(own["B"].shape, generator=generator) * 0.01
    begun = time.perf_counter()
    ported = porter_named(method).port(module, receiver, np.random.default_rng(0), PortInputs(origin=origin))
    queue.put({
        "method": method, "open_seconds": round(opened, 1), "port_seconds": round(time.perf_counter() - begun, 1),
        "module_megabytes": round(4 * ported.parameters / 2**20, 1),
        "peak_megabytes_over_import": round((peak_bytes() - before) / 2**20),
    })  # fmt: skip


def ports(options: argparse.Namespace, layers: int) -> Iterator[dict[str, Any]]:
    """Write two hosts of so many layers, then port between them, method by method."""
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        folders = (Path(place) / "origin", Path(place) / "receiver")
        for seed, folder in enumerate(folders):
            write_host(folder, options, layers, seed)
        begun = time.perf_counter()
        for folder in folders:
            shutil.copytree(folder, Path(place) / "copied")
            shutil.rmtree(Path(place) / "copied")
        yield {"layers": layers, "bytes_of_both_hosts_copied_seconds": round(time.perf_counter() - begun, 1)}
        spawn = multiprocessing.get_context("spawn")
        for method in options.methods.split(","):
            queue = spawn.Queue()
            process = spawn.Process(target=measure, args=(method, folders, options.rank, queue))
            process.start()
            yield {"layers": layers, **queue.get()}
            process.join()


def main() -> None:
    """Measure every depth asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 2048), ("heads", 32), ("key-heads", 8), ("tokens", 128_256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--methods", default="copy,resize,subspace,crosslora,transfusion")
    parser.add_argument("--dir", type=Path, help="where the two hosts are written; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    largest = 2 * options.width * max(options.tokens, 4 * options.width) / 2**20
    shape = {name: getattr(options, name) for name in ("width", "heads", "key_heads", "tokens", "rank")}
    found = {"machine": machine_facts(), **shape, "largest_tensor_megabytes": round(largest, 1), "rows": []}
    for layers in options.layers:
        for row in ports(options, layers):
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
