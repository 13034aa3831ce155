"""Does a study ever end in a wrong number, a traceback or a hang, whatever happens to it? Random faults, counted.

python benchmarks/faults.py [--faults 500] [--seed 0] [--out benchmarks/results/faults.json] [--at INDEX]

Each fault strikes a tiny study (random hosts of width 16) while it runs, or between two calls; then the same command
goes on, and where it refuses, the remedy that fits is tried: the change undone, ``study repair``. It must end in the
result of a study that nobody disturbed, or in a refusal that names the damage. Commands are those of the command line,
each in a child forked from this process, so that torch is imported once; their workers are forked too. The file is
written after every fault, and a second call goes on from there. ``--at`` does one of the faults again and keeps its
folder. Full and read-only disks need the right to mount; without it those kinds are left out, and the file says so.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

RESULTS = Path(__file__).parent / "results"
PATIENCE_SECONDS, ENDING_SECONDS = 180.0, 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STUDY = """
name = "tiny"
techniques = [{ name = "lora-2", kind = "lora", rank = 2 }]
pairs = [["bert", "bert-updated"]]
tasks = ["reviews"]
budgets = [0, 2]
seeds = [0, 1, 2]
[data.reviews]
source = "reviews.jsonl"
[training]
origin_steps = 3
batch_size = 4
max_tokens = 32
learning_rates = { lora-2 = 1e-2 }
[testing]
items = 8
[execution]
stack = 1
"""
# What a run came to; seconds are not compared, and numbers with many digits only to the rounding of float32.
EXACT = ("run", "state", "accuracy", "accuracy_at_median", "n_items")
ROUNDED = ("auroc", "loss", "host_distance")


class Broken(Exception):
    """A fault ended as none may; the message says how."""


@dataclass
class Ended:
    """A command that ended: exit code (negative: the signal), and what it said."""

    code: int
    out: str
    err: str
    session: int


@dataclass
class Case:
    """One fault's place: a home with hosts, data and a module; the folder of its study."""

    folder: Path
    rng: random.Random
    oracle: dict[str, Any]
    said: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Hosts, data, the study's file and a module."""
        return self.folder / "home"

    @property
    def runs(self) -> Path:
        """The study's folder."""
        return self.folder / "runs"

    def start(self, *arguments: object) -> int:
        """Begin a command; the child's process id, which is its session's too."""
        count = len(list(self.folder.glob("out-*")))
        streams = [self.folder / f"{name}-{count}" for name in ("out", "err")]
        for stream in streams:  # here: the child may be killed before it has written anything
            stream.touch()
        child = os.fork()
        if child:
            (self.folder / f"pid-{child}").write_text(str(count))
            return child
        _command(self, streams, [str(a) for a in arguments])
        return 0

    def end(self, child: int) -> Ended:
        """Wait for a command; nothing of its session may live on."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > limit:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise Broken(f"hang: no end within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.01)
        count = (self.folder / f"pid-{child}").read_text()
        out, err = ((self.folder / f"{name}-{count}").read_text(errors="replace") for name in ("out", "err"))
        self.said.append(err)
        if "Traceback (most recent call last)" in err or "Error: " in err.partition("\n")[0].partition(" ")[0]:
            raise Broken(f"traceback: {err[-1500:]}")
        limit = time.monotonic() + ENDING_SECONDS
        while left := _session(child):
            if time.monotonic() > limit:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                raise Broken(f"child: {len(left)} processes lived on")
            time.sleep(0.02)
        return Ended(os.waitstatus_to_exitcode(status), out, err, child)

    def call(self, *arguments: object) -> Ended:
        """Run a command to its end."""
        return self.end(self.start(*arguments))

    def study(self, command: str, *more: object) -> Ended:
        """Run ``peftport study COMMAND`` on the tiny study."""
        return self.call("study", command, "tiny.toml", "--dir", self.runs, *more)

    def run(self, *more: object) -> Ended:
        """Run the study with one or two workers."""
        return self.study("run", "--workers", self.rng.choice((1, 2)), *more)

    def begin(self, *more: object) -> int:
        """Start running the study; it goes on while the fault strikes."""
        words = ("study", "run", "tiny.toml", "--dir", self.runs, "--workers", self.rng.choice((1, 2)), *more)
        return self.start(*words)


def _command(case: Case, streams: list[Path], arguments: list[str]) -> None:
    """What a forked child does: the command line, with forked workers. It never returns."""
    code = 70
    try:
        os.setsid()
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(case.home)
        temporary = case.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        from multiprocessing import get_context

        from peftport.__main__ import main
        from peftport.study import executors

        executors.get_context = lambda _: get_context("fork")  # type: ignore[assignment]
        sys.argv = ["peftport", *arguments]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _session(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            state, _, _, session, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            if int(session) == leader and state not in "ZX":
                found.append(int(place.name))
    return found


# ---- faults -----------------------------------------------------------------------------------------------------


def _moment(case: Case) -> None:
    time.sleep(case.rng.uniform(0, 1.2) * case.oracle["seconds"])


def kill(case: Case) -> str:
    """SIGKILL of the driver, of one worker, or of all at once."""
    child, whom = case.begin(), case.rng.choice(("driver", "worker", "group"))
    _moment(case)
    others = [process for process in _session(child) if process != child]
    with suppress(ProcessLookupError):
        if whom == "group":
            os.killpg(child, signal.SIGKILL)
        elif whom == "driver":
            os.kill(child, signal.SIGKILL)
        elif others:
            os.kill(case.rng.choice(others), signal.SIGKILL)
    ended = case.end(child)
    return f"{whom}, code {ended.code}"


def stop(case: Case) -> str:
    """SIGSTOP of some processes, a while, SIGCONT."""
    child = case.begin()
    _moment(case)
    stopped = [process for process in _session(child) if case.rng.random() < 0.6]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in stopped:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        time.sleep(case.rng.uniform(0, 0.5))
    return _expect(case.end(child), 0)


def signals(case: Case) -> str:
    """One to four of SIGINT, SIGTERM, SIGHUP within a tenth of a second, to the driver or to all."""
    child = case.begin()
    _moment(case)
    sent = [case.rng.choice(SIGNALS) for _ in range(case.rng.randint(1, 4))]
    everybody = case.rng.random() < 0.6
    for number in sent:
        with suppress(ProcessLookupError):
            (os.killpg if everybody else os.kill)(child, number)
        time.sleep(case.rng.uniform(0, 0.1 / len(sent)))
    ended = case.end(child)
    # Before the command has its signals in hand, at its very start, the system's own way to end is all there is.
    if ended.code not in (0, 130, *(-number for number in SIGNALS)):
        raise Broken(f"signals {sent}: code {ended.code}: {ended.err}")
    if ended.code == 130 and ended.err.count("\n") > 1:
        raise Broken(f"more than a line: {ended.err}")
    return f"{[signal.Signals(number).name for number in sent]}, code {ended.code}"


def full_disk(case: Case) -> str:
    """A file system that is too small, at a moment that its size decides; then there is room."""
    kib = case.rng.choice((case.rng.randint(1, 16) * 4, case.rng.randint(4, 100) * 4))
    with _mounted(case, f"size={kib}k"):
        ended = case.run()
        if ended.code:
            _refused(ended, (1,), "space|full|disk|room|write")
            case.study("status")
        _mount("-o", "remount,size=64m", str(case.runs))
        goes_on(case)
    return f"{kib} KiB, code {ended.code}"


def read_only(case: Case) -> str:
    """A disk that cannot be written: what reads it reads, what writes says so."""
    with _mounted(case, "size=64m"):
        how = case.rng.choice(("whole", "part", "killed"))
        if how == "killed":
            child = case.begin()
            _moment(case)
            os.killpg(child, signal.SIGKILL)
            case.end(child)
        else:
            case.run(*(["--max-jobs", case.rng.randint(1, 8)] if how == "part" else []))
        begun = (case.runs / "ledger.sqlite").is_file() and (case.runs / "ledger.sqlite").stat().st_size
        _mount("-o", "remount,ro", str(case.runs))
        if begun:
            for command in (["status"], ["export", "--out", case.folder / "exported"]):
                _expect(case.study(*command), 0) if how != "killed" else _readable(case.study(*command))
            if how == "whole":
                compare(case, case.folder / "exported")
        ended = case.run()
        _refused(ended, (1, 2), "read-only|rights|cannot be written|write") if ended.code else None
        _mount("-o", "remount,rw", str(case.runs))
        goes_on(case)
    return how


def two_drivers(case: Case) -> str:
    """Two calls at once: one works, the other is refused, or finds that all is done."""
    first = case.begin()
    _moment(case)
    second = case.begin()
    codes = []
    for ended in (case.end(second), case.end(first)):
        codes.append(ended.code)
        if ended.code:
            _refused(ended, (2,), "another process is running this study")
    if codes == [2, 2]:
        raise Broken("both drivers were refused")
    return f"codes {codes}"


def flip_ledger(case: Case) -> str:
    """A byte of the ledger altered, a page zeroed, or the file emptied."""
    _begun(case)
    path, how = case.runs / "ledger.sqlite", case.rng.choice(("byte", "byte", "byte", "page", "empty", "cut"))
    data = bytearray(path.read_bytes())
    if how == "byte":
        place = case.rng.randrange(len(data))
        data[place] ^= 1 << case.rng.randrange(8)
    elif how == "page":
        page = case.rng.randrange(max(1, len(data) // 4096))
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    else:
        data = data[: 0 if how == "empty" else case.rng.randrange(len(data))]
    path.write_bytes(data)
    goes_on(case, "ledger|checksum|altered|corrupt|damage", remedies=(["repair"],))
    return how


def flip_artifact(case: Case) -> str:
    """A byte of an artifact altered, the file cut, or gone."""
    _begun(case)
    paths = sorted((case.runs / "artifacts").rglob("*.safetensors"))
    how = _harm(case.rng.choice(paths), case.rng) if paths else "none there"
    goes_on(case, "artifact|missing|corrupt")
    return how


def _flip_input(name: str) -> Callable[[Case], str]:
    def strike(case: Case) -> str:
        path = case.home / name
        before = path.read_bytes()
        _begun(case)
        how = _harm(path, case.rng, gone=False)
        words = f"{path.name}|{path.parent.name}|{path.stem}|changed|differs"

        def undo() -> None:
            path.write_bytes(before)

        goes_on(case, words, undo)
        return how

    strike.__doc__ = f"{name} altered between two calls."
    return strike


def flip_module(case: Case) -> str:
    """A byte of a module's file altered: evaluated, it gives the same numbers or is refused."""
    path = case.home / "module" / case.rng.choice(("module.safetensors", "module.json"))
    how = _harm(path, case.rng, gone=False)
    ended = case.call("evaluate", "bert", "reviews.jsonl", "--module", "module", "--max-tokens", 32, "--json")
    if ended.code:
        _refused(ended, (2,), "module")
    elif json.loads(ended.out) != case.oracle["evaluated"]:
        raise Broken(f"wrong number: {path.name} {how}: {ended.out}")
    return f"{path.name} {how}, code {ended.code}"


