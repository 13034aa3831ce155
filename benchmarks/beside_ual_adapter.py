"""The projection of the real ual-adapter package beside our `resize`: LoRA from all-MiniLM-L6-v2 to DistilBERT.

    pip install --no-deps ual-adapter==0.1.0 loguru==0.7.3
    PYTHONPATH=src:benchmarks python benchmarks/beside_ual_adapter.py  writes benchmarks/results/ual_adapter.json

Only its projection of matrices can be run on these hosts: what its 0.1.0 exports has one of a LoRA's two matrices (both
get one name), and it imports for GPT-2, Llama, Pythia and Qwen alone. So its `DimensionProjector` is given every slot's
A and B, paired as `resize` pairs them. Settings are those of studies/porting-shape.toml; 95 % intervals over seeds and
test items (peftport.analysis.stats.crossed).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts

from peftport.analysis.stats.crossed import crossed_from_items
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.porting.pairs import pair_slots
from peftport.tasks import load_task
from peftport.techniques import make_spec, technique_named
from peftport.techniques.base import Parameters
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import TrainSettings

OUT = Path(__file__).parent / "results" / "ual_adapter.json"
ORIGIN, RECEIVER, TASK = "all-MiniLM-L6-v2", "distilbert-base-cased", "rotten_tomatoes"
SEEDS, STEPS, MORE, ITEMS = tuple(range(5)), 60, 10, 300
Project = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def projector() -> Project:
    """`project_adapter` of the installed package; its file alone, since importing the package imports much more."""
    try:
        found = distribution("ual-adapter").locate_file("ual_adapter/core/projection.py")
    except PackageNotFoundError:
        raise SystemExit("not installed; pip install --no-deps ual-adapter==0.1.0 loguru==0.7.3") from None
    spec = importlib.util.spec_from_file_location("ual_projection", str(found))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    project: Project = module.DimensionProjector().project_adapter
    return project


def projected(module: Module, receiver: Host, method: str) -> Parameters:
    """Every slot's A and B through the package's projection."""
    project, made = projector(), {}
    for name, pair in pair_slots(module, receiver.slots, receiver.kind).items():
        assert pair is not None  # both have every slot
        own, slot = module.matrices[pair.origin], receiver.slots[name]
        a, b = project(own["A"], own["B"], slot.in_width, slot.out_width, method=method)
        made[name] = {"A": a.float().contiguous(), "B": b.float().contiguous()}
    return made


def resized(module: Module, receiver: Host) -> Parameters:
    """Ours."""
    return porter_named("resize").port(module, receiver, rng_for(0, "port")).matrices


def tested(bound_task: BoundTask, starts: list[Parameters]) -> dict[int, Any]:
    """Per-item results (S, N) at once and after a few steps."""
    spec = make_spec("lora")
    rate = technique_named("lora").learning_rates[bound_task.host.kind]
    kept = bound_task.train(spec, [Start(p, s) for p, s in zip(starts, SEEDS, strict=True)], (0, MORE), rate)
    return {
        steps: np.stack([s.correct for s in bound_task.test(spec, [one[steps].matrices for one in kept])])
        for steps in (0, MORE)
    }


def main() -> None:
    """Train on the origin, carry over in three ways, test."""
    settings = TrainSettings(max_tokens=64)
    home = bind_task(ORIGIN, load_task(TASK), settings=settings, test_items=ITEMS)
    spec, rate = make_spec("lora"), technique_named("lora").learning_rates[home.host.kind]
    kept = home.train(spec, [Start(home.fresh(spec, s), s) for s in SEEDS], (STEPS,), rate)
    modules = [home.module(spec, one[STEPS], s, rate) for s, one in zip(SEEDS, kept, strict=True)]
    away = bind_task(RECEIVER, load_task(TASK), settings=settings, test_items=ITEMS)
    ways = {
        "ual-adapter svd": [projected(m, away.host, "svd") for m in modules],
        "ual-adapter truncate": [projected(m, away.host, "truncate") for m in modules],
        "resize": [resized(m, away.host) for m in modules],
    }
    found = {way: tested(away, starts) for way, starts in ways.items()}
    rows = []
    for way, correct in found.items():
        for steps in (0, MORE):
            crossed = crossed_from_items(np.stack([correct[steps], found["resize"][steps]])[None])
            gain = crossed.contrast([1.0, -1.0])
            estimate, margin = float(gain.estimate[0]), float(gain.margin(0.95)[0])
            over = [estimate, estimate - margin, estimate + margin]
            rows.append({"way": way, "steps": steps, "accuracy": float(crossed.mean[0, 0]), "over_resize": over})
            print(rows[-1], flush=True)
    same = all(
        torch.equal(one[slot][name], other[slot][name])
        for one, other in zip(ways["ual-adapter truncate"], ways["resize"], strict=True)
        for slot in other
        for name in ("A", "B")
    )
    facts = {"machine": machine_facts(), "seeds": SEEDS, "origin_steps": STEPS, "items": ITEMS}
    OUT.write_text(json.dumps(facts | {"truncate_is_resize_bit_for_bit": same, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
