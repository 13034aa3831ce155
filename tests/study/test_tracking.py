"""Trackers get what study export has, once; what happens to them never happens to the study."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftport import tracking
from peftport.analysis.columns import FACTORS
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import Ledger
from peftport.study import executors
from peftport.study.export import export
from peftport.study.plan import chosen_factors
from peftport.study.tracked import measure_names, tracked_run
from peftport.tracking.base import TrackedRun
from peftport.tracking.tensorboard import curve_folder
from pico_folders import Result, Run
from pico_study import Here, plan_of

# The libraries' own, on import and use; a warning in a tracker's thread would be its failure.
pytestmark = pytest.mark.filterwarnings("ignore")
STARTING_SECONDS = 300
LOCAL = ("wandb", "trackio", "tensorboard")


class Seen:
    """A tracker in memory: what it holds outlives the call, as a server does. ``most``: it fails after so many runs."""

    def __init__(self, most: int = 10**6) -> None:
        self.held: dict[str, TrackedRun] = {}
        self.most = most

    def begin(self, study: str, folder: Path) -> Iterable[str]:
        return list(self.held)

    def log(self, run: TrackedRun) -> None:
        if len(self.held) >= self.most:
            raise ConnectionError("no route\nto host")
        assert run.id not in self.held
        self.held[run.id] = run

    def close(self) -> None:
        pass


@pytest.fixture
def study(peftport: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The tiny study run, worked on in this process."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())

    def run(*arguments: object) -> Result:
        return peftport("study", "run", tiny, *arguments)

    return run


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A tracker called ``mlflow`` that needs no server."""
    held = Seen()
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda: held)
    return held


