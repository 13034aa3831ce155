"""anchor_ridge: write the module as a sum of anchors on the origin, and take the same sum of anchors on the receiver.

Anchors are pairs of modules that were trained for other tasks on both hosts: A_i on the origin, B_i on the receiver.

    a = argmin_a ||dW_s - sum_i a_i A_i||^2 + c ||a||^2 mean_i ||A_i||^2        dW_t = sum_i a_i B_i

From the paper (OpenReview HF8qoeEo1u): the ridge regression on paired anchors. Ours: there is one vector a for the
whole module, so hosts may differ in width and depth. The strength c, one of 0 and 1e-4 to 10, is the one with the
smallest error at slots that the fit leaves out, each in turn (with a single slot nothing can be left out, and c is 0).
No label is read. A sum of n LoRAs of rank r has rank n r: it is cut to rank r by a truncated singular value
decomposition, and each slot's record has the share of the norm that this keeps.

Only techniques whose update is a matrix or a scaling can be summed. The units of a bottleneck, and the positions of a
prefix, have no order that two trainings share, so the sum of two of them is no module between them. A head is for its
own task, so no anchor says anything about it: it is kept where the hosts are equally wide, and refused otherwise.

anchor_mean is the control: the plain mean of the B_i, a_i = 1 / n, which does not look at the module at all. Where
anchor_ridge does not beat it, nothing shows that what the module holds mattered.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from peftport.core.errors import BadRequest, ModuleRefused, SlotMismatch
from peftport.core.libraries import torch
from peftport.hosts.host import Host
from peftport.hosts.slots import Slot
from peftport.modules.module import HEAD, Module, as_tensors
from peftport.porting.alignment.carried_heads import head_note
from peftport.porting.alignment.low_rank import compress
from peftport.porting.base import Anchor, Fits, PortedMatrices, Porter, PortInputs
from peftport.techniques import technique_named
from peftport.techniques.base import Matrices, Parameters, Shapes, Technique
from peftport.techniques.roles import PRODUCT, only_scales

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FEWEST = 2


class AnchorPorter(Porter):
    """A method that combines anchors on the receiver."""

    source = "OpenReview HF8qoeEo1u"
    needs = "anchors"
    fits = Fits(width="any", depth="any")

    @abstractmethod
    def coefficients(self, module: Module, anchors: Sequence[Anchor]) -> tuple[Tensor, str]:
        """Return the factor of each of the n anchors, (n,), and what the record says of them."""

    @override
    def cannot_carry(self, technique: Technique[Any]) -> str:
        if technique.roles == PRODUCT or only_scales(technique.roles):
            return ""
        return "its units or positions have no order that two trainings share, so anchors cannot be added up"

    @override
    def cannot_carry_at(self, technique: Technique[Any], slot: Slot, slots: Any) -> str:
        return "" if slot.experts == 1 else "an update of several experts is not one product of two matrices"

    @override
    def _check_inputs(self, module: Module[Any], receiver: Host, inputs: PortInputs) -> None:
        super()._check_inputs(module, receiver, inputs)
        check_anchors(self.name, module, inputs.anchors, receiver)
        if module.head is not None and module.host.width != receiver.width:
            raise SlotMismatch(
                f"{HEAD}: this module's head is for {module.host.name}, {module.host.width} wide, {receiver.name} is "
                f"{receiver.width} wide, and no anchor is for its task; leave the head out (--leave-out head)"
            )

    @override
    def carry(self, module: Module, receiver: Host, rng: np.random.Generator, inputs: PortInputs) -> PortedMatrices:
        module = as_tensors(module)
        anchors = [Anchor(*map(as_tensors, pair)) for pair in inputs.anchors]
        factors, note = self.coefficients(module, anchors)
        made: Parameters = {}
        notes = {"anchors": note}
        for slot in technique_named(module.spec.kind).slots(module.spec, receiver.slots):
            owns = [anchor.receiver.matrices[slot] for anchor in anchors]
            made[slot], notes[slot] = _sum(owns, factors)
        if module.head is not None:
            made[HEAD] = dict(module.head)
            notes |= head_note(module.head, "copied")
        return PortedMatrices(made, notes)


class AnchorRidge(AnchorPorter):
    """The combination of anchors that comes nearest to the module."""

    name = "anchor_ridge"
    title = "the sum of anchors that is nearest to the module, of the same anchors on the receiver"

    @override
    def coefficients(self, module: Module, anchors: Sequence[Anchor]) -> tuple[Tensor, str]:
        products = _Products.of([module, *(anchor.origin for anchor in anchors)])
        errors = [products.held_out(penalty) for penalty in PENALTIES]
        penalty = PENALTIES[int(np.argmin(errors))] if len(products.slots) > 1 else 0.0
        factors = products.solve(penalty)
        said = ", ".join(f"{factor:.3f}" for factor in factors.tolist())
        if not bool(products.slots[:, 0, 0].any()):
            shown = "the module changes nothing, so there was nothing to explain"
        elif len(products.slots) == 1:
            shown = "one slot, so nothing was left out"
        else:
            shown = f"{1 - min(errors):.0%} of the update explained at slots left out"
        return factors, f"factors {said}; ridge {penalty:g}; {shown}"


class AnchorMean(AnchorPorter):
    """The mean of the anchors on the receiver, whatever the module holds."""

    name = "anchor_mean"
    title = "the plain mean of anchors on the receiver, the control of anchor_ridge"
    source = "ours, a control"

    @override
    def coefficients(self, module: Module, anchors: Sequence[Anchor]) -> tuple[Tensor, str]:
        factor = 1 / len(anchors)
        return torch.full((len(anchors),), factor, dtype=torch.float64), f"factors {factor:.3f}, whatever the module"


@dataclass(frozen=True, eq=False)
class _Products:
    """Inner products of the updates of the module (first) and of n anchors, slot by slot: (S, 1 + n, 1 + n)."""

    slots: Tensor

    @classmethod
    def of(cls, modules: Sequence[Module]) -> _Products:
        names = [slot for slot in modules[0].matrices if slot != HEAD]
        return cls(torch.stack([_inner_products([m.matrices[slot] for m in modules]) for slot in names]))

    def solve(self, penalty: float, without: int | None = None) -> Tensor:
        """Return the factors by all slots but one, (n,)."""
        total = self.slots.sum(0) - (self.slots[without] if without is not None else 0.0)
        gram, with_module = total[1:, 1:], total[1:, 0]
        ridge = penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        factors: Tensor = torch.linalg.pinv(gram + ridge, hermitian=True) @ with_module
        return factors

    def held_out(self, penalty: float) -> float:
        """Return the squared error at slots left out in turn, as a share of the module's squared norm."""
        error = torch.zeros((), dtype=self.slots.dtype)
        for place, own in enumerate(self.slots):
            factors = torch.cat([torch.ones(1, dtype=own.dtype), -self.solve(penalty, place)])
            error += factors @ own @ factors
        total = float(self.slots[:, 0, 0].sum())
        return float(error) / total if total else 0.0


