"""Check that all hosts of a plan are available before anything begins, rather than fail hours later."""

from __future__ import annotations

from peftport.core.errors import BadRequest, HostRefused, UnknownName
from peftport.hosts.loading import placement
from peftport.hosts.sources import find_host
from peftport.study.jobs import BareJob, DistanceJob, TrainJob
from peftport.study.plan import Plan


def hosts_of(plan: Plan) -> tuple[str, ...]:
    """Return the hosts that the jobs of a plan read; for hosts that the study makes, the hosts they are made from."""
    made = plan.study.hosts
    named: set[str] = set()
    for job in plan.jobs.values():
        if isinstance(job, TrainJob | BareJob):
            named.add(job.host)
        elif isinstance(job, DistanceJob):
            named |= {job.origin, job.receiver}
    return tuple(sorted({made[host].base if host in made else host for host in named}))


def check_hosts(plan: Plan) -> None:
    """Find every host that the plan needs, download those of the hub, and check that they can be loaded as asked.

    Raises:
        BadRequest: a host is not available, or cannot be loaded as the study asks; the message says which.

    """
    try:
        placement(plan.study.loading)
    except HostRefused as error:
        raise BadRequest(f"study {plan.study.name}: loading: {error}") from error
    for host in hosts_of(plan):
        try:
            find_host(host)
        except (UnknownName, HostRefused) as error:
            raise BadRequest(f"study {plan.study.name}: {error}") from error