# Faults after which `goes_on` is called by the fault itself have to do so while their disk is mounted, or to undo.
KINDS: dict[str, Callable[[Case], str]] = {
    "kill": kill,
    "stop and continue": stop,
    "signals": signals,
    "full disk": full_disk,
    "read-only disk": read_only,
    "two drivers": two_drivers,
    "ledger": flip_ledger,
    "artifact": flip_artifact,
    "host weights": _flip_input("bert-updated/model.safetensors"),
    "host config": _flip_input("bert-updated/config.json"),
    "tokenizer": _flip_input("bert-updated/tokenizer.json"),
    "task file": _flip_input("reviews.jsonl"),
    "module file": flip_module,
}
OWN_END = (full_disk, read_only, flip_module)


def _begun(case: Case) -> None:
    """Bring the study to some point by an orderly call."""
    _expect(case.run(*(["--max-jobs", case.rng.randint(1, 9)] if case.rng.random() < 0.7 else [])), 0)


def _harm(path: Path, rng: random.Random, gone: bool = True) -> str:
    data, how = bytearray(path.read_bytes()), rng.choice(("byte", "byte", "cut", "gone" if gone else "byte"))
    if how == "byte":
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        data[place] ^= 1 << bit
        how = f"bit {bit} of byte {place}"
    elif how == "cut":
        data = data[: rng.randrange(len(data))]
    path.unlink()
    if how != "gone":
        path.write_bytes(data)
    return how


