"""What `peftport upgrade` over 20 modules costs beside 20 single calls that find out the same.

    python benchmarks/upgrade.py [--items 100] [--commands]      writes benchmarks/results/upgrade.json

The modules are of four techniques (five each, random matrices at the scale of trained ones) on all-MiniLM-L6-v2; they
go to sre and are tested on rotten_tomatoes, by the readout prototype. A single call of a module is what a user would do
by hand: port it by the method that the check chooses (``--method auto``), and test it on the old host and on the new
one; the new host alone is tested once. By default all calls are in one Python process with the task read once, so that
neither starting Python nor splitting the task is counted; with ``--commands`` each is a command of its own. Times are
of the processor, of this process and its children, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine_facts

import peftport as pp
from peftport.core.hashing import rng_for
from peftport.hosts.opening import open_host
from peftport.modules.folders import write_module
from peftport.modules.module import Module, fresh_module
from peftport.tasks import Task
from peftport.techniques import TECHNIQUES, make_spec

OUT = Path(__file__).parent / "results" / "upgrade.json"
OLD, NEW, TASK, READOUT, EACH = "all-MiniLM-L6-v2", "sre", "rotten_tomatoes", "prototype", 5
SCALE = 0.02


def make_modules(folder: Path) -> list[Path]:
    """Five modules of each technique, every number from N(0, 0.02^2)."""
    old, found = open_host(OLD), []
    for technique in TECHNIQUES:
        spec = make_spec(technique)
        for number in range(EACH):
            rng, fresh = rng_for(number, "benchmark", technique), fresh_module(old, spec, 0)
            matrices = {
                slot: {name: torch.from_numpy(rng.normal(0, SCALE, t.shape)).float() for name, t in own.items()}
                for slot, own in fresh.matrices.items()
            }
            found.append(folder / f"{technique}-{number}")
            write_module(Module(spec, old.fingerprint, matrices), old, found[-1])
    return found


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of this process and its children, and what the work returns."""
    before = _used()
    value = work()
    return round(_used() - before, 2), value


def _used() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def options(items: int) -> tuple[object, ...]:
    """The options of every test."""
    return ("--test-items", items, "--readout", READOUT)


def command(*words: object) -> None:
    """Run one command of peftport."""
    done = subprocess.run([sys.executable, "-m", "peftport", *map(str, words)], capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr.decode()


def one_by_one(modules: list[Path], task: Task, out: Path, items: int, commands: bool) -> dict[str, float | None]:
    """Port and test every module by itself; return the accuracy of each on the new host, in Python only."""
    found: dict[str, float | None] = {}
    for module in modules:
        ported = out / module.name
        if commands:
            command("port", module, "--to", NEW, "--method", "auto", "--task", TASK, "--out", ported)
            command("evaluate", OLD, TASK, "--module", module, *options(items))
            command("evaluate", NEW, TASK, "--module", ported, *options(items))
            found[module.name] = None
        else:
            pp.port(module, NEW, method="auto", task=task, out=ported)
            pp.evaluate(OLD, task, module=module, test_items=items, readout=READOUT)
            found[module.name] = pp.evaluate(NEW, task, module=ported, test_items=items, readout=READOUT).accuracy
    if commands:
        command("evaluate", NEW, TASK, *options(items))
    else:
        pp.evaluate(NEW, task, test_items=items, readout=READOUT)
    return found


def main() -> None:
    """Measure both ways, compare what they find, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--commands", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="upgrade-"))
    try:
        modules = make_modules(folder / "modules")
        task = pp.load_task(TASK)
        pp.evaluate(NEW, task, test_items=4)  # imports and caches, which neither side is to pay for
        how = {"test_items": asked.items, "readout": READOUT}
        words = ("upgrade", OLD, NEW, *modules, "--task", TASK, "--out", folder / "at-once", *options(asked.items))
        if asked.commands:
            together, upgraded = processor_seconds(lambda: command(*words))
        else:
            together, upgraded = processor_seconds(
                lambda: pp.upgrade(OLD, NEW, modules, task=task, out=folder / "at-once", **how)
            )
        singly, accuracies = processor_seconds(
            lambda: one_by_one(modules, task, folder / "singly", asked.items, asked.commands)
        )
        apart = None
        if upgraded is not None:
            apart = max(abs(record.ported - accuracies[record.name]) for record in upgraded.records)
        found = {
            "machine": machine_facts(), "modules": len(modules), "items": asked.items,
            "upgrade_seconds": together, "single_seconds": singly, "ratio": round(singly / together, 2),
            "largest_difference_in_accuracy": apart,
        }  # fmt: skip
        before = json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}
        way = "commands" if asked.commands else "one process"
        OUT.write_text(json.dumps(before | {way: found}, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({key: value for key, value in found.items() if key != "machine"}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
