"""Put together everything that is known about a port before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from peftport.analysis.prediction import recorded
from peftport.core.progress import Progress, Silent
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting.base import PortCache, PortInputs
from peftport.workflows.checking.choice import MethodChoice, choose_method
from peftport.workflows.checking.host_comparison import FoundOrigin, HostComparison, compare_hosts
from peftport.workflows.checking.likeness import LayerCheck, layer_checks
from peftport.workflows.checking.methods import AvailableInputs, MethodCheck, method_checks
from peftport.workflows.checking.slots import SlotChecks, slot_checks
from peftport.workflows.port_inputs import cut_remarks

NO_TEXTS = "not measured: give --texts FILE|TASK, and both hosts are loaded to read them"


@dataclass(frozen=True, eq=False)
class PortCheck:
    """The result of a check. ``task`` is the name of the task that the module records.

    ``layers_note`` says why layers were not compared, where they were not; ``remarks`` what was cut off texts.
    """

    technique: str
    host_comparison: HostComparison
    slots: SlotChecks
    layers: tuple[LayerCheck, ...]
    layers_note: str | None
    methods: tuple[MethodCheck, ...]
    choice: MethodChoice
    remarks: tuple[str, ...] = ()
    task: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the whole result as JSON values."""
        hosts = self.host_comparison
        tokens = None if hosts.tokens is None else {**asdict(hosts.tokens), "share": hosts.tokens.share}
        return {
            "technique": self.technique,
            "origin": hosts.origin.model_dump(),
            "receiver": hosts.receiver.model_dump(),
            "same_host": hosts.same_host,
            "same": hosts.same,
            "origin_at_hand": hosts.at_hand,
            "origin_note": hosts.note or None,
            "weight_distance": hosts.distance,
            "tokens": tokens,
            **asdict(self.slots),
            "layers": [asdict(layer) for layer in self.layers],
            "layers_note": self.layers_note,
            "methods": [{**asdict(method), "able": method.able} for method in self.methods],
            "choice": asdict(self.choice),
        }


def check_port(
    module: Module[Any],
    origin: FoundOrigin,
    receiver: Host,
    *,
    texts: Sequence[str] = (),
    max_tokens: int = 128,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> PortCheck:
    """Compare the hosts, slot by slot and layer by layer, and choose a method.

    Args:
        module: the module that would be ported.
        origin: the host of the module, loaded where texts are given.
        receiver: the new host, loaded where texts are given.
        texts: unlabelled texts; without any, activations are not compared.
        max_tokens: how many tokens of each of them are read.
        rng: the random numbers for randomised singular vectors of wide matrices.
        progress: receives the progress of the check.

    """
    progress, shared = progress or Silent(), PortCache()
    hosts = compare_hosts(module, origin, receiver)
    slots = slot_checks(module, origin.host, receiver, progress, rng)
    layers: tuple[LayerCheck, ...] = ()
    note: str | None = NO_TEXTS
    if texts and origin.host is not None:
        inputs = PortInputs(origin.host, texts, progress=progress, shared=shared, max_tokens=max_tokens)
        layers = layer_checks(origin.host, receiver, inputs)
        note = None if layers else "the hosts have no stack of layers of one kind"
    elif texts:
        note = f"not measured: {origin.note}"
    methods = method_checks(module, hosts, receiver, AvailableInputs(texts=bool(texts)), recorded().ports)
    strangers = hosts.strangers(not slots.count("fits"))
    choice = choose_method(methods, same_host=hosts.same_host, strangers=strangers)
    remarks = cut_remarks(shared, max_tokens)
    task = None if module.task is None else module.task.name
    return PortCheck(module.spec.kind, hosts, slots, layers, note, methods, choice, remarks, task)
