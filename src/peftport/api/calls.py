"""The commands as functions, which the command line calls too.

The option ``--test-items`` is the keyword ``test_items``; ``--from`` and ``--as``, which are reserved in Python, are
``from_`` and ``as_``. A task is given as on the command line, or as the object that `load_task` returns.
`peftport.workflows.requests` defines the keywords.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from peftport import api, workflows
from peftport.core.request import takes
from peftport.store.artifacts import write_text
from peftport.workflows.merge_requests import GgufRequest, MergeRequest
from peftport.workflows.requests import (
    CheckRequest,
    CompareRequest,
    DemoRequest,
    EvaluateRequest,
    HostUpdateRequest,
    PortRequest,
    TrainRequest,
)
from peftport.workflows.upgrade_requests import UpgradeRequest

if TYPE_CHECKING:
    from peftport.api.comparisons import Compared, Demonstrated
    from peftport.api.results import Checked, Evaluated, Ported, Trained, UpdatedHost
    from peftport.api.serving_results import Merged, WrittenGguf
    from peftport.api.upgrade_result import Upgraded


@takes(TrainRequest)
def train(request: TrainRequest) -> Trained:
    """Return the module, and the test scores of the host without and with it.

    Raises:
        BadRequest: an unknown name, a setting out of range, an output folder in use.
        TrainingFailed: the loss diverged.

    """
    found = workflows.train_module(request)
    return api.Trained(request, found)


@takes(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> Evaluated:
    """Return the scores of every test item.

    Raises:
        BadRequest: an unknown name, or a setting out of range.
        SlotMismatch: the module belongs to another host.

    """
    found = workflows.evaluate_host(request)
    return api.Evaluated(request, found)


@takes(PortRequest)
def port(request: PortRequest) -> Ported:
    """Return the module on its new host, and what the method did slot by slot.

    Raises:
        ModuleRefused: the folder is broken, or records a different origin from the one that is given.
        SlotMismatch: the module does not fit the receiver by this method.

    """
    found = workflows.port_module(request)
    return api.Ported(request, found)


@takes(CheckRequest)
def check(request: CheckRequest) -> Checked:
    """Return what fits, what is on record, and the method to use.

    Raises:
        ModuleRefused: the folder is broken, or records a different origin from the one that is given.
        SlotMismatch: the receiver has no slot of the module's kind.

    """
    found = workflows.check_module(request)
    return api.Checked(request, found)


@takes(CompareRequest)
def compare(request: CompareRequest) -> Compared:
    """Return every run, and the verdict.

    Raises:
        BadRequest: an unknown name, a setting out of range, or a method that cannot carry the module.
        TrainingFailed: a training diverged.

    """
    found = workflows.compare_module(request)
    compared = api.Compared(request, found)
    if request.out is not None:
        compared.report(request.out)
    return compared


@takes(DemoRequest)
def demo(request: DemoRequest) -> Demonstrated:
    """Return a comparison for each technique.

    Raises:
        BadRequest: a host or the task is not installed, ``out`` is a file, or the metric or a setting is unknown.

    """
    outcome = workflows.run_demo(request.settings, request.progress, request.metric, request.loaded_by)
    shown = api.Demonstrated(request, outcome)
    if request.out is not None:
        out = Path(request.out)
        write_text(out / "results.json", json.dumps(shown.as_json(), indent=2) + "\n")
        write_text(out / "table.md", shown.markdown())
        shown.report(out / "report.html")
    return shown


@takes(HostUpdateRequest)
def update_host(request: HostUpdateRequest) -> UpdatedHost:
    """Return the checkpoints, each a host.

    Raises:
        BadRequest: a number is out of range, or ``out`` is in use.
        TaskRefused: the text file is missing, not UTF-8 or too short.
        HostRefused: the host is broken, or its tokenizer lacks what the objective needs.
        TrainingFailed: a loss or a weight is no longer finite.

    """
    found = workflows.update_host(request)
    return api.UpdatedHost(request, found)


@takes(UpgradeRequest)
def upgrade(request: UpgradeRequest) -> Upgraded:
    """Return what became of every module.

    Raises:
        UnknownName, HostRefused: a host is not found, or broken.
        OutputRefused: ``out`` holds something else, or another upgrade.
        PushFailed: the hub cannot be reached, or refuses a folder.

    """
    found = workflows.upgrade_modules(request)
    done = api.Upgraded(request, found)
    if request.out is not None:
        done.write(Path(request.out))
    if request.push is not None and request.out is not None:
        done = api.Upgraded(request, workflows.push_upgrade(request, done.found))
        done.write(Path(request.out))
    return done


@takes(MergeRequest)
def merge(request: MergeRequest) -> Merged:
    """Return which tensors were changed, and what rounding lost of the update.

    Raises:
        BadRequest: the technique cannot be folded into weights, or ``out`` is in use.
        SlotMismatch: the module is of another host.
        NotFinite: the new weights are beyond what the number format holds.

    """
    found = workflows.merge_module(request)
    return api.Merged(request, found)


@takes(GgufRequest)
def gguf(request: GgufRequest) -> WrittenGguf:
    """Return the size of the file, and the architecture as llama.cpp calls it.

    Raises:
        BadRequest: the library `gguf` is not installed, or the file exists.
        ModuleRefused: the module is no LoRA, or of a host whose names in llama.cpp are not known.
        SlotMismatch: the module is of another host.

    """
    found = workflows.write_gguf(request)
    return api.WrittenGguf(request, found)