def exported_runs(tiny: Path, folder: Path) -> list[TrackedRun]:
    """What trackers should hold: the done rows of the exported table."""
    ledger = Ledger(folder)
    try:
        runs = export(plan_of(tiny), ledger, Artifacts(folder / "artifacts"), items=False).runs
    finally:
        ledger.close()
    return [tracked_run("tiny", row) for row in runs.iter_rows(named=True) if row["state"] == "done"]


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the tiny study, all done."""
    return Path(shutil.copytree(undisturbed, tmp_path / "runs"))


def same(one: TrackedRun, other: TrackedRun) -> bool:
    return vars(one) == vars(other)


def test_each_run_once_whatever_stops_the_study(study: Run, seen: Seen, tiny: Path, tmp_path: Path) -> None:
    """Three calls, the first two stopped early: after each, the tracker holds what is done, column by column."""
    folder = tmp_path / "runs"
    counts = []
    for limit in (("--max-jobs", 10), ("--max-jobs", 4), ()):
        told = study("--dir", folder, "--track", "mlflow", "--json", *limit)
        assert told.code == 0
        counts.append(told.json["tracked"]["mlflow"])
        rows = exported_runs(tiny, folder)
        assert seen.held.keys() == {row.id for row in rows}
        assert all(same(seen.held[row.id], row) for row in rows)
    assert 0 < counts[1]["already_there"] < len(seen.held)
    assert sum(count["sent"] for count in counts) == len(seen.held) == len(list(plan_of(tiny).runs()))


def test_columns_are_those_of_the_table(seen: Seen, study: Run, finished: Path) -> None:
    assert study("--dir", finished, "--track", "mlflow").code == 0
    runs = list(seen.held.values())
    assert {name for run in runs for name in run.factors} == {*FACTORS, "job"}
    assert {name for run in runs for name in run.measures} == set(measure_names())
    assert all(value is not None for run in runs for value in (*run.factors.values(), *run.measures.values()))
    assert len({run.name for run in runs}) == len(runs)


def test_a_tracker_that_fails_costs_the_study_nothing(study: Run, seen: Seen, tiny: Path, tmp_path: Path) -> None:
    seen.most = 5
    told = study("--dir", tmp_path / "runs", "--track", "mlflow", "--json")
    assert told.code == 0
    assert (told.json["failed"], told.json["left"]) == (0, 0)
    assert told.err.splitlines() == [
        "--track mlflow: ConnectionError: no route; the study goes on without it, run the same command again to send "
        "what is missing"
    ]
    assert told.json["tracked"]["mlflow"] == {"sent": 5, "already_there": 0}
    seen.most = 10**6
    again = study("--dir", tmp_path / "runs", "--track", "mlflow")
    assert f"mlflow: {len(seen.held) - 5} runs sent, 5 were there already" in again.out
    assert seen.held.keys() == {row.id for row in exported_runs(tiny, tmp_path / "runs")}


def test_failed_runs_are_not_tracked_until_they_are_done(study: Run, seen: Seen, tmp_path: Path) -> None:
    wild = ("--set", "training.learning_rates.lora-2=1e38")
    assert study("--dir", tmp_path / "runs", "--track", "mlflow", *wild).code == 1
    assert seen.held
    assert {run.factors.get("technique") for run in seen.held.values()} == {None, "adapter"}


def test_a_tracker_that_is_not_here_is_refused(study: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracking.TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        told = study("--dir", tmp_path / "runs", "--track", name)
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert f"pip install {name}" in told.err
    told = study("--dir", tmp_path / "runs", "--track", "tensorbord")
    assert (told.code, "did you mean 'tensorboard'?" in told.err) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real MLflow server with an SQLite backend."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store, files = f"sqlite:///{tmp_path / 'mlflow.sqlite'}", tmp_path / "mlflow-files"
    command = ["mlflow", "server", "--backend-store-uri", store, "--default-artifact-root", str(files)]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command, "--port", str(port), "--workers", "1"],
            env=quiet, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + STARTING_SECONDS
            while not answers(f"{address}/health"):
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            yield address
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_mlflow(study: Run, server: str, tiny: Path, finished: Path) -> None:
    """Every param and metric of every run comes back as export has it; a run that was cut off is completed."""
    from mlflow import MlflowClient
    from mlflow.entities import Run as Recorded

    only = ("--only", "receiver=bert-updated")
    rows = {run.id: run for run in exported_runs(tiny, finished) if run.factors["receiver"] == "bert-updated"}
    client = MlflowClient(server)
    experiment = client.create_experiment("tiny")
    cut_off = next(iter(rows))
    half = client.create_run(experiment, tags={"peftport.id": cut_off})
    client.log_param(half.info.run_id, "arm", rows[cut_off].factors["arm"])

    def held() -> dict[str, Recorded]:
        found = client.search_runs([experiment], max_results=1000)
        assert len(found) == len({run.data.tags["peftport.id"] for run in found})
        return {run.data.tags["peftport.id"]: run for run in found}

    for sent in (len(rows), 0):
        told = study("--dir", finished, "--track", "mlflow", "--json", *only)
        assert told.code == 0
        assert told.json["tracked"]["mlflow"] == {"sent": sent, "already_there": len(rows) - sent}
        found = held()
        assert found.keys() == rows.keys()
    assert found[cut_off].info.run_id == half.info.run_id
    for mark, run in found.items():
        assert run.info.status == "FINISHED"
        assert run.data.params == {name: str(value) for name, value in rows[mark].factors.items()}
        assert run.data.metrics == rows[mark].measures
    [point] = client.get_metric_history(found[cut_off].info.run_id, "accuracy")
    assert point.step == rows[cut_off].budget
    names = {run.data.tags["mlflow.runName"] for mark, run in found.items() if mark != cut_off}
    assert names == {row.name for mark, row in rows.items() if mark != cut_off}


def test_mlflow_out_of_reach(study: Run, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = study("--dir", finished, "--track", "mlflow", "--json")
    assert told.code == 0
    assert told.json["tracked"]["mlflow"] == {"sent": 0, "already_there": 0}
    assert told.err.count("--track mlflow: ") == 1


@pytest.fixture
def process(tiny: Path, finished: Path, environment: dict[str, str], tmp_path: Path) -> Run:
    """The study run as users do it, in a process of its own, with local trackers: stdout stays one document."""
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}

    def run(*arguments: str) -> Result:
        command = [sys.executable, "-m", "peftport", "study", "run", str(tiny), "--dir", str(finished), "--json"]
        done = subprocess.run(
            [*command, *arguments], env=environment | own, capture_output=True, text=True, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def test_local_trackers(process: Run, tiny: Path, finished: Path, tmp_path: Path) -> None:
    """Some runs, then more, to three at once; the libraries' own files hold what export has, once."""
    few = ("technique=adapter", "receiver=bert-updated", "seed=0"), ("technique=adapter", "receiver=bert-updated")
    names = [{run.name for run in plan_of(tiny, chosen_factors(only)).runs()} for only in few]
    rows = {run.id: run for run in exported_runs(tiny, finished) if run.name in names[1]}
    for only, sent, before in ((few[0], len(names[0]), 0), (few[1], len(names[1] - names[0]), len(names[0]))):
        words = [("--track", name) for name in LOCAL] + [("--only", factor) for factor in only]
        told = process(*itertools.chain(*words))
        assert told.code == 0, told.err
        assert told.json["tracked"] == dict.fromkeys(LOCAL, {"sent": sent, "already_there": before})
        assert sent > 0
    check_wandb(tmp_path / "wandb", rows)
    check_trackio(tmp_path / "trackio", rows)
    check_tensorboard(finished / "tensorboard", list(rows.values()))


