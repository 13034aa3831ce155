"""The same workers on a Ray cluster: the same rows and bytes as processes, also when one of two nodes is lost."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftport.core.errors import BadRequest
from peftport.hosts.loading import Loading
from peftport.study.executors import Outcome, RayCluster
from pico_folders import Run
from pico_study import contents, files, plan_of, records, run_in


def test_without_ray_it_is_refused(peftport: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = peftport("study", "run", tiny, "--dir", tmp_path / "runs", "--executor", "ray")
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert "pip install ray" in told.err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(BadRequest):
        RayCluster(1, 1, Loading())


@pytest.fixture
def cluster(home: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head that does no work; the test adds the nodes that do."""
    for name, value in {**environment, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        import ray

        made = a_head()
        yield made
        ray.shutdown()
        made.shutdown()


def a_head() -> Any:
    """Start the head of a cluster; once more where it took Ray too long, as on a machine that has other work."""
    from ray.cluster_utils import Cluster

    asked = {"num_cpus": 0, "object_store_memory": 100 * 2**20}
    try:
        return Cluster(initialize_head=True, head_node_args=asked)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        return Cluster(initialize_head=True, head_node_args=asked)


class Losing(RayCluster):
    """Takes one node away while its first stack is under way there."""

    def __init__(self, cluster: Any, victim: Any, begun: Path) -> None:
        super().__init__(2, 1, Loading())
        self.cluster, self.victim, self.begun, self.lost = cluster, victim, begun, 0
        self._task = self._ray.remote(num_cpus=1, max_retries=0)(slow_at_first(begun))

    def outcomes(self, timeout_seconds: float) -> list[Outcome]:
        if self.victim is not None and (self.begun / self.victim.node_id).exists():
            self.cluster.remove_node(self.victim, allow_graceful=False)
            self.victim = None
        found = super().outcomes(0.05 if self.victim is not None else timeout_seconds)
        self.lost += sum(outcome.error is not None for outcome in found)
        return found


def slow_at_first(begun: Path) -> Callable[..., Any]:
    """The work of a stack, after a sign that it has begun on that node and, the first time there, a pause."""

    def run(*arguments: Any) -> Any:
        import ray

        from peftport.study.executors import _ray_work

        sign = begun / ray.get_runtime_context().get_node_id()
        if not sign.exists():
            sign.touch()
            time.sleep(3.0)
        return _ray_work(*arguments)

    return run


@pytest.mark.filterwarnings("ignore")
def test_a_node_is_lost(tmp_path: Path, home: Path, tiny: Path, undisturbed: Path, cluster: Any) -> None:
    """Two nodes work; one is killed mid-run; every row comes out, as processes would have written it."""
    import ray

    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env={"working_dir": None})
    (tmp_path / "begun").mkdir()
    executor = Losing(cluster, nodes[1], tmp_path / "begun")
    summary = run_in(tmp_path / "runs", plan_of(tiny), executor)
    assert executor.victim is None
    assert executor.lost
    assert (summary.failed, summary.blocked, summary.left) == (0, 0, 0)
    assert contents(tmp_path / "runs") == contents(undisturbed)
    assert files(tmp_path / "runs") == files(undisturbed)
    assert any(attempt for attempt, _ in records(tmp_path / "runs").values())


@pytest.mark.filterwarnings("ignore")
def test_stacks_ask_for_a_gpu_where_the_cluster_has_some(
    tmp_path: Path, tiny: Path, undisturbed: Path, cluster: Any
) -> None:
    """Two GPUs by name only: Ray hands them out one a stack, torch sees none and works on the processor.

    Two stacks, of the runs that need no others: Ray starts a process for each stack that has a GPU.
    """
    import ray

    cluster.add_node(num_cpus=3, num_gpus=2, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env={"working_dir": None})
    on_processors = RayCluster(None, 1, Loading())
    executor = RayCluster(None, 1, Loading(device="auto"))
    assert (on_processors._workers, executor._workers) == (3, 2)
    assert RayCluster(None, 1, Loading(device="cuda", spread=True))._workers == 1
    seen = ray.remote(num_gpus=1)(lambda: ray.get_gpu_ids())
    assert sorted(ray.get([seen.remote(), seen.remote()])) in ([[0], [1]], [["0"], ["1"]])
    plan = plan_of(tiny, loading__device="auto")
    alone = [run for run in plan.runs() if run.receiver == "bert-updated" and run.arm in ("bare", "scratch")]
    part = plan.part([run for run in alone if run.technique in (None, "lora-2")])
    assert len(part.stacks) == 2
    summary = run_in(tmp_path / "runs", part, executor)
    assert (summary.failed, summary.blocked, summary.left) == (0, 0, 0)
    whole = contents(undisturbed)
    assert contents(tmp_path / "runs") == {job: whole[job] for job in part.jobs}


@pytest.mark.filterwarnings("ignore")
def test_a_gpu_that_the_cluster_lacks_is_refused(cluster: Any) -> None:
    import ray

    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env={"working_dir": None})
    for workers in (None, 2):
        with pytest.raises(BadRequest, match="expected a Ray cluster with 1 GPU for a stack, this one has 0"):
            RayCluster(workers, 1, Loading(device="cuda"))
