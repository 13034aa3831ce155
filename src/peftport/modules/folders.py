"""Read and write module folders in any supported format, and detect the format of a folder.

The formats of other libraries are the entries of `FOREIGN`. Beside their files lies `peftport.json` (see sidecar.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.hosts.task_head import HeadKind
from peftport.modules.formats import native
from peftport.modules.formats.adapters import files
from peftport.modules.formats.peft import heads, read, shards, write
from peftport.modules.formats.sidecar import with_history, write_sidecar
from peftport.modules.formats.tensors import read_text
from peftport.modules.head import is_linear
from peftport.modules.module import Module, as_tensors, check_all_read, unfolded, without_parts
from peftport.store.artifacts import new_folder
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.lora import LoraSpec

Format = Literal["native", "peft", "adapters"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Foreign:
    """The format of another library: its name, the file with the tensors, and the functions that read and write it."""

    title: str
    tensors: str
    check_holds: Callable[[TechniqueSpec, Host], None]
    read: Callable[[Path, Host, tuple[str, ...]], Module]
    write: Callable[[Module, Host, Path], None]


def _check_peft_holds(spec: TechniqueSpec, host: Host) -> None:
    if not isinstance(spec, LoraSpec):
        raise ModuleRefused(
            f"--format peft: PEFT has no {spec.kind} of this kind; expected lora; use the native format"
        )


FOREIGN: dict[str, Foreign] = {
    "peft": Foreign("PEFT", shards.TENSORS, _check_peft_holds, read.read_peft, write.write_peft),
    "adapters": Foreign(
        "adapters", files.TENSORS, files.check_adapters_holds, files.read_adapters,
        files.write_adapters,
    ),
}  # fmt: skip


def format_of(folder: Path) -> Format:
    """Return the format of a module folder, by the files in it.

    Raises:
        ModuleRefused: it is not a folder, has only pickled weights, or holds no module.

    """
    if not folder.is_dir():
        raise ModuleRefused(
            f"{folder}: expected a module folder, found {'a file' if folder.exists() else 'nothing'}; check the path"
        )
    if (folder / native.CARD).is_file():
        return "native"
    if (folder / shards.CONFIG).is_file():
        return "adapters" if _is_of_adapters(folder / shards.CONFIG) else "peft"
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise ModuleRefused(
            f"{folder / pickled[0]}: expected safetensors, got pickled weights, which are never loaded; "
            "save as safetensors"
        )
    if (folder / "config.json").is_file():
        raise ModuleRefused(
            f"{folder}: expected a module's folder, got a base model's (it has config.json); give the module's"
        )
    raise ModuleRefused(
        f"{folder}: expected {native.CARD} (native) or {shards.CONFIG} (PEFT, adapters), found neither; give a "
        "module folder"
    )


def _named_base(folder: Path) -> str:
    """Return what another library's settings say of the module's host, for a message; it is a name without proof."""
    try:
        base = json.loads((folder / shards.CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" (its {shards.CONFIG} names {base})" if isinstance(base, str) and base else ""


def read_module(folder: Path, origin: Host | None = None, leave_out: tuple[str, ...] = ()) -> Module:
    """Read a module in any format. Other libraries' checkpoints do not describe their host, so ``origin`` is needed.

    ``leave_out`` names parts that are not read: ``head``, or modules of a PEFT checkpoint.

    Raises:
        ModuleRefused: the folder is broken or unsafe, or is another library's checkpoint and no host is given.

    """
    file_format = format_of(folder)
    if file_format == "native":
        return without_parts(native.read_native(folder), leave_out, folder)
    foreign = FOREIGN[file_format]
    if origin is None:
        raise ModuleRefused(
            f"{folder}: {'an' if foreign.title == 'adapters' else 'a'} {foreign.title} checkpoint needs the host it "
            f"was trained on; give --from HOST{_named_base(folder)}"
        )
    return with_history(foreign.read(folder, origin, leave_out), folder / foreign.tensors)


def read_to_carry(folder: Path, origin: Host | None = None, leave_out: tuple[str, ...] = ()) -> Module[Any]:
    """Read a module as `read_module` does; its matrices are `RawNumbers` where the format gives them without torch.

    Raises:
        ModuleRefused: as `read_module`.

    """
    if format_of(folder) == "native":
        return without_parts(native.read_numbers(folder), leave_out, folder)
    return read_module(folder, origin, leave_out)


def kind_of_saved_head(folder: Path) -> HeadKind | None:
    """Return what the head in a PEFT folder gives outputs for; None for a folder without one, or of another format."""
    return heads.saved_kind(folder / shards.CONFIG) if format_of(folder) == "peft" else None


def check_holds(file_format: Format, spec: TechniqueSpec, host: Host, head: Collection[str]) -> None:
    """Refuse a format that cannot hold a module, before any work is done. ``head``: the names of its head's tensors.

    Raises:
        ModuleRefused: the format does not support the technique, the kind of host, or the head of a linear readout.

    """
    if file_format == "native":
        return
    FOREIGN[file_format].check_holds(spec, host)
    if head and (file_format != "peft" or is_linear(head)):
        lost = "a linear readout, whose head" if is_linear(head) else "a head, which"
        raise ModuleRefused(
            f"--format {file_format}: expected a module without {lost} {FOREIGN[file_format].title} would lose; "
            "use native"
        )


def write_module(module: Module[Any], host: Host, out: Path, file_format: Format = "native") -> None:
    """Write a module of ``host`` into a new folder, completely or not at all.

    Raises:
        OutputRefused: ``out`` is not empty.
        ModuleRefused: the format cannot hold the module.

    """
    with new_folder(out) as folder:
        if file_format == "native":
            check_all_read(module, "--format native")
            native.write_native(module, folder)
        else:
            check_holds(file_format, module.spec, host, module.head or ())
            foreign = FOREIGN[file_format]
            own = as_tensors(module)
            foreign.write(own, host, folder)
            kept = file_format == "peft" and module.kept is not None
            write_sidecar(unfolded(own) if kept else own, folder / foreign.tensors)


def _is_of_adapters(path: Path) -> bool:
    """Return whether a configuration is one of `adapters`, whose settings are nested, and not one of PEFT."""
    try:
        read = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False  # reading it as PEFT's configuration reports what is wrong with it
    return isinstance(read, dict) and "peft_type" not in read and "config" in read
