"""The interface of a porter: a method that makes a module of one host into a module of another.

A porter declares what it needs, where it can be used and which techniques it can carry. `Porter.port` checks that,
calls the method's own `carry`, and adds a record to the module which says for each slot what was done. `PortInputs` has
everything that a method may use besides the module and the receiver. Methods that need no activations get hosts whose
weights stay on disk and are read matrix by matrix (hosts.weights); the others get loaded hosts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from peftport.core.errors import BadRequest, NotFinite, SlotMismatch
from peftport.core.libraries import torch
from peftport.core.numbers import RawNumbers, is_finite
from peftport.core.progress import Progress, Silent
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import A, Module, PortRecord, check_all_read, check_fits, unfolded
from peftport.porting.pairs import pair_slots, same_shapes
from peftport.techniques import TECHNIQUES, technique_named
from peftport.techniques.base import Technique, TechniqueSpec

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Need = Literal["nothing", "weights", "texts", "labels", "anchors", "training"]


@dataclass(frozen=True)
class Fits:
    """In which dimensions origin and receiver may differ ("any") or must agree ("same")."""

    width: Literal["same", "any"] = "same"
    depth: Literal["same", "any"] = "same"


class LabelledLosses(Protocol):
    """Some labelled texts as a method uses them: the losses of the receiver with the matrices attached to it."""

    def losses(self) -> Iterator[Tensor]:
        """Yield one scalar for each example, with its autograd graph."""


class Anchor(NamedTuple):
    """Two modules that were trained for one task with the same settings, on the origin and on the receiver."""

    origin: Module[Any]
    receiver: Module[Any]


class TextLength(NamedTuple):
    """How many tokens a text has, and how many of them a host reads."""

    tokens: int
    kept: int


class PortCache:
    """A cache that several ports share: loaded hosts, and what depends only on the hosts and the texts.

    ``read`` has, for each host, the texts of which it was asked for activations.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self.read: dict[Host, dict[str, TextLength]] = {}

    def note(self, host: Host, lengths: Mapping[str, TextLength]) -> None:
        """Keep how much a host reads of texts."""
        self.read.setdefault(host, {}).update(lengths)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is stored under the key, or make and store it. A host in a key stands for that object."""
        if key not in self._found:
            self._found[key] = make()
        value: T = self._found[key]
        return value


@dataclass(frozen=True, eq=False)
class PortInputs:
    """What a port may use besides the module and the receiver.

    Attributes:
        origin: the host that the module was trained on.
        texts: unlabelled texts.
        max_tokens: how many tokens of each of them are read; None: as many as go into a row of 96.
        labelled: labelled texts, as losses on the receiver.
        labelled_at_home: the same texts as losses on the origin.
        same_tokens: whether both hosts read each of the labelled texts as the same tokens, in the same order.
        as_technique: the technique of the ported module, if the module's own expands to it; with ``adapter``, a
            Compacter is ported exactly.
        progress: receives the progress of the port.
        shared: a cache, for several ports between the same hosts.
        anchors: modules of other tasks on both hosts.

    """

    origin: Host | None = None
    texts: Sequence[str] = ()
    labelled: LabelledLosses | None = None
    as_technique: str | None = None
    progress: Progress = field(default_factory=Silent)
    shared: PortCache = field(default_factory=PortCache)
    max_tokens: int | None = None
    anchors: Sequence[Anchor] = ()
    labelled_at_home: LabelledLosses | None = None
    same_tokens: bool = False


@dataclass(frozen=True, eq=False)
class PortedMatrices:
    """Matrices for the receiver, a note on each slot, and the new spec if the technique or its settings changed.

    ``kept``: the module of a method that keeps a file which is more than a plain LoRA (`Module.kept`).
    """

    matrices: dict[str, dict[str, Any]]
    slots: dict[str, str]
    spec: TechniqueSpec | None = None
    kept: Module | None = None


class Porter(ABC):
    """A method of porting modules to another host."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Need] = "nothing"
    fits: ClassVar[Fits] = Fits()
    keeps_files: ClassVar[bool] = False
    # Whether it takes the losses of labelled texts on both hosts, where a task is given, though it can do without.
    takes_labels: ClassVar[bool] = False
    # Whether it carries matrices that are `RawNumbers` as well as tensors, so that a port needs no torch.
    carries_numbers: ClassVar[bool] = False

    def cannot_carry(self, technique: Technique[Any]) -> str:
        """The reason why the method cannot carry a technique, in a few words; empty if it can."""
        return ""

    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Mapping[str, Slot]) -> str:
        """The reason why the method cannot carry matrices at a slot of a host with these slots; empty if it can."""
        return ""

    @property
    def techniques(self) -> tuple[str, ...]:
        """The names of the techniques that the method carries."""
        return tuple(name for name, technique in TECHNIQUES.items() if not self.cannot_carry(technique))

    @abstractmethod
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        """Make the receiver's matrices. That the hosts fit and that the needed inputs are there is checked before."""

    def port(
        self, module: Module[A], receiver: Host, rng: np.random.Generator, inputs: PortInputs | None = None
    ) -> Module[A]:
        """Port a module to a receiver. The result has a record of this port.

        Raises:
            SlotMismatch: the module does not fit the receiver by this method.
            BadRequest: something the method needs is not given.
            NotFinite: the result has NaN or infinite numbers.

        """
        inputs = inputs or PortInputs()
        self._check_fits(module, receiver)
        self._check_inputs(module, receiver, inputs)
        ported = self._carried(module, receiver, rng, inputs)
        record = PortRecord(method=self.name, origin=module.host, receiver=receiver.fingerprint, slots=ported.slots)
        made = module.with_matrices(
            _apart(ported.matrices),
            spec=ported.spec or module.spec,
            host=receiver.fingerprint,
            ports=(*module.ports, record),
            kept=None,
        )
        if ported.kept is not None:
            ports = (*unfolded(module).ports, record, *ported.kept.ports)
            made = replace(made, ports=ports, kept=ported.kept.kept, file=ported.kept.file)
        check_fits(made, receiver, self.name)
        return made

    def _carried(
        self, module: Module[Any], receiver: Host, rng: np.random.Generator, inputs: PortInputs
    ) -> PortedMatrices:
        try:
            ported = self.carry(module, receiver, rng, inputs)
            bad = [f"{s}.{n}" for s, of_s in ported.matrices.items() for n, a in of_s.items() if not is_finite(a)]
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise NotFinite(
                f"{self.name}: {receiver.name}: expected matrices that can be decomposed, got: "
                f"{str(error).splitlines()[0]}; use another method, or hosts whose weights are not extremely large"
            ) from error
        if bad:
            raise NotFinite(
                f"{self.name}: {bad[0]}: expected finite numbers for {receiver.name}, got NaN or infinity at "
                f"{len(bad)} matrices; use another method, or hosts whose weights are not extremely large"
            )
        return ported

    def refusal(self, module: Module[Any], receiver: Host) -> str | None:
        """The reason why this method cannot port the module to this receiver, by its declarations; None if it can."""
        try:
            self._check_fits(module, receiver)
        except BadRequest as error:
            return str(error)
        return None

    def _check_fits(self, module: Module[Any], receiver: Host) -> None:
        reason = self.cannot_carry(technique_named(module.spec.kind))
        if reason:
            raise BadRequest(
                f"{self.name}: expected a module of {', '.join(self.techniques)}, got {module.spec.kind}: {reason}; "
                f"methods that carry {module.spec.kind}: {', '.join(methods_for(module.spec.kind))}"
            )
        self.check_slots(module, technique_named(module.spec.kind).slots(module.spec, receiver.slots), receiver)
        if not self.keeps_files:
            check_all_read(module, self.name)
        if self.fits.width == "same" and self.fits.depth == "same":
            check_fits(module, receiver, self.name)
        elif self.fits.width == "same":
            self._check_widths(module, receiver)

    def check_slots(self, module: Module[Any], names: Iterable[str], host: Host) -> None:
        """Refuse slots of a host at which the method cannot carry the module.

        Raises:
            SlotMismatch: there is such a slot; the message gives the reason.

        """
        technique = technique_named(module.spec.kind)
        for name in names:
            reason = self.cannot_carry_at(technique, host.slots[name], host.slots)
            if reason:
                raise SlotMismatch(
                    f"{name}: `{self.name}` cannot carry the {technique.name} at this slot of {host.name}: {reason}; "
                    "use a method that can (peftport check lists them)"
                )

    def _check_widths(self, module: Module[Any], receiver: Host) -> None:
        """Refuse hosts whose residual streams, or whose slots that take from one another, differ in width."""
        others = f"`{self.name}` needs equal widths; methods that do not: "
        others += ", ".join(methods_for(module.spec.kind, width="any"))
        if module.host.width != receiver.width:
            first = next(iter(receiver.slots))
            raise SlotMismatch(
                f"{first}: this {module.spec.kind} is from {module.host.name}, {module.host.width} wide, "
                f"{receiver.name} is {receiver.width} wide there; {others}"
            )
        for name, pair in pair_slots(module, receiver.slots, receiver.kind).items():
            if pair is not None and not same_shapes(module, pair):
                shapes = ", ".join(f"{key} {tuple(m.shape)}" for key, m in module.matrices[pair.origin].items())
                raise SlotMismatch(
                    f"{name}: the {module.spec.kind} from {module.host.name} has {shapes} at {pair.origin}, "
                    f"{receiver.name} is {pair.receiver.in_width} -> {pair.receiver.out_width} wide there; {others}"
                )

    def needs_for(self, module: Module[Any], receiver: Host) -> Need:
        """The input that this port needs; some methods need less if the hosts are alike."""
        return self.needs

    def _check_inputs(self, module: Module[Any], receiver: Host, inputs: PortInputs) -> None:
        needs = self.needs_for(module, receiver)
        wanted = inputs.as_technique
        if wanted and technique_named(module.spec.kind).expands_to != wanted:
            able = " or ".join(f"a {known.title}" for known in TECHNIQUES.values() if known.expands_to == wanted)
            raise BadRequest(
                f"--as {wanted}: expected {able or 'a technique that expands to one'}, got {module.spec.kind}; "
                "leave --as out"
            )
        if needs in ("weights", "texts") and inputs.origin is None:
            raise BadRequest(f"{self.name}: needs the origin host's weights, none given; name it with --from HOST")
        if needs == "texts" and not inputs.texts:
            raise BadRequest(f"{self.name}: needs unlabelled texts, none given; name some with --texts FILE")
        if needs == "labels" and inputs.labelled is None:
            raise BadRequest(f"{self.name}: needs a few labelled texts, none given; name a task with --task TASK")
        if inputs.origin is not None and not inputs.origin.fingerprint.same_host(module.host):
            raise SlotMismatch(
                f"--from {inputs.origin.name}: expected the module's own host {module.host.name}, got a host with "
                f"another fingerprint ({module.host.told_from(inputs.origin.fingerprint)}); name the host that the "
                "module was trained on"
            )


def _apart(matrices: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Copy tensors that share memory, since several layers may have taken the same matrix of the origin."""
    if any(isinstance(array, RawNumbers) for named in matrices.values() for array in named.values()):
        return matrices  # which nobody changes in place
    seen: set[int] = set()
    made: dict[str, dict[str, Any]] = {}
    for slot, named in matrices.items():
        made[slot] = {name: t.clone() if t.data_ptr() in seen else t for name, t in named.items()}
        seen |= {t.data_ptr() for t in named.values()}
    return made


def methods_for(technique: str, *, width: str | None = None) -> list[str]:
    """The names of the methods that carry a technique; with ``width="any"``, between hosts of different width."""
    from peftport.porting import PORTERS

    return [p.name for p in PORTERS.values() if technique in p.techniques and width in (None, p.fits.width)]
