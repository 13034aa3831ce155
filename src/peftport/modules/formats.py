"""Which file format a folder is, and reading or writing a module in any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from peftport.errors import ModuleRefused
from peftport.hosts.load import Host
from peftport.modules import native, peft_lora
from peftport.modules.module import Module
from peftport.store.artifacts import new_folder

Format = Literal["native", "peft"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def format_of(folder: Path) -> Format:
    """The format of a module folder, by the files in it.

    Raises:
        ModuleRefused: not a folder, pickled weights only, or no module at all.

    """
    if not folder.is_dir():
        raise ModuleRefused(
            f"{folder}: expected a module folder, found {'a file' if folder.exists() else 'nothing'}; check the path"
        )
    if (folder / native.CARD).is_file():
        return "native"
    if (folder / peft_lora.CONFIG).is_file():
        return "peft"
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise ModuleRefused(
            f"{folder / pickled[0]}: expected safetensors, got pickled weights, which are never loaded; "
            "save as safetensors"
        )
    raise ModuleRefused(
        f"{folder}: expected {native.CARD} (native) or {peft_lora.CONFIG} (PEFT), found neither; give a module folder"
    )


def read_module(folder: Path, origin: Host | None = None) -> Module:
    """Read a module in any format. A PEFT checkpoint does not say its host's slots: it needs ``origin``.

    Raises:
        ModuleRefused: broken, unsafe, or a PEFT checkpoint without its host.

    """
    if format_of(folder) == "native":
        return native.read_native(folder)
    if origin is None:
        raise ModuleRefused(f"{folder}: a PEFT checkpoint needs the host it was trained on; give --from HOST")
    return peft_lora.read_peft(folder, origin)


def write_module(module: Module, host: Host, out: Path, file_format: Format = "native") -> None:
    """Write a module of ``host`` into a new folder, whole or not at all.

    Raises:
        OutputRefused: ``out`` holds something.
        ModuleRefused: the format cannot hold the module.

    """
    with new_folder(out) as folder:
        if file_format == "native":
            native.write_native(module, folder)
        else:
            peft_lora.write_peft(module, host, folder)