def _expect(ended: Ended, code: int) -> str:
    if ended.code != code:
        raise Broken(f"code {ended.code}, expected {code}: {ended.err}")
    return f"code {code}"


def _readable(ended: Ended) -> None:
    """A study whose driver was killed: read, or, where that was before its first row, said not to be begun."""
    if ended.code:
        _refused(ended, (1, 2), "begun")


def _refused(ended: Ended, codes: tuple[int, ...], words: str) -> None:
    """One line that names the damage by one of the words."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if ended.code not in codes or len(lines) != 1 or not lines[0].startswith("peftport: "):
        raise Broken(f"code {ended.code}, expected {codes} and one line: {ended.err}")
    if not any(word in lines[0].lower() for word in words.lower().split("|")):
        raise Broken(f"unnamed: expected one of {words} in: {lines[0]}")


# ---- how it goes on ---------------------------------------------------------------------------------------------


def goes_on(
    case: Case, words: str = "", undo: Callable[[], None] | None = None, remedies: tuple[list[str], ...] = ()
) -> str:
    """The same command again. Ends as undisturbed, or refuses and names it; then the remedies, and again.

    An input that changes before any job has read it is no damage: then all is as if the study were begun with it.
    """
    ended = case.run()
    exported = case.study("export", "--out", case.folder / "exported") if not ended.code else ended
    if not exported.code:
        try:
            compare(case, case.folder / "exported")
        except Broken:
            if undo is None or not _as_begun_anew(case):
                raise
            return _tidy(case, "as begun anew")
        return _tidy(case, "same")
    status = case.study("status")
    told = Ended(exported.code, "", exported.err, 0)
    if "study status" in exported.err:  # some job has failed: the status says of what
        told.err = f"peftport: {' '.join((exported.err + status.out).split())}\n"
    _refused(told, (1, 2), words or "nothing may be refused after this fault")
    if undo is not None:
        undo()
    for remedy in remedies:
        case.study(*remedy)
    again = case.run("--retry-failed")
    exported = case.study("export", "--out", case.folder / "exported") if not again.code else again
    if exported.code:
        return _tidy(case, "refused")
    compare(case, case.folder / "exported")
    return _tidy(case, "refused, then same")


def _as_begun_anew(case: Case) -> bool:
    """Whether a new study of the inputs as they are now comes to the same as this one."""
    ours = _tables(case.folder / "tables.json", case.folder / "exported")
    words = ("tiny.toml", "--dir", case.folder / "anew")
    for command in (("run", *words), ("export", *words, "--out", case.folder / "exported")):
        _expect(case.call("study", *command), 0)
    return ours == _tables(case.folder / "tables.json", case.folder / "exported")


def _tidy(case: Case, outcome: str) -> str:
    """No temporary file is left, of this call or of one before."""
    left = [p.name for p in (case.folder / "temporary").iterdir()]
    left += [p.name for p in case.runs.rglob(".*")]
    if left:
        raise Broken(f"litter: {left}")
    case.said.append(outcome)
    return outcome


def compare(case: Case, exported: Path) -> None:
    """Raise Broken where exported tables are not those of the undisturbed study."""
    ours, theirs = _tables(case.folder / "tables.json", exported), case.oracle["tables"]
    for run, row in theirs.items():
        own = ours.get(run)
        if own is None:
            raise Broken(f"wrong number: {run} is missing")
        for name, value in row.items():
            near = name in ROUNDED and None not in (value, own[name]) and math.isclose(value, own[name], rel_tol=1e-4)
            if own[name] != value and not near:
                raise Broken(f"wrong number: {run}: {name} is {own[name]}, undisturbed {value}")


def _tables(to: Path, exported: Path) -> dict[str, Any]:
    """Exported tables by run; read in a child, for polars' threads do not outlive a fork."""
    child = os.fork()
    if not child:
        code = 1
        try:
            import polars as pl

            runs, correct = (pl.read_parquet(exported / f"{name}.parquet") for name in ("runs", "correct"))
            items = dict(correct.iter_rows())
            rows = {
                row["run"]: {**{name: row[name] for name in (*EXACT, *ROUNDED)}, "correct": items.get(row["run"])}
                for row in runs.iter_rows(named=True)
            }
            to.write_text(json.dumps(rows))
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(to.read_text())
    return found


