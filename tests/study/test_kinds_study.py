"""Studies of numbers, of sets of labels and of answers: run, resumed, exported, reported, verified; tampering is named.

And what is refused before anything runs: tasks that no one metric judges.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from scipy.stats import trim_mean

from peftport.analysis.columns import run_columns
from peftport.metrics import METRICS, metrics_of
from peftport.metrics.resampling import resampled
from peftport.store.artifacts import Artifacts
from peftport.store.ledger import FILE, Ledger
from peftport.study import answers, executors, judged
from peftport.study.export import rows_of
from peftport.study.item_table import item_columns
from peftport.study.items import StoredItems
from peftport.tasks import load_task
from pico import WORDS
from pico_folders import Result, Run, save_hosts
from pico_study import Here, contents, plan_of, run_in
from study.exported import tables_of

STUDY = """
name = "KIND"
techniques = [{ name = "lora-2", kind = "lora", rank = 2 }]
pairs = PAIRS
tasks = ["own"]
budgets = [0, 2]
seeds = [0, 1]

[data]
receiver = "shared"

[data.own]
source = "KIND.jsonl"
kind = "KIND"

[training]
origin_steps = 3
batch_size = 4
max_tokens = 32
learning_rates = { lora-2 = 1e-2 }

[testing]
items = 8
generate = 5

