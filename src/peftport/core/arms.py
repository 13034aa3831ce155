"""The arms of a comparison: how a module on the receiver starts (Sabry & Belz 2024, sec. 3), or no module at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from peftport.core.errors import UnknownName

Arm = Literal["ported", "sampled", "scratch"]
ARMS: tuple[Arm, ...] = get_args(Arm)
BARE = "bare host"
FEW_SHOT, LOGIT_OFFSET = "few_shot", "logit_offset"
REFERENCES = (FEW_SHOT, LOGIT_OFFSET)  # arms of a comparison that are no ports (workflows.references)


def arm_names(names: Sequence[str]) -> tuple[Arm, ...]:
    """Check and return the names of arms.

    Raises:
        UnknownName: a name is not an arm.

    """
    for name in names:
        if name not in ARMS:
            raise UnknownName.of("arm", name, ARMS)
    return tuple(arm for name in names for arm in ARMS if arm == name)


def reference_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check and return the names of reference arms, each once.

    Raises:
        UnknownName: a name is not a reference arm.

    """
    for name in names:
        if name not in REFERENCES:
            raise UnknownName.of("reference arm", name, REFERENCES)
    return tuple(name for name in REFERENCES if name in names)