def _inner_products(owns: Sequence[Matrices]) -> Tensor:
    """<dW_i, dW_j> of K updates of one slot, (K, K); of products, tr(A_i^T B_i^T B_j A_j), without forming them."""
    if "A" in owns[0]:
        a = torch.stack([own["A"].double() for own in owns])  # (K, R, D_in)
        b = torch.stack([own["B"].double() for own in owns])  # (K, D_out, R)
        return (torch.einsum("ior,jos->ijrs", b, b) * torch.einsum("ird,jsd->ijrs", a, a)).sum((2, 3))
    flat = torch.stack([torch.cat([own[name].double().flatten() for name in sorted(own)]) for own in owns])
    return flat @ flat.mT


def _sum(owns: Sequence[Matrices], factors: Tensor) -> tuple[dict[str, Tensor], str]:
    """Return sum_i a_i B_i at one slot, a product cut to its rank, and a note for the record."""
    first = owns[0]
    if "A" not in first:
        sums = {name: sum(f * own[name].double() for f, own in zip(factors, owns, strict=True)) for name in first}
        return {name: torch.as_tensor(total).to(first[name].dtype) for name, total in sums.items()}, "combined"
    b = torch.cat([factor * own["B"].double() for factor, own in zip(factors, owns, strict=True)], dim=1)
    a = torch.cat([own["A"].double() for own in owns])
    made = compress(b, a, len(first["A"]))
    kept = math.sqrt(max(0.0, 1 - made.lost**2))
    note = f"combined: rank {len(first['A'])} keeps {kept:.1%} of the norm of rank {len(a)}"
    return {"A": made.a.to(first["A"].dtype), "B": made.b.to(first["B"].dtype)}, note


