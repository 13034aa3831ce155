"""How long planning takes and how much memory it needs, by the number of runs: seconds, CPU seconds, peak memory.

    python benchmarks/study_plan.py [RUNS ...]      writes benchmarks/results/study_plan.json

The study is the paper's grid with more seeds. Every size is planned in a process of its own: jobs, stacks, sharing,
and the id of every run's job.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import machine_facts

from peftport.study.grid import StudySpec, read_study, run_count
from peftport.study.plan import Plan

SIZES = (1_000, 10_000, 100_000, 1_000_000)
STUDY = Path(__file__).parents[1] / "studies" / "paper.toml"
OUT = Path(__file__).parent / "results" / "study_plan.json"


def study_of(count: int) -> StudySpec:
    """The paper's study with as many seeds as make about so many runs."""
    one = run_count(read_study(STUDY, {"seeds": "[0]"}))
    return read_study(STUDY, {"seeds": str(list(range(max(1, round(count / one)))))})


def measure(count: int) -> dict[str, object]:
    """Plan once, here."""
    study = study_of(count)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    plan = Plan(study)
    stacks, shared = len(plan.stacks), plan.sharing
    planned = time.perf_counter() - begun
    answered = sum(plan.job_of(run) in plan.jobs for run in plan.runs())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "runs": shared.runs,
        "baseline_runs": shared.baseline_runs,
        "jobs": shared.jobs,
        "stacks": stacks,
        "answered": answered,
        "seconds": round(planned, 2),
        "seconds_with_answers": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_mib": round(after.ru_maxrss / 1024),
        "mib_before": round(before.ru_maxrss / 1024),
    }


def main(sizes: list[int]) -> None:
    """Measure each size in a fresh process and write them all."""
    rows = []
    for size in sizes:
        command = [sys.executable, __file__, "--one", str(size)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], flush=True)
    OUT.write_text(json.dumps({"machine": machine_facts(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
