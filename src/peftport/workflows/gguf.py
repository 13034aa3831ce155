"""The job `gguf`: write a LoRA as a GGUF file for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import SlotMismatch
from peftport.core.places import check_place
from peftport.hosts.opening import open_host
from peftport.modules.folders import read_module
from peftport.modules.formats.gguf import ARCHITECTURES, check_gguf, gguf_bytes
from peftport.modules.module import HEAD, Module, check_all_read, check_fits
from peftport.modules.sources import module_folder
from peftport.store.artifacts import write_bytes
from peftport.store.held import HeldFolder
from peftport.workflows.merge_requests import GgufRequest
from peftport.workflows.named import check_names


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A LoRA in a GGUF file: its host, the architecture as llama.cpp calls it, and whether a readout was left out."""

    host: str
    architecture: str
    module: Module
    size_bytes: int

    @property
    def lost_readout(self) -> bool:
        """Whether the module has a linear readout or a head, for which GGUF has no place."""
        return HEAD in self.module.matrices


def write_gguf(request: GgufRequest) -> GgufFile:
    """Write a LoRA as one GGUF file, completely or not at all.

    Raises:
        BadRequest: the library `gguf` is not installed, or the file exists.
        ModuleRefused: the module is no LoRA, or of a host whose names in llama.cpp are not known.
        SlotMismatch: the module is of another host.

    """
    check_names(request)
    out, folder = Path(request.out), module_folder(request.module)
    host = open_host(str(request.host))
    module = read_module(folder, host)
    check_gguf(module, host, str(folder))
    if not module.host.same_host(host.fingerprint):
        raise SlotMismatch(
            f"{folder}: expected a module of {host.name}, got one of {module.host.name} "
            f"({module.host.told_from(host.fingerprint)}); port it first: peftport port {folder} --to {request.host} "
            "--out DIR"
        )
    check_fits(module, host, "gguf")
    check_all_read(module, "gguf")
    with HeldFolder("gguf") as temporary:
        data = gguf_bytes(module, host, folder.resolve().name, Path(temporary))
    check_place(out, "new file")  # once more: it may be taken meanwhile
    write_bytes(out, data)
    return GgufFile(host.name, ARCHITECTURES[host.fingerprint.model_type], module, len(data))
