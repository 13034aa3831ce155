"""The real `theseus` and `bico` of merge-and-rebase beside ours: LoRAs from all-MiniLM-L6-v2 to two hosts of its shape.

    git clone https://github.com/apanariello4/merge-and-rebase OTHER
    PYTHONPATH=src:benchmarks python benchmarks/beside_merge_and_rebase.py OTHER
                                                                 writes benchmarks/results/merge_and_rebase.json

Its two methods are run as they are, from a checkout; only the files that they need are imported, since the package
imports image models. They take whole weights, so they are given alpha / r B A of every slot; their maps are orthogonal,
so the result has rank r and becomes a LoRA again without loss. They pair rows by position (interpolated where rows of
the two hosts differ in length), so every text is cut to one number of tokens, which leaves no padding; ours are paired
by words. Both projects read the same texts, and `bico` takes the loss of the same labels. 95 % intervals over seeds and
test items (peftport.analysis.stats.crossed).
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts
from torch import Tensor, nn

from peftport.analysis.stats.crossed import crossed_from_items
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.tasks import load_task
from peftport.tasks.task import Split, Task
from peftport.techniques import make_spec, technique_named
from peftport.techniques.base import Parameters
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import TrainSettings
from peftport.workflows.port_inputs import open_port_inputs

OUT = Path(__file__).parent / "results" / "merge_and_rebase.json"
ORIGIN, TASK = "all-MiniLM-L6-v2", "rotten_tomatoes"
RECEIVERS = ("sre", "e5-small-first6")  # a relative, and a stranger of the same shape
SEEDS, STEPS, ITEMS, TEXTS, TOKENS, BATCH = (0, 1, 2, 3, 4), 120, 500, 128, 24, 16
METHODS = ("theseus", "bico")
Rows = list[tuple[int, ...]]


def methods_of(checkout: Path) -> dict[str, Any]:
    """Their two methods, without what else their package imports."""
    root = checkout / "src" / "merge_and_rebase"
    if not root.is_dir():
        raise SystemExit(f"{checkout}: expected a checkout of merge-and-rebase, which has src/merge_and_rebase")
    for name in ("", ".models", ".rebase", ".rebase.methods", ".merge"):
        package = types.ModuleType(f"merge_and_rebase{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[package.__name__] = package
    return {
        "theseus": importlib.import_module("merge_and_rebase.rebase.methods.theseus").TheseusRebase(),
        "bico": importlib.import_module("merge_and_rebase.rebase.methods.bico").BiCoRebase(),
    }


class Encoder(nn.Module):
    """A host as their methods call a model: the part to carry is `visual`, and `encode_image` runs it."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.visual = host.base

    def encode_image(self, rows: Tensor) -> Tensor:
        """The last hidden states of token rows (B, T)."""
        states: Tensor = self.visual(input_ids=rows, attention_mask=torch.ones_like(rows))[0]
        return states


class Batches:
    """Batches of token rows and labels, in one order."""

    def __init__(self, rows: Rows, labels: Tensor) -> None:
        self.rows, self.labels = torch.tensor(rows), labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Both hosts' batches are zipped by their code."""
        return zip(self.rows.split(BATCH), self.labels.split(BATCH), strict=True)


def long_texts(task: Task, hosts: tuple[Host, ...]) -> Task:
    """The task with the first training texts that fill every row of both hosts, so that none is padded."""

    def fills(host: Host, text: str) -> bool:
        return len(host.tokenizer(text, add_special_tokens=False)["input_ids"]) >= TOKENS

    train = task.train
    kept = [i for i, text in enumerate(train.texts[:3000]) if all(fills(host, text) for host in hosts)][:TEXTS]
    ids, examples = (tuple(part[i] for i in kept) for part in (train.ids, train.examples))
    return replace(task, train=Split(ids, examples, np.asarray(train.targets)[kept]))


