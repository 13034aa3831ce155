"""Execute stacks of jobs in processes of this machine or on a Ray cluster. Both run the same code.

An executor takes a request and the artifacts that it needs, and returns outcomes in the order in which they end. If a
worker dies, only its own stack fails.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peftport.core.errors import BadRequest, PeftportError, UnknownName
from peftport.core.stopping import NUMBERS, undisturbed
from peftport.store.held import sweep_temporary
from peftport.study.devices import VISIBLE, devices_of_task, devices_of_workers

if TYPE_CHECKING:
    from peftport.hosts.loading import Loading
    from peftport.study.messages import JobResult, Request

EXECUTORS = ("processes", "ray")


class WorkerLost(Exception):
    """A worker or its machine died: it was killed, ran out of memory, or lost its connection."""


@dataclass(frozen=True)
class Outcome:
    """How a stack ended: its result, or the exception that it raised (WorkerLost if the worker died)."""

    stack: int
    result: JobResult | None
    error: BaseException | None
    seconds: float


class Executor(Protocol):
    """The interface of a place that executes stacks."""

    def free(self) -> bool:
        """Return whether another stack can begin now."""

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        """Begin a stack. ``blobs`` are the files of the artifacts that it needs, by sha256."""

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        """Return the stacks that ended; wait for one at most this long."""

    def close(self) -> None:
        """Stop at once, even if stacks are running."""


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_here(threads: int, loading: Loading) -> int:
    """Return how many workers fit on this machine: one for each accelerator that ``loading`` uses, else by cores.

    Raises:
        HostRefused: ``loading`` asks for an accelerator and there is none.

    """
    return len(devices_of_workers(loading)) or max(1, usable_cores() // threads)


def make_executor(name: str, workers: int | None, threads: int, loading: Loading) -> Executor:
    """Make the executor of this name. With ``workers`` None, it has as many workers as fit.

    Raises:
        UnknownName: there is no such executor.
        BadRequest: Ray is not installed.

    """
    if name not in EXECUTORS:
        raise UnknownName.of("executor", name, EXECUTORS)
    if name == "ray":
        return RayCluster(workers, threads, loading)
    return Processes(workers or workers_here(threads, loading), threads, devices_of_workers(loading))


class Processes:
    """Executes stacks in local processes. Each worker has a pool of its own, so that it is known which one died."""

    def __init__(self, workers: int, threads: int, devices: Sequence[str] = ()) -> None:
        """Prepare the workers. Each starts when it gets its first stack; devices are assigned in turn."""
        self._threads, self._devices = threads, devices
        sweep_temporary()
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers
        self._running: dict[Future[Any], tuple[int, int, float]] = {}  # worker, stack, start time

    def free(self) -> bool:
        """Return whether a worker is idle."""
        return len(self._running) < len(self._pools)

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        """Give a stack to an idle worker."""
        busy = {worker for worker, _, _ in self._running.values()}
        worker = next(i for i in range(len(self._pools)) if i not in busy)
        with undisturbed(), _deaf_to_signals():  # a worker that starts now inherits this: signals are for the driver
            try:
                future = self._pool(worker).submit(work, request, dict(blobs))
            except BrokenProcessPool:  # the worker died while it was idle, so no stack is lost
                self._drop(worker)
                future = self._pool(worker).submit(work, request, dict(blobs))
        self._running[future] = (worker, stack, time.perf_counter())

    def _pool(self, worker: int) -> ProcessPoolExecutor:
        pool = self._pools[worker]
        if pool is None:
            device = self._devices[worker % len(self._devices)] if self._devices else None
            settings = (self._threads, device)
            pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=begin_worker, initargs=settings)
            self._pools[worker] = pool
        return pool

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        """Return the stacks that ended; wait for one at most this long."""
        if not self._running:
            return []
        done, _ = wait(self._running, timeout_seconds, FIRST_COMPLETED)
        outcomes = []
        for future in sorted(done, key=lambda f: self._running[f][1]):
            worker, stack, begun = self._running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self._drop(worker)
                error = WorkerLost("the worker process died (killed, or out of memory)")
            result = None if error else future.result()
            outcomes.append(Outcome(stack, result, error, time.perf_counter() - begun))
        return outcomes

    def close(self) -> None:
        """Kill the workers, and remove their temporary files."""
        with undisturbed():
            for worker in range(len(self._pools)):
                self._drop(worker)
            self._running.clear()
            sweep_temporary()

    def _drop(self, worker: int) -> None:
        pool, self._pools[worker] = self._pools[worker], None
        if pool is not None:
            processes, results = list((pool._processes or {}).values()), pool._result_queue
            for process in processes:
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.join(timeout=10)
            writer: Any = results._writer  # type: ignore[attr-defined]
            writer.close()  # else a thread waits for the rest of a result whose worker was killed


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Processes that start in this block ignore the signals that stop a driver."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        resource_tracker.ensure_running()  # started before, because starting it unblocks two of the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(threads: int, device: str | None) -> None:
    """Set up a worker process: device, threads, no progress bars, ignored signals, and its end with the driver."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    if device is not None:
        os.environ[VISIBLE] = device
    threading.Thread(target=_follow_parent, daemon=True).start()
    prepare(threads)


