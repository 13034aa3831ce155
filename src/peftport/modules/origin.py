"""Is a module from the host it is said to be from? Its recorded fingerprint decides, unless a person overrides it."""

from __future__ import annotations

from dataclasses import replace

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.module import Module, PortRecord, check_fits

TRUSTED = "trusted origin"


def check_origin(module: Module, host: Host, where: str) -> None:
    """Refuse a module that records another host than this one.

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


def trust_origin(module: Module, host: Host) -> Module:
    """Take a module for one of ``host`` whatever it records, and put that on its record.

    Raises:
        SlotMismatch: it cannot be one: other slots or widths.

    """
    check_fits(module, host, TRUSTED)
    if module.host.same_host(host.fingerprint):
        return module
    record = PortRecord(method=TRUSTED, origin=module.host, receiver=host.fingerprint)
    return replace(module, host=host.fingerprint, ports=(*module.ports, record))
