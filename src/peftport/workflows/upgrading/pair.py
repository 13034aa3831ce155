"""The two hosts of an upgrade. Each is opened once and loaded once for each view that a readout needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from peftport.analysis.prediction import recorded
from peftport.core.progress import Progress, Silent
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import loading_of
from peftport.hosts.opening import open_host
from peftport.metrics.choice import check_defined, choose_metric
from peftport.modules.module import Module
from peftport.porting.base import PortCache
from peftport.tasks import Task
from peftport.tasks.spec import Predictions
from peftport.training.bound_task import BoundTask, bind_task
from peftport.workflows.checking import AvailableInputs, FoundOrigin, MethodChoice, method_checks
from peftport.workflows.checking.choice import choose_method
from peftport.workflows.checking.host_comparison import HostComparison, compare_hosts
from peftport.workflows.job_inputs import train_settings
from peftport.workflows.port_inputs import cut_remarks
from peftport.workflows.upgrade_requests import UpgradeRequest


@dataclass(eq=False)
class HostPair:
    """The hosts of an upgrade, and what depends on them and the task alone: it is computed once for all modules."""

    request: UpgradeRequest
    task: Task | None
    cache: PortCache = field(default_factory=PortCache)
    tested_on: list[BoundTask] = field(default_factory=list)

    @property
    def progress(self) -> Progress:
        """Receives the progress of the work."""
        return self.request.progress or Silent()

    @cached_property
    def old(self) -> Host:
        """The old host, opened for its weights."""
        return open_host(str(self.request.old))

    @cached_property
    def new(self) -> Host:
        """The new host, opened for its weights."""
        return open_host(str(self.request.new))

    @cached_property
    def available(self) -> AvailableInputs:
        """What ports may use."""
        return AvailableInputs(self.request.texts is not None or self.task is not None, self.task is not None)

    def choice(self, module: Module) -> MethodChoice:
        """Choose the method for a module of the old host, as `peftport check` does."""
        hosts: HostComparison = self.cache.cached(
            "hosts", lambda: compare_hosts(module, FoundOrigin(self.old), self.new)
        )
        methods = method_checks(module, hosts, self.new, self.available, recorded().ports)
        return choose_method(methods, same_host=hosts.same_host)

    def running_old(self, readout: str | None) -> Host:
        """Return the old host, loaded, for methods that read its activations; with a task, the one that is tested."""
        if self.task is not None:
            return self.bound(False, readout).host
        return self.cache.cached("old", lambda: load_host(str(self.request.old)))

    @cached_property
    def new_loaded(self) -> Host:
        """The new host, loaded, for methods that read its activations where no task is given."""
        return load_host(str(self.request.new))

    def bound(self, new: bool, readout: str | None) -> BoundTask:
        """Return the task bound to the new or the old host with a readout; None is the default of the host's kind."""
        assert self.task is not None, "asked for only where a task is given"
        task, r = self.task, self.request

        def bind() -> BoundTask:
            settings = train_settings(r.max_tokens, r.batch_size)
            host = str(r.new if new else r.old)
            self.tested_on.append(
                bind_task(host, task, readout, settings, r.test_items, loading_of(r.load), r.generate)
            )
            return self.tested_on[-1]

        return self.cache.cached(("task", new, readout), bind)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to tell users of how the task was read, and what was cut off its texts and those that ports compared."""
        of_task = () if self.task is None else self.task.remarks
        of_tests = (remark for bound in self.tested_on for remark in bound.remarks)
        return tuple(dict.fromkeys((*of_task, *of_tests, *cut_remarks(self.cache, self.request.max_tokens))))

    def bare(self, readout: str | None) -> Predictions:
        """Return what the bare new host predicts.

        Raises:
            BadRequest: the test items do not have the metric that was asked for.

        """

        def tested() -> Predictions:
            [bare] = self.bound(True, readout).test(None, [])
            check_defined(choose_metric(bare, self.request.metric).name, bare)
            return bare

        return self.cache.cached(("bare", readout), tested)
