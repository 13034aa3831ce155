"""Leave parts of a PEFT file out by name, so that the rest can be ported: ``head``, or the end of a module's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused
from peftport.modules.formats.peft.names import HEADS, module_of, whole_weight
from peftport.modules.formats.tensors import printable
from peftport.modules.head import HEAD_PART, kind_of_task_type

if TYPE_CHECKING:
    from torch import Tensor


def without(flat: Mapping[str, Tensor], names: tuple[str, ...], where: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that are not of the modules with these names.

    Raises:
        ModuleRefused: the file has no tensor of a module with one of the names.

    """
    modules = {key: module_of(key) for key in flat}
    for name in names:
        if not any(_is_of(module, name) for module in modules.values()):
            known = sorted({_short(module) for module in modules.values()})
            raise ModuleRefused(
                f"{where}: --leave-out {printable(name)}: expected head or a module that the file has, such as "
                f"{', '.join(map(printable, known[:6]))}; leave that name out"
            )
    return {key: tensor for key, tensor in flat.items() if not leaves_out(modules[key], names)}


def settings_without(said: dict[str, Any], names: tuple[str, ...], dropped: list[str]) -> dict[str, Any]:
    """Return a configuration by which PEFT does not expect the parts of these names; ``dropped`` are their tensors."""
    kept = dict(said)
    if HEAD_PART in names and kind_of_task_type(said.get("task_type")):
        kept |= {"modules_to_save": None, "task_type": None}
    saved = kept.get("modules_to_save")
    if names and isinstance(saved, list):
        kept["modules_to_save"] = [name for name in saved if not leaves_out(str(name), names)] or None
    if names and kept.get("trainable_token_indices") and not {"embed_tokens", "token_adapter"}.isdisjoint(names):
        kept["trainable_token_indices"] = None
    targets = sorted({module_of(key) for key in dropped if whole_weight(key) is None})
    excluded = kept.get("exclude_modules") or []
    if targets and isinstance(excluded, list):
        kept["exclude_modules"] = [*excluded, *targets]
    return kept


def leaves_out(module: str, names: tuple[str, ...]) -> bool:
    """Return whether one of these names leaves out a module of the trained model."""
    return any(_is_of(module, name) for name in names)


def _is_of(module: str, name: str) -> bool:
    if name == HEAD_PART:
        return not HEADS.isdisjoint(module.split("."))
    return f".{name}." in f".{module}."


def _short(module: str) -> str:
    *_, last = module.split(".")
    return last