def check_anchors(name: str, module: Module[Any], anchors: Sequence[Anchor], receiver: Host | None = None) -> None:
    """Refuse anchors that are too few, or are no pairs that the module can be compared with.

    Both modules of a pair have the module's technique and settings, are for one task, and are on the origin and on the
    receiver, with matrices at every slot. Without the receiver, what is known of it only is not checked.

    Raises:
        BadRequest: there are fewer than two, one has other settings than the module, or a pair is for two tasks.
        ModuleRefused: one changes weights that its matrices do not have.
        SlotMismatch: one is on another host than it should be, or has other slots.

    """
    if len(anchors) < FEWEST:
        had = {0: "none", 1: "one"}[len(anchors)]
        raise BadRequest(
            f"{name}: needs at least {FEWEST} pairs of anchors, modules of other tasks on the origin and on the "
            f"receiver, {had} given; name them with --anchors ON_ORIGIN=ON_RECEIVER"
        )
    for place, anchor in enumerate(anchors, 1):
        for part, side in (("first", anchor.origin), ("second", anchor.receiver)):
            if side.spec != module.spec:
                raise BadRequest(
                    f"{name}: the {part} module of anchor {place}: expected {_settings(module)}, as the module "
                    f"has, got {_settings(side)}; train anchors with the module's technique and settings"
                )
            outside = side.kept.outside_modules if side.kept is not None else ()
            if outside:
                raise ModuleRefused(
                    f"{name}: the {part} module of anchor {place}: expected changes of the linear maps of the layers, "
                    f"got one of {', '.join(outside[:3])}, too, which cannot be summed; train it without "
                    "(modules_to_save)"
                )
        _check_one_task(name, place, anchor)
        hosts = [("first", anchor.origin, module.host)]
        hosts += [("second", anchor.receiver, receiver.fingerprint)] if receiver is not None else []
        for part, side, host in hosts:
            if not side.host.same_host(host):
                raise SlotMismatch(
                    f"{name}: the {part} module of anchor {place}: expected one of {host.name}, got one of "
                    f"{side.host.name} ({host.told_from(side.host)}); write --anchors ON_ORIGIN=ON_RECEIVER"
                )
        _check_slots(f"{name}: the first module of anchor {place}", anchor.origin, _shapes(module))
        if receiver is not None:
            slots = technique_named(module.spec.kind).slots(module.spec, receiver.slots)
            wanted = {slot: technique_named(module.spec.kind).shapes(module.spec, own) for slot, own in slots.items()}
            _check_slots(f"{name}: the second module of anchor {place}", anchor.receiver, wanted)


def _check_one_task(name: str, place: int, anchor: Anchor) -> None:
    """Refuse a pair whose records name two tasks: the sum on the receiver would be of other tasks than on the origin.

    Raises:
        BadRequest: they do.

    """
    ours, theirs = anchor.origin.task, anchor.receiver.task
    if ours is None or theirs is None or ours.digest == theirs.digest:
        return
    if (ours.name, ours.labels) != (theirs.name, theirs.labels):
        raise BadRequest(
            f"{name}: anchor {place}: expected two modules for one task, got one for {ours.name} and one for "
            f"{theirs.name}; pair modules that were trained for the same task"
        )


def _shapes(module: Module[Any]) -> dict[str, Shapes]:
    return {
        slot: {name: tuple(array.shape) for name, array in named.items()}
        for slot, named in module.matrices.items()
        if slot != HEAD
    }


def _check_slots(what: str, module: Module[Any], wanted: Mapping[str, Shapes]) -> None:
    """Refuse a module that has not the matrices that are wanted at each slot.

    Raises:
        SlotMismatch: it has others at some slot.

    """
    found = _shapes(module)
    for slot in sorted(wanted.keys() | found.keys()):
        if found.get(slot) != wanted.get(slot):
            expected, got = (
                ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.get(slot, {}).items()) or "nothing"
                for shapes in (wanted, found)
            )
            raise SlotMismatch(f"{what}: {slot}: expected {expected}, got {got}; train anchors at the module's slots")


def _settings(module: Module[Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in module.spec.model_dump(mode="json").items())
