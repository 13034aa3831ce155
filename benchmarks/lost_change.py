"""Where in a network the change that a module makes is lost on its way to another host: by layer, on held-out texts.

    PYTHONPATH=src:benchmarks python benchmarks/lost_change.py [--receivers NAME,NAME] [--seeds N]
        writes benchmarks/results/lost_change.json, receiver after receiver; --table prints it as Markdown

For the LoRAs of `benchmarks/upgrades.toml`. H and G are the hidden states of the bare origin and the bare receiver
after a layer, a row a word that both read; dH and dG what the module changes in them at home, and its port on the
receiver.

    M = ridge regression of G on H           on 300 texts; `bare explained` is its share of the variance of 200 others
    intended change  dH M                    what the receiver's states would have to change by, if M is right
    kept             <dG, dH M> / ||dH M||^2        1: all of it; 0: nothing, or something else
    cosine           <dG, dH M> / ||dG|| ||dH M||   low: mostly something else

`intended alone` is the accuracy where dH M of the last layer, averaged over a text's words, is added to the bare
receiver's embedding of the text: what the best linear map carries where no weights have to make the change. A module
that was distilled into the receiver, and one that was trained there with labels (`ceiling`), are held against the same
intended change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts
from torch import Tensor
from torch.nn import functional as F
from upgrades import PLAN, Pair, bound, ceiling, declared, distilled, halves, ported, trained

from peftport.core.libraries import without_gradients
from peftport.hosts.host import Host
from peftport.modules.module import Module, stack
from peftport.porting import porter_named
from peftport.porting.alignment.activations import paired_readings
from peftport.porting.alignment.words import Reading, Word
from peftport.porting.base import PortCache, PortInputs
from peftport.tasks import load_task
from peftport.techniques import make_spec, technique_named
from peftport.techniques.attach import attached

OUT = Path(__file__).parent / "results" / "lost_change.json"
FITTED, HELD_OUT = 300, 200
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
METHODS = ("resize", "theseus", "regress", "lorasuite", "bico", "cast")
States = list[Tensor]  # a layer each, (words, D)


@without_gradients
def states(host: Host, reading: Reading, words: Sequence[Word], module: Module | None) -> States:
    """The hidden states after every layer, a row a word."""
    spec = module.spec if module is not None else None
    matrices: Any = {}
    if module is not None:
        technique = technique_named(module.spec.kind)
        matrices = technique.materialise(
            module.spec, technique.slots(module.spec, host.slots), stack([module.matrices])
        )
    pool = reading.pooling(words)
    with attached(host, spec, matrices):
        out = host.base(**reading.inputs, output_hidden_states=True)
    return [pool(each) for each in out.hidden_states[1:]]


class Sums:
    """What is added up over batches: for every layer of the receiver, the products of two sides' rows."""

    def __init__(self, layers: int) -> None:
        self.xx: list[Any] = [0.0] * layers
        self.xy: list[Any] = [0.0] * layers

    def add(self, x: States, y: States) -> None:
        """Add the rows of one batch, with a constant beside x."""
        for layer, (a, b) in enumerate(zip(x, y, strict=True)):
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
            self.xx[layer] = self.xx[layer] + a.T @ a
            self.xy[layer] = self.xy[layer] + a.T @ b

    def maps(self, penalty: float) -> States:
        """Ridge regression of y on x, (D_s + 1, D_t) a layer; the penalty is in units of the mean variance."""
        found = []
        for xx, xy in zip(self.xx, self.xy, strict=True):
            ridge = penalty * xx.diagonal()[:-1].mean() * torch.eye(len(xx), dtype=xx.dtype)
            ridge[-1, -1] = 0.0
            found.append(torch.linalg.solve(xx + ridge, xy))
        return found


def paired_layers(origin: Host, receiver: Host) -> list[int]:
    """Which layer of the origin each layer of the receiver is held against, as ports have it."""
    ours, theirs = (int(host.config.num_hidden_layers) for host in (origin, receiver))
    return [round((j + 1) * ours / theirs) - 1 for j in range(theirs)]


