"""Check what a request names before anything large is read or imported, so that a slip is told at once.

Every name and path is checked again where it is used: this neither downloads, nor opens a host, nor reads a task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peftport.core.errors import BadRequest, UnknownName
from peftport.core.request import Request, options
from peftport.hosts.loading import check_loading
from peftport.hosts.sources import check_host_name
from peftport.metrics import asked_metric
from peftport.modules.folders import format_of
from peftport.modules.sources import may_be_on_the_hub, module_folder
from peftport.objectives import check_readout
from peftport.tasks import Task
from peftport.tasks.load import check_task_name
from peftport.tasks.sources import TASKS
from peftport.workflows.port_inputs import check_texts


def check_names(request: Request) -> None:
    """Refuse a request that names what there is not.

    Raises:
        BadRequest: a host, task, module, metric, readout or file of texts is not found, a setting of ``load`` is
            wrong, or the folder that is to be written is in use.

    """
    for name in options(type(request)):
        value = getattr(request, name)
        if value is not None and name in CHECKS:
            CHECKS[name](value)


def _check_task(task: Any) -> None:
    if not isinstance(task, Task):
        check_task_name(str(task))


def _check_module(place: Any) -> None:
    if not may_be_on_the_hub(place):
        format_of(module_folder(place))


def _check_anchors(anchors: Any) -> None:
    for place in (each for pair in anchors.items() for each in pair):
        _check_module(place)


def _check_host(host: Any) -> None:
    try:
        check_host_name(str(host))
    except UnknownName as error:
        if str(host) in TASKS:
            raise BadRequest(f"{host} is a task, expected a host: name the host first, then the task") from error
        raise


CHECKS: dict[str, Callable[[Any], Any]] = {
    "metric": asked_metric,
    "load": check_loading,
    "readout": check_readout,
    "module": _check_module,
    **dict.fromkeys(("host", "to", "from_", "trust_origin", "old", "new"), _check_host),
    "task": _check_task,
    "texts": lambda texts: check_texts(str(texts)),
    "anchors": _check_anchors,
}
