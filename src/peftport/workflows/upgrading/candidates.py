"""Read and check each module of an upgrade. One that is broken, or of another host, is kept as refused, with why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftport.core.errors import ModuleRefused
from peftport.core.hashing import digest
from peftport.core.request import Place
from peftport.modules.folders import Format, check_holds, format_of, read_module
from peftport.modules.module import Module, check_all_read
from peftport.modules.origin import check_origin
from peftport.modules.sources import module_folder
from peftport.workflows.checking import MethodChoice
from peftport.workflows.job_inputs import check_same_labels, own_readout
from peftport.workflows.upgrading.pair import HostPair


@dataclass(frozen=True, eq=False)
class UpgradeCandidate:
    """A module that was read and belongs to the old host, with the method that the check chose for it.

    ``name`` is that of its output folder, ``readout`` the readout that it is tested with.
    """

    name: str
    folder: Path
    module: Module
    file_format: Format
    choice: MethodChoice
    readout: str | None


def read_candidate(pair: HostPair, name: str, folder: Path) -> UpgradeCandidate:
    """Read and check one module.

    Raises:
        BadRequest: the folder is broken, the module is of another host or was trained for another task, or its format
            cannot hold it on the new host.

    """
    file_format = format_of(folder)
    module = read_module(folder, pair.old)
    check_origin(module, pair.old, str(folder))
    if pair.task is not None:
        check_same_labels(module, pair.task)
        check_all_read(module, "--task")
    check_holds(file_format, module.spec, pair.new, module.head or ())
    return UpgradeCandidate(
        name, folder, module, file_format, pair.choice(module), own_readout(module, pair.request.readout)
    )


def output_names(folders: Sequence[Place]) -> dict[str, Path]:
    """Return a name for each module: that of its folder, with its parent's before it where two have the same.

    Raises:
        ModuleRefused: one folder is named twice.

    """
    paths = [module_folder(folder) for folder in folders]
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ModuleRefused(f"{twice[0]}: expected each module once, got it twice; drop one")
    names = [path.resolve().name for path in paths]
    counts, found = Counter(names), dict[str, Path]()
    for name, path in zip(names, paths, strict=True):
        full = name if counts[name] == 1 else f"{path.resolve().parent.name}-{name}"
        number = 2
        unique = full
        while unique in found or (unique != name and unique in counts):
            unique, number = f"{full}-{number}", number + 1
        found[unique] = path
    return found


def content_of(folder: Path, but: Sequence[str] = ()) -> str:
    """Return a digest of the files of a module's folder; of a folder that cannot be read, of its name alone.

    ``but``: the names of files that do not count.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in but)
        rows = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    except OSError:
        rows = []
    return digest(rows)
