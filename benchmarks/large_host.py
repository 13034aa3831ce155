"""A host of the shape of a 1B decoder with random weights, for measurements of time and memory where no hub is at hand.

    python benchmarks/large_host.py FOLDER --tokenizer HOST [--small]
    python benchmarks/ceilings.py --device cuda --hosts FOLDER --formats bfloat16 --entries 1 64 --batch-size 4

Llama with 16 layers x 2048, 32 heads of which 8 hold keys and values, and 8,192 between: what Llama 3.2 1B has, with
the tokenizer's vocabulary. Its weights are drawn, so its scores say nothing; its products cost what a trained one's do.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftport.hosts.sources import find_host

ONE_B = dict(
    hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192
)
SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128)


def main() -> None:
    """Draw the weights and save the host."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", default="SmolLM2-135M", help="the host, or the folder, whose tokenizer it gets")
    parser.add_argument("--small", action="store_true", help="two narrow layers, to try the commands")
    asked = parser.parse_args()
    home = Path(asked.tokenizer) if Path(asked.tokenizer).is_dir() else find_host(asked.tokenizer).folder
    config = LlamaConfig(
        vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2, **(SMALL if asked.small else ONE_B)
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(asked.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(home / name, asked.folder / name)
    print(f"{asked.folder}: {sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion parameters")


if __name__ == "__main__":
    main()
