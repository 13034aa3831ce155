"""What the benchmarks conclude from what they measured, and what they give to all sides."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASUREMENTS = BENCHMARKS.parent / "docs" / "measurements.md"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    for name in (
        "agreement",
        "contestants",
        "work",
        "slice",
        "machine",
        "run",
        "same_host",
        "faults",
        "sweep",
        "floors",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_accuracies_agree_within_what_seeds_explain() -> None:
    from agreement import agrees, tolerance

    steady, wild = [0.70, 0.70, 0.70, 0.70, 0.70], [0.50, 0.60, 0.70, 0.80, 0.90]
    assert tolerance(steady, steady) == 0.02
    assert tolerance(steady, wild) == pytest.approx(3 * (0.025 / 5) ** 0.5)
    assert agrees(steady, [0.715] * 5) and not agrees(steady, [0.73] * 5)
    assert agrees(wild, [0.80] * 5)
    assert agrees([0.7], [0.71]) and not agrees([0.7], [0.73])  # one pair: the floor is all there is


def test_speed_up_is_the_median_of_pairs_not_of_sides() -> None:
    """A machine that slows down half way slows both of a pair."""
    from agreement import speed_up

    assert speed_up([1, 1, 10], [3, 3, 20]) == 3
    assert speed_up([2.0], [1.0]) == 0.5
    with pytest.raises(ValueError):
        speed_up([1.0, 2.0], [1.0])


def test_nobody_is_asked_for_what_he_lacks() -> None:
    from contestants import CONTESTANTS

    ours, trainer, lean, adapters = (side for side in CONTESTANTS if side.numbers == "float32")
    for kind in ("encoder", "encoder_decoder"):
        assert all(ours.can(technique, kind) is None for technique in ("lora", "adapter", "compacter", "prefix"))
        for peft in (trainer, lean):
            assert peft.can("lora", kind) is None
            assert peft.can("adapter", kind) == "peft has no adapter"
    assert trainer.can("prefix", "encoder") is None
    assert "decoder" in (trainer.can("prefix", "encoder_decoder") or "")
    assert (adapters.can("adapter", "encoder") is None) == adapters.python.exists()
    assert len(CONTESTANTS) == len({side.name for side in CONTESTANTS}) == 8  # each in float32 and in bfloat16


def test_peers_are_held_against_the_faster_of_our_formats() -> None:
    from run import our_best
    from work import Done

    one, other, third = ([Done(0, 9.0, seconds, 1.0, 1, {0: 0.5})] for seconds in (3.0, 2.0, 1.0))
    assert our_best({"ours": one, "trainer": third, "ours_bfloat16": other}) is other


def test_operations_fall_into_the_groups_of_the_profile() -> None:
    from step_profile import group_of

    kernels = {
        "aten::addmm": "products",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "aten::gelu_backward": "activations",
        "aten::native_layer_norm": "norms",
        "aten::add_": "additions",
        "aten::copy_": "copies",
        "aten::view": "rest",
        "AddmmBackward0": "rest",
    }
    assert {name: group_of(name) for name in kernels} == kernels


def test_the_slice_is_48_runs_of_a_valid_study(tmp_path: Path) -> None:
    from slice import study_file

    from peftport.study.grid import read_study, run_count

    file = tmp_path / "slice.toml"
    file.write_text(study_file(["lora", "adapter", "compacter", "prefix"], [0, 5, 15], 1, 40, 200), encoding="utf-8")
    study = read_study(file)
    assert run_count(study) == 48
    assert (study.training.origin_steps, study.testing.items, study.training.max_tokens) == (40, 200, 64)
    file.write_text(study_file(["lora"], [0, 5, 15], 10, 40, 200), encoding="utf-8")
    assert run_count(read_study(file)) == 120


def test_tables_of_methods_say_what_the_report_says() -> None:
    """Of a committed study: gains as the report has them; a method that does as `copy` differs from it by 0."""
    import polars as pl
    from porting_methods import differences, markdown

    from peftport.analysis.measures import Evidence, gains
    from peftport.core.hashing import rng_for
    from peftport.study.export import read_export

    export = read_export(BENCHMARKS.parent / "results" / "drift")
    ported = pl.col("arm") == "ported"
    twin = export.runs.filter(ported).with_columns(method=pl.lit("regress"), run=pl.col("run") + "-twin")
    again = export.correct.with_columns(run=pl.col("run") + "-twin")
    evidence = Evidence.of(pl.concat([export.runs, twin]), pl.concat([export.correct, again]))
    table = differences(evidence, "copy")
    said = gains(evidence, rng=rng_for(0, "gains")).filter(pl.col("versus") == "sampled", pl.col("method") == "copy")
    keys = ["technique", "receiver", "budget"]
    both = table.filter(versus="sampled", method="copy").join(said, on=keys, validate="1:1")
    assert len(both) == len(said) == 32
    assert both["gain"].to_list() == pytest.approx(both["gain_right"].to_list())
    assert both["low"].to_list() == pytest.approx(both["low_right"].to_list())
    over_copy = table.filter(versus="copy")
    assert over_copy["method"].unique().to_list() == ["regress"]
    assert over_copy["gain"].abs().max() == 0 and not over_copy["settled"].any()
    lines = list(markdown(table, "copy"))
    assert sum(line.startswith("\n###") for line in lines) == 8  # 4 receivers, 2 budgets
    assert any("+0.000 [+0.000, +0.000] |" in line for line in lines)


@pytest.mark.parametrize("folder", sorted(BENCHMARKS.parent.glob("results/porting-*")), ids=lambda folder: folder.name)
def test_what_is_written_of_methods_is_what_was_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables of results/porting-*/README.md are those that the command given there prints."""
    from porting_methods import main

    main([str(folder)])
    assert capsys.readouterr().out.strip() in (folder / "README.md").read_text(encoding="utf-8")


