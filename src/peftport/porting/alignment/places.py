"""What a method has to know of a slot, and the reasons that it gives where a host does not tell."""

from __future__ import annotations

from collections.abc import Mapping

from peftport.hosts.slots import LINEAR, PARAMETER, Slot
from peftport.porting.alignment.spaces import FUSED_UNITS, RESIDUAL, UNITS
from peftport.techniques.roles import Roles, reads_inputs


def unread(slot: Slot) -> str:
    """Why the activations at a slot cannot be told apart by text and word; empty if they can."""
    return "" if slot.in_order else "it is not known to read the tokens of a batch text by text"


def unplaced(slot: Slot, slots: Mapping[str, Slot], roles: Roles) -> str:
    """Why it is not known which heads or units a slot reads and writes; empty if it is."""
    layer, _, site = slot.name.rpartition(".")
    if site.startswith((LINEAR, PARAMETER)):
        return "no layout says what it reads and writes"
    if site in RESIDUAL and not reads_inputs(roles):
        return ""
    kind = site.partition("_")[0]
    wanted = [kind, *(f"{kind}_{letter}" for letter in "qkvo")] if kind in ("attn", "cross") else []
    if site in (*UNITS, *FUSED_UNITS, "ffn_out"):
        wanted = ["ffn_in", "ffn_out"]
    missing = [name for name in wanted if f"{layer}.{name}" not in slots]
    return f"its layer has no {missing[0]}" if missing else ""


def without_matrix(slot: Slot, slots: Mapping[str, Slot]) -> str:
    """Why there is no single matrix of the host whose singular vectors a slot has; empty if there is."""
    layer, _, site = slot.name.rpartition(".")
    if slot.kind == "parameter":
        return "every expert has a matrix of its own there"
    wanted = {"attention": [f"{site}_k", f"{site}_v"], "linear": [site]}.get(slot.kind, ["ffn_out"])
    found = [slots.get(f"{layer}.{name}") for name in wanted]
    return "" if all(one is not None and one.kind == "linear" for one in found) else "no single matrix writes there"
