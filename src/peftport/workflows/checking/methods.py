"""List every method for one module and two hosts: whether it can be used, what it lacks, and its recorded gains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peftport.analysis.prediction import Asked, Prediction, RecordedPort, predict
from peftport.analysis.prediction.predict import strength
from peftport.analysis.prediction.recorded import FLOOR, MARK
from peftport.analysis.stats import Interval
from peftport.core.errors import BadRequest
from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.porting import PORTERS
from peftport.porting.alignment.transport import check_pairs
from peftport.porting.base import Need, Porter
from peftport.porting.pairs import pair_slots
from peftport.workflows import distill
from peftport.workflows.checking.host_comparison import HostComparison

SAME_HOST = "the receiver is the origin: nothing to foretell"
REMEDIES: dict[Need, str] = {
    "weights": "the origin (--from HOST)",
    "texts": "unlabelled texts (--texts FILE|TASK)",
    "labels": "labels (--task TASK)",
    "anchors": "pairs of modules of other tasks on both hosts (--anchors FOLDER=FOLDER)",
    "training": "texts and training (--task TASK)",
}


@dataclass(frozen=True)
class AvailableInputs:
    """What a port may use: unlabelled texts, a task. Whether the origin is at hand is in `HostComparison`."""

    texts: bool = False
    task: bool = False


@dataclass(frozen=True)
class OnRecord:
    """A port between the same two hosts that a study recorded, perhaps of another module, with its gain.

    ``alike``: whether that module was trained for the same task, about as long; ``basis``: what the record rests on.
    """

    study: str
    task: str
    gain: Interval
    alike: bool = True
    basis: str = ""


@dataclass(frozen=True)
class MethodCheck:
    """What is known about one method for this port.

    Attributes:
        needs: the inputs that this port needs.
        refusal: why the method cannot carry the module; None where it can.
        lacking: the needed input that is not given; None where nothing is missing.
        here: recorded ports between these two hosts by this method; those with most seeds and items come first.
        predicted: the gain that is predicted from other pairs of hosts.

    """

    name: str
    needs: Need
    refusal: str | None
    lacking: str | None
    here: tuple[OnRecord, ...]
    predicted: Prediction

    @property
    def able(self) -> bool:
        """Whether the method can carry the module with the inputs that are given."""
        return self.refusal is None and self.lacking is None

    @property
    def gain(self) -> Interval | None:
        """The gain over the bare receiver: recorded between these hosts, or else predicted; None where unknown."""
        return self.recorded.gain if self.recorded is not None else self.predicted.gain

    @property
    def recorded(self) -> OnRecord | None:
        """The record between these hosts that counts: of a module like this one."""
        return next((port for port in self.here if port.alike), None)


def method_checks(
    module: Module[Any],
    hosts: HostComparison,
    receiver: Host,
    available: AvailableInputs,
    ports: Sequence[RecordedPort],
) -> tuple[MethodCheck, ...]:
    """Check all porters, in their order, and distilling."""
    checks = []
    for porter in PORTERS.values():
        refusal = _refusal(porter, module, receiver)
        needs = porter.needs if refusal else porter.needs_for(module, receiver)
        checks.append(_checked(porter.name, needs, refusal, module, hosts, available, ports))
    checks.append(_checked(distill.NAME, "training", None, module, hosts, available, ports))
    return tuple(checks)


def _checked(
    name: str,
    needs: Need,
    refusal: str | None,
    module: Module[Any],
    hosts: HostComparison,
    available: AvailableInputs,
    ports: Sequence[RecordedPort],
) -> MethodCheck:
    marks = (hosts.origin.weights[:MARK], hosts.receiver.weights[:MARK])
    technique = module.spec.kind
    here = [p for p in ports if (p.marks, p.technique, p.method) == (marks, technique, name)]
    asked = Asked(
        technique, name, hosts.origin.family, hosts.receiver.family, bool(hosts.tokens and hosts.tokens.equal),
        hosts.distance, frozenset(marks), module.task.name if module.task else None,
        module.training.steps if module.training else None, _home_low(module),
    )  # fmt: skip
    if hosts.same_host:
        predicted = Prediction(unknown=SAME_HOST)
    elif not hosts.at_hand:
        predicted = Prediction(unknown="the origin is not at hand, so how far apart the weights are is not known")
    else:
        predicted = predict(ports, asked)
    return MethodCheck(name, needs, refusal, _lacking(needs, hosts, available), _recorded(here, asked), predicted)


def _home_low(module: Module) -> float | None:
    """The lower bound of what a module gained at home in accuracy, where it records that."""
    home = module.training.home if module.training else None
    return home.low if home is not None and home.metric == "accuracy" else None


def _recorded(ports: Iterable[RecordedPort], asked: Asked) -> tuple[OnRecord, ...]:
    ordered = sorted(ports, key=lambda p: -p.seeds * p.items)
    settled = asked.home_low is None or asked.home_low >= FLOOR
    return tuple(
        OnRecord(p.study, p.task, p.gain_interval, settled and p.learnt and asked.trained_like(p), strength([p]))
        for p in ordered
    )


def _refusal(porter: Porter, module: Module[Any], receiver: Host) -> str | None:
    """Return why a porter cannot carry a module: by what it declares, and by slots that it would leave out."""
    refusal = porter.refusal(module, receiver)
    if refusal is not None or (porter.fits.width, porter.fits.depth) == ("same", "same"):
        return refusal
    try:
        check_pairs(module, receiver, pair_slots(module, receiver.slots, receiver.kind), porter.name)
    except BadRequest as error:
        return str(error)
    return None


def _lacking(needs: Need, hosts: HostComparison, available: AvailableInputs) -> str | None:
    with_origin: tuple[Need, ...] = ("weights", "texts", "training")
    provided: dict[Need, bool] = {"texts": available.texts, "labels": available.task, "training": available.task}
    provided["anchors"] = False  # `auto` never uses them
    missing = [REMEDIES["weights"]] if needs in with_origin and not hosts.at_hand else []
    if not provided.get(needs, True):
        missing.append(REMEDIES[needs])
    return " and ".join(missing) or None