def check_tensorboard(home: Path, rows: list[TrackedRun]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folders = {curve_folder(run) for run in rows}
    assert {path.name for path in home.iterdir()} == folders
    for folder in folders:
        found = EventAccumulator(str(home / folder)).Reload()
        points = {(tag, e.step): e.value for tag in found.Tags()["scalars"] for e in found.Scalars(tag)}
        mine = [run for run in rows if curve_folder(run) == folder]
        assert points == {
            (name, run.budget): pytest.approx(value, rel=1e-6) for run in mine for name, value in run.measures.items()
        }
        assert [e.step for e in found.Scalars("accuracy")] == sorted(run.budget for run in mine)
        shown = HParamsPluginData.FromString(found.PluginTagToContent("hparams")["_hparams_/session_start_info"])
        declared = {k: v.string_value or v.number_value for k, v in shown.session_start_info.hparams.items()}
        assert declared == {k: v for k, v in mine[0].factors.items() if k not in ("budget", "job")}


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a W&B file: a header of 7 bytes, then LevelDB's log of 32 KiB blocks (checksum, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record, at = record + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(record)
            record = b""


def check_wandb(home: Path, rows: dict[str, TrackedRun]) -> None:
    files = list(home.glob("offline-run-*/*.wandb"))
    assert len(files) == len(rows)
    for path in files:
        by_kind = {record.WhichOneof("record_type"): record for record in wandb_records(path)}
        run, row = by_kind["run"].run, rows[by_kind["run"].run.run_id]
        assert (run.display_name, run.run_group, run.project) == (row.name, "tiny", "tiny")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert {key: value for key, value in config.items() if key != "_wandb"} == row.factors
        point = {item.nested_key[0]: json.loads(item.value_json) for item in by_kind["history"].history.item}
        assert {key: value for key, value in point.items() if key[0] != "_"} == pytest.approx(row.measures)
        assert (point["_step"], by_kind["exit"].exit.exit_code) == (row.budget, 0)


TRACKIO = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
runs = trackio.Api().runs("tiny")
json.dump([[run.name, run.config, SQLiteStorage.get_logs("tiny", run.name, run_id=run.id)] for run in runs], sys.stdout)
"""


def check_trackio(home: Path, rows: dict[str, TrackedRun]) -> None:
    own = {**os.environ, "TRACKIO_DIR": str(home)}
    read = subprocess.run([sys.executable, "-c", TRACKIO], env=own, capture_output=True, text=True, check=True)
    found = json.loads(read.stdout)
    assert len(found) == len(rows)
    for name, config, logs in found:
        row = rows[name.rpartition(" | ")[2]]
        assert name == f"{row.name} | {row.id}"
        assert {key: value for key, value in config.items() if key[0] != "_"} == row.factors
        [point] = logs
        assert point["step"] == row.budget
        assert {key: point[key] for key in point if key not in ("step", "timestamp")} == pytest.approx(row.measures)
