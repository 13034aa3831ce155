"""Read and write module folders in any supported format, and detect the format of a folder.

The formats of other libraries are the entries of `FOREIGN`. Beside their files lies `peftport.json` (see sidecar.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.formats import native
from peftport.modules.formats.adapters import files
from peftport.modules.formats.peft import lora, write
from peftport.modules.formats.sidecar import with_history, write_sidecar
from peftport.modules.formats.tensors import read_text
from peftport.modules.module import HEAD, Module
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
    read: Callable[[Path, Host], Module]
    write: Callable[[Module, Host, Path], None]


def _check_peft_holds(spec: TechniqueSpec, host: Host) -> None:
    if not isinstance(spec, LoraSpec):
        raise ModuleRefused(
            f"--format peft: PEFT has no {spec.kind} of this kind; expected lora; use the native format"
        )


FOREIGN: dict[str, Foreign] = {
    "peft": Foreign("PEFT", lora.TENSORS, _check_peft_holds, lora.read_peft, write.write_peft),
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
    if (folder / lora.CONFIG).is_file():
        return "adapters" if _is_of_adapters(folder / lora.CONFIG) else "peft"
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise ModuleRefused(
            f"{folder / pickled[0]}: expected safetensors, got pickled weights, which are never loaded; "
            "save as safetensors"
        )
    raise ModuleRefused(
        f"{folder}: expected {native.CARD} (native) or {lora.CONFIG} (PEFT, adapters), found neither; give a "
        "module folder"
    )


def read_module(folder: Path, origin: Host | None = None) -> Module:
    """Read a module in any format. Other libraries' checkpoints do not describe their host, so ``origin`` is needed.

    Raises:
        ModuleRefused: the folder is broken or unsafe, or is another library's checkpoint and no host is given.

    """
    file_format = format_of(folder)
    if file_format == "native":
        return native.read_native(folder)
    foreign = FOREIGN[file_format]
    if origin is None:
        raise ModuleRefused(
            f"{folder}: {'an' if foreign.title == 'adapters' else 'a'} {foreign.title} checkpoint needs the host it "
            "was trained on; give --from HOST"
        )
    return with_history(foreign.read(folder, origin), folder / foreign.tensors)


def check_holds(file_format: Format, spec: TechniqueSpec, host: Host, head: bool) -> None:
    """Refuse a format that cannot hold a module, before any work is done.

    Raises:
        ModuleRefused: the format does not support the technique, the kind of host, or the head of a linear readout.

    """
    if file_format == "native":
        return
    FOREIGN[file_format].check_holds(spec, host)
    if head:
        raise ModuleRefused(
            f"--format {file_format}: expected a module without a linear readout, whose head "
            f"{FOREIGN[file_format].title} would lose; use native"
        )


def write_module(module: Module, host: Host, out: Path, file_format: Format = "native") -> None:
    """Write a module of ``host`` into a new folder, completely or not at all.

    Raises:
        OutputRefused: ``out`` is not empty.
        ModuleRefused: the format cannot hold the module.

    """
    with new_folder(out) as folder:
        if file_format == "native":
            native.write_native(module, folder)
        else:
            check_holds(file_format, module.spec, host, HEAD in module.matrices)
            foreign = FOREIGN[file_format]
            foreign.write(module, host, folder)
            write_sidecar(module, folder / foreign.tensors)


def _is_of_adapters(path: Path) -> bool:
    """Return whether a configuration is one of `adapters`, whose settings are nested, and not one of PEFT."""
    try:
        read = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False  # reading it as PEFT's configuration reports what is wrong with it
    return isinstance(read, dict) and "peft_type" not in read and "config" in read
