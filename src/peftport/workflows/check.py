"""The job `check`: describe a port before it is made, and choose the method that ``--method auto`` uses."""

from __future__ import annotations

from typing import Any

from peftport.analysis.prediction import recorded
from peftport.core.errors import BadRequest
from peftport.core.hashing import rng_for
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.module import Module
from peftport.modules.sources import module_folder
from peftport.workflows.checking import AvailableInputs, MethodChoice, PortCheck, check_port, find_origin, method_checks
from peftport.workflows.checking.choice import choose_method
from peftport.workflows.checking.host_comparison import compare_hosts
from peftport.workflows.checking.slots import nothing_fits
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.job_inputs import name_of, open_module, open_module_to_carry
from peftport.workflows.named import check_names
from peftport.workflows.port_inputs import read_texts
from peftport.workflows.requests import CheckRequest


def check_module(request: CheckRequest) -> PortCheck:
    """Report what fits, how similar the hosts are, what to expect, and which method to use. Nothing is written.

    Hosts are loaded only where ``texts`` are given, to compare activations on them.

    Raises:
        ModuleRefused: the folder is broken, or the module records a different origin from the one that is given.
        SlotMismatch: the receiver has no slot of the module's kind.

    """
    check_names(request)
    origin = name_of(request.from_)
    opened = open_module_to_carry if request.texts is None else open_module
    module = opened(module_folder(request.module), origin, leave_out=tuple(request.leave_out))
    texts = read_texts(str(request.texts)) if request.texts is not None else ()
    receiver = load_host(str(request.to)) if texts else open_host(str(request.to))
    found_origin = find_origin(module, origin, loaded=bool(texts))
    return check_port(
        module, found_origin, receiver, texts=texts, max_tokens=request.max_tokens, rng=rng_for(0, "checking"),
        progress=request.progress,
    )  # fmt: skip


def choose_for(
    module: Module[Any], origin: str | None, to: str, available: AvailableInputs, *, porters_only: bool = False
) -> MethodChoice:
    """Choose the method that `check_module` would choose, without comparing the weights slot by slot.

    Raises:
        BadRequest: no method is worth using, or none can carry the module.

    """
    receiver = open_host(to)
    hosts = compare_hosts(module, find_origin(module, origin, loaded=False), receiver)
    methods = method_checks(module, hosts, receiver, available, recorded().ports)
    kept = [method for method in methods if not (porters_only and method.name == DISTILL)]
    strangers = hosts.strangers(nothing_fits(module, receiver))
    choice = choose_method(kept, same_host=hosts.same_host, strangers=strangers)
    if choice.method is None:
        raise BadRequest(f"--method auto: {choice.word}: {choice.why}; or name a method (peftport methods)")
    return choice
