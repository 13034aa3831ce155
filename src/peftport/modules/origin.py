"""Check that a module was trained on a given host, by the fingerprint that it records, unless the user overrides it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.module import A, Module, PortRecord, check_fits

TRUSTED = "trusted origin"


def check_origin(module: Module[Any], host: Host, where: str) -> None:
    """Refuse a module that records a different host from this one.

    Raises:
        ModuleRefused: the fingerprints differ.

    """
    if not module.host.same_host(host.fingerprint):
        raise ModuleRefused(
            f"{where}: expected a module of {host.name} (--from), got one that records host {module.host.name} with "
            f"another fingerprint ({module.host.told_from(host.fingerprint)}); leave --from out, or name the "
            f"right host (--trust-origin {host.name} takes it "
            "for one of that host all the same)"
        )


def trust_origin(module: Module[A], host: Host) -> Module[A]:
    """Treat a module as one of ``host`` whatever it records, and record that this was done.

    Raises:
        SlotMismatch: its slots or widths do not fit ``host``.

    """
    check_fits(module, host, TRUSTED)
    if module.host.same_host(host.fingerprint):
        return module
    record = PortRecord(method=TRUSTED, origin=module.host, receiver=host.fingerprint)
    return replace(module, host=host.fingerprint, ports=(*module.ports, record))