def prepare(threads: int) -> None:
    """Configure the libraries for a worker that shares the machine with others."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        sweep_temporary()  # removes the files of dead workers
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def work(request: Request, blobs: Mapping[str, bytes | Path]) -> JobResult:
    """Execute a stack in this process; workers run this function."""
    from peftport.study.messages import told
    from peftport.study.work import perform

    try:
        return perform(request, blobs)
    except Exception as error:
        if _travels(error):
            raise
        raise PeftportError(told(error)) from None


def _travels(error: Exception) -> bool:
    """Return whether an exception can be pickled; if not, sending it would look like the death of the worker."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # unpickling calls constructors, which may raise anything
        return False
    return True


class RayCluster:
    """Executes each stack as a Ray task, on the cluster at RAY_ADDRESS or on a new one on this machine."""

    def __init__(self, workers: int | None, threads: int, loading: Loading) -> None:
        """Connect to the cluster. Ray itself limits a stack to the GPUs that it was assigned.

        Raises:
            BadRequest: Ray is not installed, or the study needs a GPU and the cluster has none.

        """
        try:
            import ray
        except ImportError as error:
            raise BadRequest("--executor ray: expected Ray to be installed, it is not; run: pip install ray") from error
        self._ray: Any = ray
        self._threads = threads
        self._sent: dict[str, Any] = {}
        self._running: dict[Any, tuple[int, float]] = {}
        self._owns = not ray.is_initialized()
        if self._owns:
            ray.init(log_to_driver=False, logging_level="ERROR")
        gpus = devices_of_task(loading, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        places = self._places(threads, gpus)
        self._workers = workers or places
        self._task: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_ray_work)

    def _places(self, threads: int, gpus: int) -> int:
        """Return how many stacks the cluster can run at once; refuse GPUs that it lacks: Ray would wait forever."""
        there = self._ray.cluster_resources()
        if gpus > there.get("GPU", 0):
            self.close()
            raise BadRequest(
                f"loading.device cuda: expected a Ray cluster with {gpus} GPU for a stack, this one has "
                f"{there.get('GPU', 0):.0f}; use auto or cpu"
            )
        places = [there.get("CPU", 1) // threads, *([there["GPU"] // gpus] if gpus else [])]
        return max(1, int(min(places)))

    def free(self) -> bool:
        """Return whether the cluster has room for another stack."""
        return len(self._running) < self._workers

    def submit(self, stack: int, request: Request, blobs: Mapping[str, Path]) -> None:
        """Submit a stack, with its artifacts in Ray's object store, so that no shared disk is needed."""
        for sha256, path in blobs.items():
            if sha256 not in self._sent:
                self._sent[sha256] = self._ray.put(path.read_bytes())
        names, values = list(blobs), [self._sent[sha256] for sha256 in blobs]
        self._running[self._task.remote(request, self._threads, names, *values)] = (stack, time.perf_counter())

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        """Return the stacks that ended; wait for one at most this long."""
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_seconds)
        outcomes = []
        for reference in done:
            stack, begun = self._running.pop(reference)
            result, error = self._ended(reference)
            outcomes.append(Outcome(stack, result, error, time.perf_counter() - begun))
        return outcomes

    def _ended(self, reference: Any) -> tuple[JobResult | None, BaseException | None]:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference), None
        except errors.RayTaskError as error:
            return None, error.cause or error
        except errors.RayError as error:  # a worker, a node or an object of the store was lost
            self._sent.clear()
            return None, WorkerLost(f"Ray lost the worker: {str(error).splitlines()[0]}")

    def close(self) -> None:
        """Cancel the running stacks; a cluster that existed before keeps running."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._owns:
            self._ray.shutdown()


def _ray_work(request: Request, threads: int, names: list[str], *values: bytes) -> JobResult:
    prepare(threads)
    return work(request, dict(zip(names, values, strict=True)))