def their_loss(bound: BoundTask) -> Any:
    """A recipe of their kind: the loss of a batch by our readout, and a second value that they do not use."""

    def recipe(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        rows = [tuple(row) for row in batch[0].tolist()]
        return bound.readout.loss(rows, batch[1], None, 0).sum(), None

    return recipe


def theirs(method: Any, module: Module, home: BoundTask, away: BoundTask) -> Parameters:
    """Their port of every slot's update, as a LoRA of the same rank."""
    hosts, batches = (home.host, away.host), []
    for bound in (home, away):
        encoded = bound.train_split
        assert len({len(row) for row in encoded.rows}) == 1, "a row is padded"
        batches.append(Batches([tuple(row) for row in encoded.rows], torch.tensor(np.array(encoded.targets))))
    scale, rank = module.spec.alpha / module.spec.rank, module.spec.rank
    delta = {
        f"visual.{home.host.slots[slot].path}.weight": scale * own["B"] @ own["A"]
        for slot, own in module.matrices.items()
    }
    models = [Encoder(host) for host in hosts]
    for model in models:
        model.requires_grad_(True)  # their hooks need a graph
    bases = [{name: t.detach().clone() for name, t in model.state_dict().items()} for model in models]
    more = {"source_recipe": their_loss(home), "target_recipe": their_loss(away)} if method.name == "bico" else {}
    found = method.transport(
        source_base=bases[0], target_base=bases[1], delta=delta, source_model=models[0], target_model=models[1],
        source_dataloader=batches[0], target_dataloader=batches[1], device="cpu", seq_align="interpolate",
        patch_qkv=False, verbose=False, show_progress=False, **more,
    )  # fmt: skip
    for model in models:
        model.requires_grad_(False)
    made: Parameters = {}
    for slot in module.matrices:
        u, s, vt = torch.linalg.svd(found[f"visual.{away.host.slots[slot].path}.weight"].double(), full_matrices=False)
        assert float(s[rank:].norm()) <= 1e-4 * float(s.norm()), "their maps are orthogonal, so the rank stays"
        made[slot] = {
            "A": (s[:rank].sqrt()[:, None] * vt[:rank] / scale).float().contiguous(),
            "B": (u[:, :rank] * s[:rank].sqrt()).float().contiguous(),
        }
    return made


def ours(method: str, module: Module, home: BoundTask, away: BoundTask) -> Parameters:
    """Our port; `bico` by the same labels."""
    porter = porter_named(method)
    inputs = open_port_inputs(porter, module, away.host, origin=home.host, bound_task=away)
    assert (inputs.labelled_at_home is not None) == (method == "bico")
    return porter.port(module, away.host, rng_for(0, "port"), inputs).matrices


def apart(one: Parameters, other: Parameters) -> dict[str, float]:
    """The mean over slots of |dW - dW'| / |dW'| and of the cosine between both updates."""
    distances, cosines = [], []
    for slot, own in other.items():
        a, b = (each[slot]["B"] @ each[slot]["A"] for each in (one, other))
        distances.append(float((a - b).norm() / b.norm()))
        cosines.append(float((a * b).sum() / (a.norm() * b.norm())))
        assert own["A"].shape == one[slot]["A"].shape
    return {"distance": float(np.mean(distances)), "cosine": float(np.mean(cosines))}


def tested(bound: BoundTask, ported: list[Parameters]) -> Any:
    """Per-item results (S, N)."""
    return np.stack([one.correct for one in bound.test(make_spec("lora"), ported)])


def beside(
    receiver: str, methods: dict[str, Any], task: Task, home: BoundTask, modules: list[Module]
) -> dict[str, Any]:
    """Port to one receiver by both projects' methods, compare the updates, and test."""
    cut = TrainSettings(max_tokens=TOKENS)
    away = bind_task(receiver, task, home.readout.name, home.settings, ITEMS)
    few = long_texts(task, (home.host, away.host))
    reading = [bind_task(name, few, home.readout.name, cut) for name in (ORIGIN, receiver)]
    ways: dict[str, list[Parameters]] = {"copy": [dict(m.matrices) for m in modules]}
    updates: list[dict[str, Any]] = []
    for name in METHODS:
        ways[f"{name}, theirs"] = [theirs(methods[name], m, *reading) for m in modules]
        ways[f"{name}, ours"] = [ours(name, m, *reading) for m in modules]
        both = [apart(a, b) for a, b in zip(ways[f"{name}, theirs"], ways[f"{name}, ours"], strict=True)]
        updates.append({"method": name, **{key: float(np.mean([one[key] for one in both])) for key in both[0]}})
        print(receiver, updates[-1], flush=True)
    correct = {way: tested(away, ported) for way, ported in ways.items()}
    bare = np.broadcast_to(away.test(None, [])[0].correct, correct["copy"].shape)
    scores = []
    for way, found in correct.items():
        beside_it = correct[way.replace("theirs", "ours")] if way.endswith("theirs") else bare
        gain = crossed_from_items(np.stack([found, beside_it])[None]).contrast([1.0, -1.0])
        estimate, margin = float(gain.estimate[0]), float(gain.margin(0.95)[0])
        over = "over_ours" if way.endswith("theirs") else "over_bare"
        row = {"way": way, "accuracy": float(found.mean()), over: [estimate, estimate - margin, estimate + margin]}
        scores.append(row)
        print(receiver, row, flush=True)
    return {"receiver": receiver, "bare": float(bare.mean()), "updates": updates, "scores": scores}


def commit_of(checkout: Path) -> str:
    """Which of their commits was run."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(checkout: Path) -> None:
    """Train on the origin, then port to every receiver."""
    methods, settings, task = methods_of(checkout), TrainSettings(max_tokens=64), load_task(TASK)
    home = bind_task(ORIGIN, task, settings=settings, test_items=ITEMS)
    spec, rate = make_spec("lora"), technique_named("lora").learning_rates[home.host.kind]
    kept = home.train(spec, [Start(home.fresh(spec, s), s) for s in SEEDS], (STEPS,), rate)
    modules = [home.module(spec, one[STEPS], s, rate) for s, one in zip(SEEDS, kept, strict=True)]
    facts = {
        "machine": machine_facts(), "origin": ORIGIN, "task": TASK, "seeds": SEEDS, "origin_steps": STEPS,
        "items": ITEMS, "texts": TEXTS, "tokens": TOKENS, "their_commit": commit_of(checkout),
    }  # fmt: skip
    pairs = [beside(receiver, methods, task, home, modules) for receiver in RECEIVERS]
    OUT.write_text(json.dumps(facts | {"pairs": pairs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("expected the folder of a checkout of merge-and-rebase")
    main(Path(sys.argv[1]))