def test_kept_is_the_gain_over_the_lift() -> None:
    """Five seeds of 100 items: method .7, bare .5, ceiling .9, then others; without a lift there is no share."""
    import numpy as np
    from unlabelled import measured

    from peftport.analysis.stats.crossed import crossed_from_items

    def scored(share: float) -> np.ndarray:
        return np.tile(np.arange(100) < round(100 * share), (5, 1)).astype(np.uint8)

    found = measured(crossed_from_items(np.stack([scored(v) for v in (0.7, 0.5, 0.9, 0.65, 0.55, 0.6)])[None]))
    assert (found["accuracy"], found["bare"], found["ceiling"]) == pytest.approx((0.7, 0.5, 0.9))
    assert found["over_bare"][0] == pytest.approx(0.2) and found["over_scratch"][0] == pytest.approx(0.1)
    assert found["over_resize"][0] == pytest.approx(0.05) and found["over_fresh"][0] == pytest.approx(0.15)
    assert found["kept"][0] == pytest.approx(0.5) and found["kept"][1] < 0.5 < found["kept"][2]
    assert measured(crossed_from_items(np.stack([scored(0.5)] * 6)[None]))["kept"] is None


def test_what_is_written_of_texts_without_labels_is_what_was_measured() -> None:
    """docs/results.md has the table that `benchmarks/unlabelled.py --table` prints."""
    from unlabelled import markdown, read

    page = (BENCHMARKS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(markdown(read())) in page


def test_what_is_written_of_modules_that_travel_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/results.md has the table that `benchmarks/travelling.py --table` prints."""
    monkeypatch.delenv("DECLARED", raising=False)
    from travelling import OUT, markdown

    rows = json.loads(OUT.read_text(encoding="utf-8"))["rows"]
    page = (BENCHMARKS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(markdown(rows)) in page


def test_what_is_written_of_the_lost_change_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/results.md has the table that `benchmarks/lost_change.py --table` prints."""
    monkeypatch.delenv("DECLARED", raising=False)
    from lost_change import OUT, markdown

    rows = json.loads(OUT.read_text(encoding="utf-8"))["rows"]
    page = (BENCHMARKS.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(markdown(rows)).strip() in page


def test_texts_without_labels_are_new_to_the_module() -> None:
    from unlabelled import TEXTS, others, unseen

    from peftport.tasks import load_task

    task = load_task("rotten_tomatoes")
    assert len(unseen(task)) == max(TEXTS)
    assert not set(unseen(task).texts) & set(others(task).train.texts)
    assert len(others(task).train) + max(TEXTS) == len(task.train)


def test_the_peers_table_is_its_file_s() -> None:
    from run import OUT, markdown

    found = json.loads(OUT.read_text(encoding="utf-8"))
    assert "\n".join(markdown(found)) in MEASUREMENTS.read_text(encoding="utf-8")


def test_the_least_of_the_slice_is_its_steps_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second a step and a hundredth a text, all of it needed: 35 steps and 90 texts a host."""
    import slice

    work = {"host": "all-MiniLM-L6-v2", "technique": "lora"}
    alone = {"train_seconds": 2.0, "test_seconds": 3.0}
    settings = {"points": [0, 5, 20], "items": 100}
    peers = {"settings": settings, "comparisons": [work | {"contestants": [alone, {}]}]}
    monkeypatch.setattr(slice, "RESULTS", tmp_path)
    (tmp_path / "peers.json").write_text(json.dumps(peers), encoding="utf-8")
    (tmp_path / "step_profile.json").write_text(json.dumps({"rows": [work | {"needed": 1.0}]}), encoding="utf-8")
    asked = {"origin_steps": 5, "budgets": [0, 5, 10], "items": 10}  # scratch to 10, ported and sampled to 10 each
    assert slice.least_seconds(asked, ["lora"]) == pytest.approx(2 * (30 * 0.1 + 90 * 0.01))
    assert slice.least_seconds(asked | {"origin_steps": 15}, ["lora"]) == pytest.approx(2 * (35 * 0.1 + 90 * 0.01))


def test_what_is_written_of_the_slice_is_its_file_s(capsys: pytest.CaptureFixture[str]) -> None:
    from slice import OUT, say_least

    page = MEASUREMENTS.read_text(encoding="utf-8")
    found = json.loads(OUT.read_text(encoding="utf-8"))
    for peer in found["peers"]:
        pairs = [pair["theirs"]["seconds"] / pair["ours"]["seconds"] for pair in peer["pairs"]]
        speed = f"{peer['speed_up']:.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        assert f"| {peer['title']} | {peer['their_seconds']:.1f} | {peer['our_seconds']:.1f} | {speed} |" in page
    say_least(found)
    assert capsys.readouterr().out.strip() in page


def results(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((BENCHMARKS / "results" / name).read_text(encoding="utf-8"))["rows"]
    return rows


def span(values: Iterable[float]) -> str:
    low, *_, high = sorted(f"{value:.2f}" for value in values)
    return f"{low} to {high}".replace("0.", ".")


def test_what_is_written_of_peak_stacks_and_compiling_is_their_files() -> None:
    page = " ".join(MEASUREMENTS.read_text(encoding="utf-8").split())
    peak = results("peak.json")
    for host in ("all-MiniLM-L6-v2", "flan-t5-small"):
        cells = [
            span(row[kind]["share_of_peak"] for row in peak if (row["host"], row["entries"]) == (host, entries))
            for kind in ("training_2_steps", "testing")
            for entries in (1, 4)
        ]
        assert f"| {host} | {' | '.join(cells)} |" in page
    stack = results("stack.json")
    among = span(row["seconds_per_entry_step"]["16"] / row["seconds_per_entry_step"]["1"] for row in stack)
    ways = [row["two_cores"] for row in stack]
    assert f"entry among 16 takes {among} of the time" in page
    two = span(way["two_processes_one_thread"] / way["one_process_two_threads"] for way in ways)
    assert f"two processes of one thread take {two} of the time" in page
    assert f"five shapes: {span(row['speed_up'] for row in results('compiled.json')).replace(' .', ' ')} times" in page
    few, many = results("per_run.json")
    assert f"{few['seconds_per_run']:.2f} seconds a run with 48 runs, {many['seconds_per_run']:.2f} with 480" in page


def test_what_is_written_of_the_needed_kernels_is_the_profile_s() -> None:
    """The speed-ups over both peers with `peft`, and what they would be were all but the needed kernels free."""
    page = " ".join(MEASUREMENTS.read_text(encoding="utf-8").split())
    profile = {(row["host"], row["technique"]): row["needed"] for row in results("step_profile.json")}
    peers = json.loads((BENCHMARKS / "results" / "peers.json").read_text(encoding="utf-8"))["comparisons"]
    speeds = {
        (row["name"], c["host"], c["technique"]): row["speed_up"]
        for c in peers
        for row in c["contestants"]
        if row["name"] in ("trainer", "lean") and "speed_up" in row
    }
    ordered = sorted(speeds.items(), key=lambda item: item[0][0], reverse=True)  # `trainer`, then `lean`
    a, b, c, d, e, f = (f"{speed:.2f}" for _, speed in ordered)
    assert f"They are not reached: {a}, {b} and {c}; {d}, {e} and {f}." in page
    a, b, c, d, e, f = (f"{speed / profile[host, technique]:.2f}" for (_, host, technique), speed in ordered)
    assert f"{a} (LoRA on MiniLM), {b} (prefix) and {c} (LoRA on Flan-T5-small)" in page
    assert f"the lean loop {d}, {e} and {f}" in page
    mini, flan = (
        span(v for (of, _), v in profile.items() if of == host) for host in ("all-MiniLM-L6-v2", "flan-t5-small")
    )
    assert f"{mini} of a training step's time on MiniLM, {flan} on Flan-T5-small" in page


def test_what_is_written_of_packed_matrices_is_their_file_s() -> None:
    page = " ".join(MEASUREMENTS.read_text(encoding="utf-8").split())
    first, *others = results("packed.json")
    forward = [f"{row['speed_up']['forward']:.2f} with {row['rows']}" for row in others]
    assert (
        f"forward {first['speed_up']['forward']:.2f} times as fast with {first['rows']} rows, {', '.join(forward)};"
        in page
    )
    backward = [f"{row['speed_up']['backward']:.2f}" for row in (first, *others)]
    assert f"backward {', '.join(backward)}." in page


def test_what_is_written_of_commands_is_their_file_s() -> None:
    from commands import OUT, table

    found = json.loads(OUT.read_text(encoding="utf-8"))
    assert table(found) in MEASUREMENTS.read_text(encoding="utf-8")


def test_what_is_written_of_goals_out_of_reach_is_what_the_files_say() -> None:
    from floors import Figure, table

    assert table() in MEASUREMENTS.read_text(encoding="utf-8")
    assert Figure("", goal=2.0, against=10.0, ours=6.0, floor=5.1).line().endswith("| out of reach |")
    assert Figure("", goal=2.0, against=10.0, ours=6.0, floor=4.9).line().endswith("| not excluded |")


def test_what_is_written_of_fewer_bits_is_its_file_s() -> None:
    from bits import OUT, table

    found = json.loads(OUT.read_text(encoding="utf-8"))
    assert table(found["rows"]) in MEASUREMENTS.read_text(encoding="utf-8")


def test_the_largest_error_of_a_method_and_technique_is_kept_with_its_shape() -> None:
    from same_host import add, table

    from porting.same_host import Case, Shape

    found: dict[str, Any] = {"chunks": 0, "triples": 0, "seconds": 0.0, "cells": {}}
    fine, bad = (Case(Shape(kind, "{}"), "lora", "{}", "theseus") for kind in ("bert", "gpt2"))
    add(found, [(fine, 1e-7, ""), (bad, 2e-4, ""), (fine, 0.0, "refused")])
    assert found["triples"] == 3 and found["chunks"] == 1
    cell = found["cells"]["theseus lora"]
    assert cell == {"triples": 3, "refused": 1, "over": 1, "largest": 2e-4, "where": "gpt2 {} {}"}
    assert table(found).splitlines()[2] == "| `theseus` | 2e-04 of 2 |  |  |  |"
    assert table(found).endswith("3 distinct triples, 1 refused, 1 over 1e-04, 0 s")


def test_faults_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is one line that names the damage; a table with another number, or a run less, is a wrong number."""
    import random

    import faults
    from faults import Broken, Case, Ended, _refused, compare, table

    _refused(Ended(2, "", "peftport: x/ledger.sqlite: altered\n", 0), (1, 2), "ledger")
    for code, err, how in (
        (0, "peftport: ledger\n", "code 0"),
        (2, "peftport: ledger\nand more\n", "one line"),
        (2, "peftport: something went wrong\n", "unnamed"),
    ):
        with pytest.raises(Broken, match=how):
            _refused(Ended(code, "", err, 0), (1, 2), "ledger")
    row = {"run": "a", "state": "done", "accuracy": 0.5, "accuracy_at_median": 0.5, "n_items": 2, "auroc": 0.5}
    row |= {"loss": 0.7, "host_distance": None, "correct": [True, False]}

    def judged(**changes: Any) -> None:
        own = row | changes
        monkeypatch.setattr(faults, "_tables", lambda *_: {own["run"]: own})
        compare(Case(tmp_path, random.Random(0), {"tables": {"a": row}}), tmp_path)

    judged()
    judged(loss=0.70001)
    for wrong in ({"loss": 0.71}, {"accuracy": 1.0}, {"correct": [False, True]}, {"host_distance": 0.1}, {"run": "b"}):
        with pytest.raises(Broken, match="wrong number"):
            judged(**wrong)
    found = [
        {"kind": "kill", "outcome": "same"},
        {"kind": "kill", "outcome": "hang"},
        {"kind": "kill", "outcome": "same"},
    ]
    assert table(found) == {"kill": {"hang": 1, "same": 2}}


def test_faults_go_on_where_they_stopped(tmp_path: Path) -> None:
    """A campaign of two, of which one is on record: that is not struck again, and the record that it leaves goes on."""
    import subprocess

    import faults

    out, kinds = tmp_path / "faults.json", ["artifact", "kill"]
    before = {"index": 0, "kind": "artifact", "outcome": "refused", "how": "", "seconds": 1234.5}
    faults._write(out, 0, kinds, [before])
    command = [sys.executable, str(BENCHMARKS / "faults.py"), "--out", str(out), "--kinds", *kinds, "--faults", "2"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent / "src"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    said = json.loads(out.read_text(encoding="utf-8"))
    assert (said["count"], said["failures"], said["left_out"].count("signals")) == (2, 0, 1)
    assert said["faults"][0] == before and said["faults"][1]["kind"] in kinds
    assert faults._before(out, 0, kinds) == said["faults"]
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_")}  # torch's own
    assert left == {"faults.json"}


def test_a_sweep_tries_every_rate_on_validation_items_and_chooses_the_best() -> None:
    """Trained from scratch, for as many steps as the study's origins; a rate that failed somewhere is not chosen."""
    from sweep import changes, chosen, named

    from peftport.study.grid import read_study
    from peftport.study.jobs import TrainJob
    from peftport.study.plan import Plan

    file = BENCHMARKS.parent / "studies" / "paper-updated.toml"
    study, rates, seeds = read_study(file), (1e-3, 1e-2), (100, 101)
    plan = Plan(read_study(file, changes(study, "flan-t5-small", rates, seeds)))
    trained = [job for job in plan.jobs.values() if isinstance(job, TrainJob)]
    tried = {(job.technique.name, job.task, job.seed) for job in trained}
    assert len(trained) == len(tried) == len(study.techniques) * len(rates) * 2 * len(seeds)
    assert {(job.host, job.split, job.budgets, job.items.part) for job in trained} == {
        ("flan-t5-small", "validation", (20, 120), "all")
    }
    assert all(
        plan.study.learning_rate(named(t.name, rate), "flan-t5-small") == rate
        for t in study.techniques
        for rate in rates
    )
    rows = [
        {"technique": "lora", "learning_rate": rate, "failed": failed, "auroc": {"20": 0.9, "120": value}}
        for rate, failed, value in ((1e-2, 0, 0.8), (1e-3, 0, 0.8), (1e-4, 0, 0.7), (1e-1, 1, 0.95))
    ]
    assert chosen(rows, "auroc", 120) == {"lora": 1e-3}
