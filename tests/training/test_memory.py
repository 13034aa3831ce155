"""How many entries train at once: counted from what autograd keeps, and the same modules whatever comes out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftport.hosts.host import Host
from peftport.modules.module import Module
from peftport.objectives import bind_objective
from peftport.tasks.split import Items, make_task
from peftport.techniques import TECHNIQUES, technique_named
from peftport.training import memory
from peftport.training.bound_task import BoundTask, Start
from peftport.training.loop import Entry, TrainSettings
from peftport.training.memory import EntryMemory, entry_memory, free_bytes, largest_stack
from pico import SPECS, TOY, WORDS, pico_host

SETTINGS = TrainSettings(batch_size=4)


def an_entry(host: Host, technique: str, lengths: list[int], seed: int = 0) -> Entry:
    spec = SPECS[technique]
    made = technique_named(spec.kind)
    start = made.start(spec, made.slots(spec, host.slots), seed)
    return Entry(start, [(7,) * n for n in lengths], np.zeros(len(lengths), np.int64), seed, 1e-2)


def memory_of(host: Host, technique: str, lengths: list[int]) -> EntryMemory:
    readout = bind_objective("prototype", host, TOY)
    return entry_memory(host, readout, SPECS[technique], an_entry(host, technique, lengths), SETTINGS)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_an_entry_is_measured_at_its_longest_batch(technique: str) -> None:
    host = pico_host("bert", view="body")
    short, long = memory_of(host, technique, [4] * 12), memory_of(host, technique, [4] * 8 + [40] * 4)
    assert long.activation_bytes > 5 * short.activation_bytes
    assert long == memory_of(host, technique, [40] * 4 + [4] * 8) == memory_of(host, technique, [40] * 4)
    numbers = sum(t.numel() for own in an_entry(host, technique, [4]).start.values() for t in own.values())
    assert long.parameter_bytes == 4 * numbers
    assert long.total_bytes == long.activation_bytes + 16 * numbers


def test_a_narrower_dtype_halves_it_and_weights_of_the_host_are_not_counted() -> None:
    wide, narrow = (
        memory_of(pico_host("bert", view="body", dtype=d), "lora", [9] * 4) for d in (torch.float64, torch.float32)
    )
    assert wide.parameter_bytes == 2 * narrow.parameter_bytes
    assert 1.5 < wide.activation_bytes / narrow.activation_bytes <= 2.1  # masks and ids are of one size
    one, two = (memory_of(pico_host("bert", view="body", intermediate_size=n), "lora", [2]) for n in (32, 4096))
    weights = 2 * 2 * (4096 - 32) * 16 * 4  # two matrices a layer
    assert two.activation_bytes - one.activation_bytes < weights / 2


def test_the_largest_stack_fits_and_one_more_does_not() -> None:
    need = EntryMemory(activation_bytes=90, parameter_bytes=15)
    assert need.total_bytes == 150
    assert [largest_stack(need, budget) for budget in (0, 149, 150, 299, 300, 1500)] == [1, 1, 1, 1, 2, 10]


def test_free_memory_is_what_machine_and_container_both_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    50 kB\n")
    assert memory._of_machine(meminfo) == 50 * 1024
    assert memory._of_machine(tmp_path / "none") is None
    assert memory._of_container(tmp_path) is None
    for name, text in (
        ("memory.max", "1000\n"),
        ("memory.current", "700\n"),
        ("memory.stat", "anon 5\ninactive_file 200\n"),
    ):
        (tmp_path / name).write_text(text)
    assert memory._of_container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    for machine, container, expected in ((7, 3, 3), (7, None, 7), (None, None, memory.UNKNOWN_FREE_BYTES)):
        monkeypatch.setattr(memory, "_of_machine", lambda found=machine: found)
        monkeypatch.setattr(memory, "_of_container", lambda found=container: found)
        assert free_bytes(torch.device("cpu")) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_free_memory_of_this_machine_is_plausible() -> None:
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


def a_bound_task(technique: str) -> tuple[BoundTask, list[Start]]:
    host = pico_host("bert", view="body", dtype=torch.float64)
    rng = np.random.default_rng(0)
    made = tuple(" ".join(rng.choice(WORDS, 12)) for _ in range(80))
    task = make_task(TOY, Items(made, rng.integers(0, 2, 80)))
    bound_task = BoundTask(host, task, bind_objective("prototype", host, TOY), SETTINGS)
    return bound_task, [Start(bound_task.fresh(SPECS[technique], seed), seed) for seed in range(5)]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_what_does_not_fit_trains_in_further_stacks(technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same modules, in the order of the starts."""
    from peftport.training import bound_task as task_module

    bound_task, starts = a_bound_task(technique)
    spec, sizes, train = SPECS[technique], list[int](), task_module.train_entries
    coded = bound_task.train_split
    need = entry_memory(
        bound_task.host,
        bound_task.readout,
        spec,
        Entry(starts[0].parameters, coded.rows, coded.targets, 0, 1e-2),
        SETTINGS,
    )

    def counted(host: Any, readout: Any, own: Any, entries: Any, *rest: Any) -> Any:
        sizes.append(len(entries))
        return train(host, readout, own, entries, *rest)

    monkeypatch.setattr(task_module, "train_entries", counted)
    whole = bound_task.train(spec, starts, (0, 3), 1e-2)
    parts = bound_task.train(spec, starts, (0, 3), 1e-2, budget_bytes=2 * need.total_bytes)
    alone = bound_task.train(spec, starts, (0, 3), 1e-2, budget_bytes=0)
    assert sizes == [5, 2, 2, 1, 1, 1, 1, 1, 1]
    for other in (parts, alone):
        for one, two in zip(whole, other, strict=True):
            for slot, own in one[3].matrices.items():
                for name, tensor in own.items():
                    torch.testing.assert_close(tensor, two[3].matrices[slot][name], rtol=1.2e-7, atol=1e-10)


def test_comparisons_train_within_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftport.workflows.comparison import ComparisonPlan, run_comparison

    bound_task, starts = a_bound_task("lora")
    asked: list[int | None] = []
    train = BoundTask.train

    def noted(self: BoundTask, *given: Any, **named: Any) -> Any:
        asked.append(named.get("budget_bytes"))
        return train(self, *given, **named)

    monkeypatch.setattr(BoundTask, "train", noted)
    monkeypatch.setattr(BoundTask, "spare_bytes", lambda self: 12345)
    module = Module(SPECS["lora"], bound_task.host.fingerprint, starts[0].parameters)
    found = run_comparison(module, bound_task, ComparisonPlan(budgets=(0, 1), seeds=(0, 1)))
    assert asked == [12345] and len(found.rows) == 3 * 2 * 2