# ---- the campaign -----------------------------------------------------------------------------------------------


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@contextmanager
def _mounted(case: Case, options: str) -> Iterator[None]:
    case.runs.mkdir()
    _mount("-t", "tmpfs", "-o", options, "none", str(case.runs))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(case.runs)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount."""
    try:
        _mount("-t", "tmpfs", "-o", "size=4k", "none", str(folder))
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def prepare(home: Path) -> dict[str, Any]:
    """Make hosts, data and a module in ``home``; the undisturbed study and the module's numbers."""
    from pico_folders import save_hosts, save_reviews

    home.mkdir()
    save_hosts(home, ("bert", "bert-updated"))
    with save_reviews(home / "reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            json.dumps(row) for row in csv.DictReader(file)
        ]  # as JSON lines: polars, which reads CSV, starts threads that no fork survives
    (home / "reviews.csv").unlink()
    (home / "reviews.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (home / "tiny.toml").write_text(STUDY, encoding="utf-8")
    case = Case(home.parent, random.Random(0), {})
    train = ("train", "bert", "reviews.jsonl", "-t", "lora", "--steps", 2, "--max-tokens", 32, "--out", "module")
    _expect(case.call(*train), 0)
    evaluated = case.call("evaluate", "bert", "reviews.jsonl", "--module", "module", "--max-tokens", 32, "--json")
    began = time.monotonic()
    _expect(case.run(), 0)
    seconds = time.monotonic() - began
    _expect(case.study("export", "--out", case.folder / "exported"), 0)
    tables = _tables(case.folder / "tables.json", case.folder / "exported")
    return {"seconds": seconds, "tables": tables, "evaluated": json.loads(evaluated.out)}


def strike(index: int, seed: int, kinds: list[str], start: Path, oracle: dict[str, Any], keep: bool) -> dict[str, Any]:
    """One fault, and how it ended."""
    rng = random.Random(f"{seed}-{index}")
    kind = rng.choice(kinds)
    folder = Path(tempfile.mkdtemp(prefix=f"fault-{index}-", dir=start))
    shutil.copytree(start / "home", folder / "home", symlinks=True)
    case, began, how = Case(folder, rng, oracle), time.monotonic(), ""
    found: dict[str, Any] = {"index": index, "kind": kind}
    try:
        how = KINDS[kind](case)
        if KINDS[kind] not in OWN_END and not any(said in OUTCOMES for said in case.said):
            goes_on(case)
        found["outcome"] = next(
            (s for s in reversed(case.said) if s in OUTCOMES), "refused" if how[-1] != "0" else "same"
        )
    except Broken as broken:
        found |= {"outcome": str(broken).partition(":")[0], "failure": str(broken)[:2000]}
    finally:
        found |= {"how": how, "seconds": round(time.monotonic() - began, 1)}
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return found


OUTCOMES = ("same", "as begun anew", "refused, then same", "refused")  # all others are failures


def main(arguments: list[str] | None = None) -> int:
    """Strike, count, write; the exit code says whether a fault ended as none may."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--faults", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=RESULTS / "faults.json")
    options.add_argument("--at", type=int, help="do this one again, and keep its folder")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked = options.parse_args(arguments)
    _warm()
    start = Path(tempfile.mkdtemp(prefix="peftport-faults-"))
    oracle = prepare(start / "home")
    kinds = [k for k in asked.kinds if k not in ("full disk", "read-only disk") or can_mount(start / "temporary")]
    if asked.at is not None:
        print(json.dumps(strike(asked.at, asked.seed, kinds, start, oracle, keep=True), indent=2), start)
        return 0
    found = _before(asked.out, asked.seed, kinds)
    for index in range(len(found), asked.faults):
        found.append(strike(index, asked.seed, kinds, start, oracle, keep=False))
        _write(asked.out, asked.seed, kinds, found)
        if "failure" in found[-1]:
            print(f"{index} {found[-1]['kind']}: {found[-1]['failure'][:300]}", flush=True)
    shutil.rmtree(start, ignore_errors=True)
    for kind, counts in table(found).items():
        print(f"{kind}: {', '.join(f'{n} {outcome}' for outcome, n in counts.items())}")
    return int(any("failure" in each for each in found))


def _warm() -> None:
    """Import what commands need, once for all children. Nothing that starts threads may be used here."""
    for name in ("execute", "work", "export", "about", "verify"):
        importlib.import_module(f"peftport.study.{name}")
    for name in ("cli", "training.evaluation", "api", "training.bound_task", "report.studied", "porting", "tasks.load"):
        importlib.import_module(f"peftport.{name}")
    importlib.import_module("transformers.models.bert.modeling_bert")
    import torch

    torch.set_num_threads(1)


def table(found: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts of outcomes by kind of fault."""
    kinds = sorted({each["kind"] for each in found})
    return {kind: dict(sorted(Counter(e["outcome"] for e in found if e["kind"] == kind).items())) for kind in kinds}


def _before(out: Path, seed: int, kinds: list[str]) -> list[dict[str, Any]]:
    """The faults of an earlier call with the same seed and kinds, to go on from."""
    if not out.exists():
        return []
    said = json.loads(out.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = said["faults"] if (said["seed"], said["kinds"]) == (seed, kinds) else []
    return found


def _write(out: Path, seed: int, kinds: list[str], found: list[dict[str, Any]]) -> None:
    left_out = [kind for kind in KINDS if kind not in kinds]
    failures = sum("failure" in each for each in found)
    written = {"seed": seed, "kinds": kinds, "left_out": left_out, "count": len(found), "failures": failures}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**written, "table": table(found), "faults": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