[execution]
stack = 4
"""
BERT, GENERATORS = '[["bert", "bert-updated"]]', '[["llama", "llama-updated"], ["t5", "t5-updated"]]'
PAIRS = {"regression": BERT, "multi_label": BERT, "completion": GENERATORS}
TITLES = {"regression": "root mean squared error", "multi_label": "micro F1", "completion": "exact match"}


def _targets(kind: str, words: list[str]) -> object:
    if kind == "regression":
        return len(words) + 10 * words.count("good") + 0.5
    if kind == "multi_label":
        return [word for word in ("good", "bad", "film") if word in words]
    return words[-1] if words[0] < "g" else [words[-1], words[0]]  # several references now and then


@pytest.fixture(scope="session")
def kinds_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small hosts, data of each kind, and a study of each."""
    folder = tmp_path_factory.mktemp("kinds")
    save_hosts(folder, ("bert", "bert-updated", "llama", "llama-updated", "t5", "t5-updated"))
    rng = np.random.default_rng(0)
    texts = [list(map(str, rng.permutation(WORDS[:14])[: rng.integers(5, 9)])) for _ in range(90)]
    for kind, pairs in PAIRS.items():
        rows = [{"text": " ".join(words), "label": _targets(kind, words)} for words in texts]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        study = STUDY.replace("KIND", kind).replace("PAIRS", pairs)
        (folder / f"{kind}.toml").write_text(study, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def done(kinds_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the study of a kind, run in one go."""

    @cache
    def folder(kind: str) -> Path:
        found = tmp_path_factory.mktemp("whole")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(kinds_home)
            run_in(found, plan_of(Path(f"{kind}.toml")))
        return found

    return folder


Command = Callable[..., Result]


@pytest.fixture
def command(kinds_home: Path, peftport: Run, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A study command where the studies are, worked on in this process."""
    monkeypatch.chdir(kinds_home)
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())

    def run(name: str, kind: str, *arguments: object) -> Result:
        return peftport("study", name, f"{kind}.toml", *arguments)

    return run


@pytest.mark.parametrize("kind", PAIRS)
def test_a_study_of_each_kind(
    kind: str, command: Command, done: Callable[[str], Path], kinds_home: Path, tmp_path: Path
) -> None:
    """From the plan to the verification; in two calls and in one it leaves the same bytes."""
    planned = command("plan", kind)
    assert planned.code == 0 and f"tasks: own ({kind})" in planned.out
    here = tmp_path / "study"
    first = command("run", kind, "--dir", here, "--max-jobs", 2, "--json")
    assert first.code == 0 and first.json["left"] > 0, first
    rest = command("run", kind, "--dir", here, "--json")
    assert (rest.json["before"], rest.json["left"]) == (first.json["done"], 0)
    assert contents(here) == contents(done(kind))

    told = command("export", kind, "--dir", here, "--out", tmp_path / "out", "--items")
    assert told.code == 0, told
    runs, items = (pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("runs", "items"))
    assert list(runs.columns) == list(run_columns(kind)) and set(runs["state"]) == {"done"}
    assert dict(items.schema) == item_columns(kind) and items.height == runs["n_items"].sum()
    assert pl.read_parquet(tmp_path / "out" / "correct.parquet").height == 0
    _agrees_with_what_is_stored(kind, kinds_home, here, runs, items)

    page = tmp_path / "page.html"
    reported = command("report", kind, "--dir", here, "--out", page, "--json")
    assert reported.code == 0, reported
    assert METRICS[reported.json["metric"]["name"]].title == TITLES[kind]
    text = page.read_text(encoding="utf-8")
    assert ("Answers side by side" in text) == (kind == "completion")
    assert TITLES[kind][1:] in text and "most frequent class" not in text
    low, high = METRICS[reported.json["metric"]["name"]].bounds
    assert json.dumps({"bounds": [low, high if high < float("inf") else None]})[1:-1] in text
    assert reported.json["verdicts"] and f"in {TITLES[kind]}" in reported.json["verdicts"][0]["sentence"]
    assert command("verify", kind, "--results", tmp_path / "out", "--sample", 2).code == 0


def _agrees_with_what_is_stored(kind: str, home: Path, folder: Path, runs: pl.DataFrame, items: pl.DataFrame) -> None:
    """All metrics of a run, and those of its items, are what metrics make of the stored predictions."""
    plan, ledger = plan_of(home / f"{kind}.toml"), Ledger(folder)
    try:
        rows, stored = rows_of(plan, ledger), StoredItems(Artifacts(folder / "artifacts"))
        for row in runs.iter_rows(named=True):
            test, own = stored.predictions(rows[row["job"]], row["budget"]), items.filter(run=row["run"])
            assert test is not None and test.kind == kind
            for name, metric in metrics_of(kind).items():
                assert row[name] == metric.aggregate(test)
                if name in own.columns and row[name] is not None:
                    assert own[name].mean() == pytest.approx(row[name], abs=1e-9)
            if kind == "completion":
                assert own["answer"].null_count() == 3 and own["answer"].to_list() == test.values["text"].tolist()
                assert own["references"].to_list() == [list(each) for each in test.targets]
    finally:
        ledger.close()


def _tampered(folder: Path, kind: str) -> None:
    """Another number, label or answer in an artifact, under its right name and with a ledger that agrees with it."""
    ledger, artifacts = Ledger(folder), Artifacts(folder / "artifacts")
    try:
        row = next(row for row in ledger.rows() if row.kind == "bare")
        path = artifacts.path(row.artifact or "")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata()
        [name] = [each for each in tensors if "/predicted/" in each and (kind != "completion" or "text" in each)]
        if kind == "completion":
            answers = json.loads(tensors[name].numpy().tobytes())
            answers[0] = "good good good"
            tensors[name] = torch.frombuffer(bytearray(json.dumps(answers).encode()), dtype=torch.uint8)
        else:
            tensors[name][0] += 5.0
        changed = replace(row, artifact=artifacts.put(save(tensors, told)))
        ledger.forget([row.id])
        ledger.record([changed])
    finally:
        ledger.close()


@pytest.mark.parametrize("kind", PAIRS)
def test_what_was_altered_is_named_and_what_was_lost_is_restored(
    kind: str, command: Command, done: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, runs = done(kind), tmp_path / "runs"
    shutil.copytree(whole, runs)
    first = next(iter(metrics_of(kind)))
    with closing(sqlite3.connect(runs / FILE)) as base:
        base.execute(f"UPDATE jobs SET metrics = replace(metrics, '\"{first}\": ', '\"{first}\": 1')")
        base.commit()
    told = command("export", kind, "--dir", runs, "--out", tmp_path / "out")
    assert (told.code, told.err.count("\n")) == (2, 1) and "study repair" in told.err, told
    assert command("repair", kind, "--dir", runs).code == 0
    (runs / FILE).unlink()
    restored = command("repair", kind, "--dir", runs)
    assert restored.code == 0 and "restored from artifacts" in restored.out
    assert command("run", kind, "--dir", runs).code == 0  # distances, which no artifact holds
    assert contents(runs) == contents(whole)

    _tampered(runs, kind)
    told = command("export", kind, "--dir", runs, "--out", tmp_path / "out")
    assert (told.code, told.err.count("\n")) == (2, 1) and "its items give" in told.err, told


@pytest.mark.parametrize("kind", PAIRS)
def test_exported_tables_are_held_to_the_runs_done_again(
    kind: str, command: Command, done: Callable[[str], Path], tmp_path: Path
) -> None:
    out, first = tmp_path / "out", next(iter(metrics_of(kind)))
    assert command("export", kind, "--dir", done(kind), "--out", out, "--items").code == 0
    count = pl.read_parquet(out / "runs.parquet").height
    changed = {"regression": "predicted", "multi_label": "scores", "completion": "answer"}[kind]
    for table, column in (("runs", first), ("items", changed)):
        before = {path: path.read_bytes() for path in (out / f"{table}.parquet", out / "study.json")}
        whole = pl.read_parquet(out / f"{table}.parquet")
        run = whole["run"][-1]
        altered = whole.with_columns(
            pl.when(run=run).then(_other(pl.col(column), whole.schema[column])).otherwise(pl.col(column)).alias(column)
        )
        altered.write_parquet(out / f"{table}.parquet")
        refused = command("verify", kind, "--results", out, "--sample", count)
        assert refused.code == 1 and f"{table}.parquet: expected what study.json tells" in refused.err
        told = json.loads((out / "study.json").read_bytes())
        told["tables"][f"{table}.parquet"] = hashlib.sha256((out / f"{table}.parquet").read_bytes()).hexdigest()
        (out / "study.json").write_text(json.dumps(told), encoding="utf-8")
        wrong = command("verify", kind, "--results", out, "--sample", count, "--json")
        assert wrong.code == 1 and run in wrong.err
        differ = {each["run"]: each["columns_that_differ"] for each in wrong.json["runs"]}
        assert {name for name, columns in differ.items() if columns} == {run}
        assert differ[run] == [column if table == "runs" else "items"]
        for path, data in before.items():
            path.write_bytes(data)


def _other(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if isinstance(kind, pl.List):
        return column.list.eval(pl.element() + 0.5)
    return pl.lit("good good") if kind == pl.String else column + 0.5


def test_tables_alone_are_reported_by_metrics_with_bounds(
    command: Command, done: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of answers the items are counted that have one; a metric without bounds needs the items."""
    for kind, code in (("completion", 0), ("multi_label", 0), ("regression", 2)):
        out = tmp_path / kind
        assert command("export", kind, "--dir", done(kind), "--out", out).code == 0
        told = command("report", kind, "--results", out)
        assert told.code == code, told
        if kind == "completion":
            assert "8 test items a run, 5 of them with a generated answer" in " ".join(told.out.split())
    assert "export the study with --items" in told.err and told.err.count("\n") == 1


@pytest.mark.parametrize(("kind", "metric"), [("regression", "rmse"), ("completion", "perplexity")])
def test_tables_with_items_are_reported_as_the_study_is(
    kind: str,
    metric: str,
    command: Command,
    done: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A metric without bounds is drawn and tabulated on its own scale; a gain is a fall of it."""
    monkeypatch.setattr(judged, "resampled", partial(resampled, draws=12))
    out, page = tmp_path / "out", tmp_path / "page.html"
    assert command("export", kind, "--dir", done(kind), "--out", out, "--items").code == 0
    known = command("report", kind, "--dir", done(kind), "--metric", metric, "--json").json
    told = command("report", kind, "--results", out, "--metric", metric, "--out", page, "--json")
    assert told.code == 0, told
    assert {**told.json, "files": []} == known
    runs = pl.read_parquet(out / "runs.parquet").filter(budget=2)
    name = "interquartile mean gain over scratch, 2 steps"
    [row] = [row for row in known["aggregates"] if (row["technique"], row["quantity"]) == (None, name)]
    keys = ["technique", "seed"]
    arms = {arm: runs.filter(arm=arm).sort(keys)[metric].to_numpy() for arm in ("ported", "scratch")}
    assert row["estimate"] == pytest.approx(trim_mean(arms["scratch"] - arms["ported"], 0.25), rel=1e-9)
    assert "a positive gain is an improvement" in page.read_text(encoding="utf-8")


def test_a_handful_of_answers_stands_side_by_side(
    done: Callable[[str], Path], kinds_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the jobs left, of the first seed: references, origins at home, bare hosts, ported and from scratch."""
    monkeypatch.chdir(kinds_home)
    monkeypatch.setattr(answers, "MOST_LETTERS", 12)
    plan, folder = plan_of(Path("completion.toml")), done("completion")
    ledger = Ledger(folder)
    try:
        rows, stored = rows_of(plan, ledger), StoredItems(Artifacts(folder / "artifacts"))
        shown = answers.study_answers(plan, rows, stored)
        monkeypatch.setattr(answers, "open_task", lambda *_: load_task(str(kinds_home / "regression.jsonl")))
        without = answers.study_answers(plan, rows, stored)
        runs = {run.name: (rows[plan.job_of(run)], run.budget) for run in plan.runs()}
    finally:
        ledger.close()
    arms = [
        f"lora-2 on {host}-updated, {how}, {steps} steps"
        for host in ("llama", "t5")
        for how in (f"ported from {host} by copy", "from scratch")
        for steps in (0, 2)
    ]
    homes = [
        f"{who}{host}{more}"
        for host in ("llama", "t5")
        for who, more in (("lora-2 at home on ", ""), ("bare ", "-updated"))
    ]
    assert {(one.item, one.who) for one in shown} == set(product(range(1, 6), ("reference", *arms, *homes)))
    test = stored.predictions(*runs["lora-2 | llama own > llama-updated own | ported | copy | 2 | seed 0"])
    assert test is not None
    said = {
        one.item: one.answer
        for one in shown
        if one.who == "lora-2 on llama-updated, ported from llama by copy, 2 steps"
    }
    whole = list(test.values["text"][:5])
    assert said == {place + 1: text if len(text) <= 12 else f"{text[:12]} … (cut)" for place, text in enumerate(whole)}
    task = load_task("completion.jsonl", kind="completion")
    assert {one.prompt for one in shown} == {f"{text[:12]} … (cut)" for text in task.test.texts[:5]}
    assert {one.prompt for one in without} == {""} and len(without) == len(shown)


def test_tasks_that_no_metric_judges_together_are_refused(command: Command, kinds_home: Path, tmp_path: Path) -> None:
    text = (kinds_home / "multi_label.toml").read_text(encoding="utf-8")
    for name, kind in (("numbers", "regression"), ("classes", None), ("answers", "completion")):
        told = f'kind = "{kind}"' if kind else "label = 'first'"
        text += f'\n[data.{name}]\nsource = "{kind or "classes"}.{"jsonl" if kind else "csv"}"\n{told}\n'
    (kinds_home / "mixed.toml").write_text(text, encoding="utf-8")
    rows = [f"{' '.join(WORDS[i % 7 : i % 7 + 6])} {i},{'ab'[i % 2]}" for i in range(40)]
    (kinds_home / "classes.csv").write_text("\n".join(["text,first", *rows]), encoding="utf-8")

    def refusal(*changes: str, command_name: str = "plan") -> str:
        options = [each for change in changes for each in ("--set", change)]
        more = ["--dir", tmp_path / "never"] if command_name == "run" else []
        told = command(command_name, "mixed", *options, *more)
        assert (told.code, told.out, told.err.count("\n")) == (2, "", 1) and not (tmp_path / "never").exists(), told
        return told.err

    both = 'tasks=["own", "numbers"]'
    for name in ("plan", "run"):
        said = refusal(both, command_name=name)
        assert "own (multi_label), numbers (regression)" in said and "make a study of each kind" in said
    assert "got rmse" in refusal(both, 'testing.metric="rmse"')
    some = refusal('tasks=["own", "classes"]')
    assert "own (multi_label), classes (classification)" in some
    assert "testing.metric as one of auroc, macro_f1" in some and "micro_f1" not in some
    planned = command("plan", "mixed", "--set", 'tasks=["own", "classes"]', "--set", 'testing.metric="macro_f1"')
    assert planned.code == 0 and "tasks: own (multi_label), classes (classification)" in planned.out
    crossed = refusal('tasks=[{ origin = "own", receiver = "answers" }]')
    assert "own (multi_label) and answers (completion)" in crossed
    assert "testing.metric: expected a metric" in refusal('testing.metric="accuracy"')
    silent = ('tasks=["answers"]', 'pairs=[["llama", "llama-updated"]]', "testing.generate=0")
    assert "testing.generate: expected at least 1" in refusal(*silent, 'testing.metric="chrf"')
    assert "kind of task" in refusal('data.own.kind="colours"')


def test_ids_depend_on_what_changes_results(kinds_home: Path) -> None:
    """Template and the number of generated answers; the latter of completions alone."""

    def jobs(kind: str, **changes: str) -> set[str]:
        return {
            job.id for job in plan_of(kinds_home / f"{kind}.toml", **changes).jobs.values() if job.kind != "distance"
        }

    for kind in PAIRS:
        usual, other = jobs(kind, testing__generate="100"), jobs(kind, testing__generate="3")
        assert (usual.isdisjoint(other) and usual.isdisjoint(jobs(kind))) if kind == "completion" else usual == other
        assert jobs(kind, testing__metric=f'"{list(metrics_of(kind))[-1]}"') == jobs(kind)
    assert jobs("completion").isdisjoint(jobs("completion", data__own__template='"none"'))


def test_the_study_in_the_documentation(
    command: Command, kinds_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands but for the hosts, which are small here, and for fewer steps."""
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    [block] = [each for each in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "questions" in each]
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").symlink_to(kinds_home / "llama")
    Path("answers.toml").write_text(block.replace('"smollm2-135m"', '"./smollm2-135m"'), encoding="utf-8")
    rows = [json.loads(line) for line in (kinds_home / "completion.jsonl").read_text(encoding="utf-8").splitlines()]
    told = "".join(json.dumps({"prompt": row["text"], "completion": row["label"]}) + "\n" for row in rows)
    Path("questions.jsonl").write_text(told, encoding="utf-8")
    planned = command("plan", "answers")
    assert planned.code == 0 and "tasks: questions (completion)" in planned.out, planned
    fewer = ("budgets=[0, 1]", "seeds=[0, 1]", "training.origin_steps=2", "testing.items=6", "testing.generate=4")
    fewer += ("hosts.smollm2-135m-news.steps=1", "hosts.smollm2-135m-news.max_tokens=16")
    changes = [each for change in fewer for each in ("--set", change)]
    ran = command("run", "answers", *changes, "--dir", "study")
    assert ran.code == 0, ran
    found = command("report", "answers", *changes, "--dir", "study", "--json")
    assert found.code == 0 and found.json["metric"]["name"] == "rouge_l", found


@pytest.mark.parametrize("kind", PAIRS)
def test_exported_tables_of_each_kind_are_taken_as_done(
    kind: str, command: Command, done: Callable[[str], Path], tmp_path: Path
) -> None:
    """With their items, from which every metric is computed again; without these there is nothing to hold them to."""
    assert command("export", kind, "--dir", done(kind), "--out", tmp_path / "tables", "--items").code == 0
    at = ("--dir", tmp_path / "runs")
    ran = command("run", kind, *at, "--results", tmp_path / "tables", "--json")
    assert (ran.code, ran.json["done"], ran.json["left"]) == (0, 0, 0), ran
    assert command("export", kind, *at, "--out", tmp_path / "again", "--items").code == 0
    assert tables_of(tmp_path / "again") == tables_of(tmp_path / "tables")
    (tmp_path / "tables" / "items.parquet").unlink()
    told = command("run", kind, "--dir", tmp_path / "other", "--results", tmp_path / "tables")
    assert (told.code, told.err.count("\n"), "--items" in told.err) == (2, 1, True)
