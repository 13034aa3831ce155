"""How near a merged model is to the host with the module attached, on two real hosts.

    python benchmarks/merge.py      writes benchmarks/results/merge.json

A LoRA of rank 4 on all linear maps of the layers (random matrices at the scale of trained ones) is folded into the host
and loaded by plain transformers. In float32, a model's logits are only as exact as its sums: the same attached model in
float64 says how far that is, and both in float64 say what rounding the folded weights to float32 changes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import machine_facts
from torch import Tensor

import peftport as pp
from peftport.core.hashing import rng_for
from peftport.hosts.opening import open_host
from peftport.hosts.sources import find_host
from peftport.modules.folders import write_module
from peftport.modules.module import Module, fresh_module
from peftport.techniques import make_spec

OUT = Path(__file__).parent / "results" / "merge.json"
TEXT, NEW_TOKENS, SCALE = "Translate to German: The film was good.", 20, 0.02
ATTENTION, FFN = ("attn_q", "attn_k", "attn_v", "attn_o"), ("ffn_gate", "ffn_in", "ffn_out")
HOSTS = {
    "SmolLM2-135M": (transformers.AutoModelForCausalLM, (*ATTENTION, *FFN)),
    "flan-t5-small": (transformers.AutoModelForSeq2SeqLM, (*ATTENTION, "cross_q", "cross_v", *FFN)),
}


def main() -> None:
    """Measure both hosts and write the figures."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    for name in HOSTS:
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = measured(name, Path(scratch))
        print(name, found[name], flush=True)
    OUT.write_text(json.dumps({"hosts": found, "machine": machine_facts()}, indent=1) + "\n", encoding="utf-8")


def measured(name: str, scratch: Path) -> dict[str, Any]:
    """Largest differences of logits, and whether greedy texts are the same."""
    module, merged, folder = scratch / "module", scratch / "merged", find_host(name).folder
    write_module(random_lora(name), open_host(name), module)
    pp.merge(name, module, out=merged)
    whole, single = {}, {}
    for dtype in (torch.float32, torch.float64):
        whole[dtype] = answers(name, loaded(name, merged, dtype))
        model = loaded(name, folder, dtype)
        bare = answers(name, model)
        with pp.attach(model, module):
            single[dtype] = answers(name, model)
    (logits, text), (exact, _) = single[torch.float32], single[torch.float64]
    return {
        "merged beside attached, float32": largest(whole[torch.float32][0] - logits),
        "the same over the largest logit": largest((whole[torch.float32][0] - logits) / logits.abs().max()),
        "attached in float32 beside itself in float64": largest(logits - exact),
        "merged beside attached, both in float64": largest(whole[torch.float64][0] - exact),
        "effect of the module": largest(exact - bare[0]),
        "the same text": text == whole[torch.float32][1],
    }


def random_lora(name: str) -> Module:
    """A LoRA with every number from N(0, 0.02^2)."""
    host, spec = open_host(name), make_spec("lora", {"rank": 4, "alpha": 4.0, "sites": HOSTS[name][1]})
    rng, fresh = rng_for(0, "benchmark", "merge"), fresh_module(host, spec, 0)
    matrices = {
        slot: {key: torch.from_numpy(rng.normal(0, SCALE, t.shape)).float() for key, t in own.items()}
        for slot, own in fresh.matrices.items()
    }
    return Module(spec, host.fingerprint, matrices)


def loaded(name: str, folder: Path, dtype: torch.dtype) -> Any:
    """A model by transformers alone."""
    return HOSTS[name][0].from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def answers(name: str, model: Any) -> tuple[Tensor, list[int]]:
    """The logits of one text, in float64, and the tokens of a greedy answer."""
    ids = transformers.AutoTokenizer.from_pretrained(find_host(name).folder)(TEXT, return_tensors="pt")
    start = {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if model.config.is_encoder_decoder else {}
    text = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    return model(**ids, **start).logits.double(), text


def largest(difference: Tensor) -> float:
    """The largest absolute number, to three digits."""
    return float(f"{float(difference.abs().max()):.3g}")


if __name__ == "__main__":
    main()