def measure(pair: Pair, seeds: int) -> list[dict[str, Any]]:
    """Every method on one receiver: what is kept, layer by layer, averaged over seeds."""
    origin, receiver = pair.home.host, pair.away.host
    pairing = paired_layers(origin, receiver)
    texts = list(dict.fromkeys(pair.away.task.train.texts))
    fitted, held_out = (
        list(paired_readings(origin, receiver, PortInputs(texts=part, max_tokens=64), ""))
        for part in (texts[:FITTED], texts[FITTED : FITTED + HELD_OUT])
    )
    sums, inner = Sums(len(pairing)), Sums(len(pairing))
    for at, (ours, theirs, words) in enumerate(fitted):
        x, y = states(origin, ours, words, None), states(receiver, theirs, words, None)
        sums.add([x[layer] for layer in pairing], y)
        if at % 2:  # half of the texts, to choose the penalty by the other half
            inner.add([x[layer] for layer in pairing], y)
    bare = [(states(origin, o, w, None), states(receiver, t, w, None)) for o, t, w in held_out]
    chosen = min(PENALTIES, key=lambda penalty: _error(inner.maps(penalty), fitted, origin, receiver, pairing))
    maps = sums.maps(chosen)
    explained = _explained(maps, bare, pairing)
    rows = []
    for name in (*METHODS, "distill", "ceiling"):
        make = {"distill": distilled(), "ceiling": ceiling}.get(name) or ported(porter_named(name))
        modules = make(pair)[:seeds]
        kept, cosine = [], []
        for module, away in zip(pair.modules, modules, strict=False):
            intended, made = _changes(module, away, maps, held_out, bare, origin, receiver, pairing)
            kept.append([float((a * b).sum() / (a * a).sum()) for a, b in zip(intended, made, strict=True)])
            cosine.append(
                [
                    float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))
                    for a, b in zip(intended, made, strict=True)
                ]
            )
        rows.append({
            "receiver": pair.receiver, "method": name, "bare_explained": explained, "penalty": chosen,
            "kept": np.mean(kept, 0).tolist(), "cosine": np.mean(cosine, 0).tolist(),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return [*rows, {"receiver": pair.receiver, **intended_alone(pair, maps[-1], pairing[-1], seeds)}]


def _error(maps: States, batches: Sequence[Any], origin: Host, receiver: Host, pairing: Sequence[int]) -> float:
    """The squared error of maps on every second batch of the texts, relative to each layer's variance."""
    total = 0.0
    for ours, theirs, words in list(batches)[::2]:
        x, y = states(origin, ours, words, None), states(receiver, theirs, words, None)
        for layer, (source, m) in enumerate(zip(pairing, maps, strict=True)):
            total += float((y[layer] - _mapped(x[source], m)).square().sum() / y[layer].var(0).sum())
    return total


def _mapped(x: Tensor, m: Tensor) -> Tensor:
    return x @ m[:-1] + m[-1]


def _explained(maps: States, bare: Sequence[tuple[States, States]], pairing: Sequence[int]) -> list[float]:
    """The share of variance of the receiver's bare states that the maps explain on held-out texts, a layer each."""
    found = []
    for layer, (source, m) in enumerate(zip(pairing, maps, strict=True)):
        y = torch.cat([there[layer] for _, there in bare])
        error = torch.cat([there[layer] - _mapped(here[source], m) for here, there in bare])
        found.append(1 - float(error.square().sum() / (y - y.mean(0)).square().sum()))
    return found


def _changes(
    module: Module, away: Module, maps: States, held_out: Sequence[Any], bare: Sequence[tuple[States, States]],
    origin: Host, receiver: Host, pairing: Sequence[int],
) -> tuple[States, States]:  # fmt: skip
    """The intended change and the one that the module on the receiver makes, a layer each, (words, D_t)."""
    intended: list[States] = [[] for _ in pairing]
    made: list[States] = [[] for _ in pairing]
    for (ours, theirs, words), (here, there) in zip(held_out, bare, strict=True):
        at_home, on_receiver = states(origin, ours, words, module), states(receiver, theirs, words, away)
        for layer, source in enumerate(pairing):
            intended[layer].append((at_home[source] - here[source]) @ maps[layer][:-1])
            made[layer].append(on_receiver[layer] - there[layer])
    return [torch.cat(each) for each in intended], [torch.cat(each) for each in made]


def intended_alone(pair: Pair, last: Tensor, source: int, seeds: int) -> dict[str, Any]:
    """The accuracy on test items where the last layer's intended change is added to the bare receiver's embeddings."""
    origin, receiver, tested = pair.home.host, pair.away.host, pair.away.tested
    prototypes = pair.away.readout.prototypes.double()  # type: ignore[attr-defined]
    right: list[list[bool]] = [[] for _ in range(seeds + 1)]
    for text, label in zip(tested.texts, tested.labels, strict=True):
        for ours, theirs, words in paired_readings(
            origin, receiver, PortInputs(texts=(text, text + " "), max_tokens=64), ""
        ):
            del theirs
            own = [w for w in words if w[0] == 0]
            here = states(origin, ours, own, None)[source]
            embedding = _embedding(pair, text)
            shifts = [0.0] + [
                ((states(origin, ours, own, m)[source] - here) @ last[:-1]).mean(0) for m in pair.modules[:seeds]
            ]
            for place, shift in enumerate(shifts):
                scores = F.normalize(embedding + shift, dim=-1) @ prototypes.T
                right[place].append(int(scores.argmax()) == int(label))
    return {
        "method": "intended alone",
        "accuracy": [float(np.mean(each)) for each in right[1:]],
        "bare": float(np.mean(right[0])),
    }


@without_gradients
def _embedding(pair: Pair, text: str) -> Tensor:
    from peftport.objectives.base import mean_pooled

    return mean_pooled(pair.away.host, pair.away.readout.encode([text]), 0)[0].double()


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a receiver and method: what is kept after each layer."""
    for receiver in dict.fromkeys(row["receiver"] for row in rows):
        own = [row for row in rows if row["receiver"] == receiver]
        layers = len(own[0]["kept"])
        yield f"**{receiver}**\n"
        yield f"| | {' | '.join(f'layer {n + 1}' for n in range(layers))} |"
        yield f"| --- | {' | '.join(['---:'] * layers)} |"
        yield f"| bare explained | {' | '.join(f'{v:.2f}' for v in own[0]['bare_explained'])} |"
        for row in own:
            if "kept" in row:
                cells = (f"{k:+.2f} ({c:+.2f})" for k, c in zip(row["kept"], row["cosine"], strict=True))
                yield f"| {row['method']}: kept (cosine) | {' | '.join(cells)} |"
        alone = own[-1]
        yield f"\nThe intended change alone: {np.mean(alone['accuracy']):.3f}, the bare receiver {alone['bare']:.3f}.\n"


def main() -> None:
    """Every receiver that has no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receivers", default="relative,stranger,stranger_other_shape")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    asked = parser.parse_args()
    there = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []
    if asked.table:
        print("\n".join(markdown(there)))
        return
    torch.set_num_threads(1)
    ours, theirs = halves(load_task(PLAN["task"]))
    home = bound(PLAN["origin"], ours)
    modules = trained(home, make_spec("lora"), PLAN["origin_steps"])
    for receiver in asked.receivers.split(","):
        if any(row["receiver"] == receiver for row in there):
            continue
        away = bound(PLAN["receivers"][receiver], theirs)
        there += measure(Pair(receiver, "lora", home, away, modules, PortCache()), asked.seeds)
        facts = {"declared": declared(), "seeds": asked.seeds, "machine": machine_facts()}
        OUT.write_text(json.dumps({**facts, "rows": there}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
