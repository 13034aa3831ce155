"""The Python interface says what the command line says, in the same words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main

import peftport as pp
from peftport.cli import app
from peftport.core.errors import BadRequest
from peftport.core.progress import Silent
from peftport.metrics import METRICS
from peftport.tasks.kinds.classification import as_scores
from peftport.techniques import TECHNIQUES
from peftport.workflows.demo import DemoSettings

Run = Callable[..., Any]
Folders = dict[str, Path]
SHORT = {"steps": 2, "batch_size": 4, "set": {"rank": 2}}
# What the command line has for describing a task's file is load_task in Python; documents and bars are the terminal's.
OF_TASKS = {
    "text", "label", "kind", "separator", "group", "labels", "words", "description", "prompt", "template",
}  # fmt: skip
ONLY_PYTHON = {"progress"}


@pytest.mark.parametrize("name", ["train", "evaluate", "port", "compare"])
def test_options_are_keywords(name: str) -> None:
    options = set()
    for parameter in typer.main.get_command(app).commands[name].params:  # type: ignore[attr-defined]
        longest = max(parameter.opts, key=len)
        word = longest.removeprefix("--").replace("-", "_").lower()
        options.add(f"{word}_" if word in ("from", "as") else word)
    keywords = set(inspect.signature(getattr(pp, name)).parameters)
    assert options - {"json", "help"} - OF_TASKS == keywords - ONLY_PYTHON
    shared = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in shared.params:
        of_python = inspect.signature(getattr(pp, name)).parameters.get(parameter.name)
        if of_python is not None and of_python.default not in (inspect.Parameter.empty, None, ()):
            said, meant = parameter.default, of_python.default
            said = str(said).split(",") if isinstance(meant, tuple) else said
            assert [str(m) for m in meant] == said if isinstance(meant, tuple) else said in (meant, None)


def test_train_port_evaluate_compare(peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    home, away = hosts["bert"], hosts["bert-updated"]
    trained = pp.train(home, reviews, "lora", out=tmp_path / "lora", **SHORT)
    assert trained.to_polars()["accuracy"].to_list() == [trained.bare.accuracy, trained.accuracy]
    assert pp.evaluate(home, reviews, module=tmp_path / "lora").accuracy == trained.accuracy

    ported = pp.port(tmp_path / "lora", away, out=tmp_path / "ported")
    assert set(ported.to_polars()["did"]) == {"copied"} and ported.format == "native"

    found = pp.compare(tmp_path / "lora", away, reviews, budgets=(0, 2), seeds=2, batch_size=4)
    options = ["--budgets", "0,2", "--seeds", 2, "--batch-size", 4, "--json"]
    said = peftport("compare", tmp_path / "lora", "--to", away, "--task", reviews, *options).json
    keys = ["arm", "budget", "seed", "accuracy"]
    assert found.to_polars().select(keys).rows() == [tuple(row[key] for key in keys) for row in said["rows"]]
    assert found.verdict is not None and found.verdict["sentence"] == said["verdict"]["sentence"] == str(found)
    apart = found.difference("ported", "scratch", 2)
    assert apart["low"] <= apart["estimate"] <= apart["high"]
    assert "</html>" in found.report(tmp_path / "page.html").read_text(encoding="utf-8")

    for result in (trained, ported, found, pp.evaluate(home, reviews)):
        assert "\n" not in str(result) and isinstance(result.to_polars(), pl.DataFrame)
        assert result._repr_html_().startswith("<p>") and "<table" in result._repr_html_()


def test_a_task_of_ones_own(hosts: Folders, reviews: Path) -> None:
    task = pp.load_task(str(reviews), labels=("positive", "negative"))
    found = pp.evaluate(hosts["bert"], task)
    assert found.to_polars()["task"].to_list() == ["reviews"]
    assert found.scores.labels.sum() == (task.test.labels == 1).sum() > 0


def test_mistakes_are_the_command_lines(hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="unknown technique 'lorra': did you mean 'lora'"):
        pp.train(hosts["bert"], reviews, "lorra")
    with pytest.raises(BadRequest, match="seeds: expected at least 1, got 0"):
        pp.compare(tmp_path, hosts["bert"], reviews, seeds=0)
    with pytest.raises(BadRequest, match="batch_size: expected at least 1, got 0"):
        pp.train(hosts["bert"], reviews, batch_size=0)
    with pytest.raises(AttributeError, match="no attribute 'prot'"):
        _ = pp.prot  # type: ignore[attr-defined]


def test_a_demonstration_goes_by_the_metric_that_is_named(hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    settings = DemoSettings(
        origin=str(hosts["bert"]), receiver=str(hosts["bert-updated"]), task=str(reviews), origin_steps=1, budgets=(0,),
        seeds=(0,), test_items=12, max_tokens=32,
    )  # fmt: skip
    told: list[str] = []

    class Told(Silent):
        def tell(self, line: str) -> None:
            told.append(line)

    found = pp.demo(settings, metric="macro_f1", out=tmp_path, progress=Told())
    told = [line for line in told if "cores busy" not in line]
    assert told[0].startswith("A module of each technique is trained on ")
    assert told[1].startswith("First answer: lora scores ")  # before the trainings on the receiver
    assert [line.partition(": accuracy ")[0] for line in told[2:]] == list(TECHNIQUES)  # each as soon as it is found
    assert all("after 0 steps: ported " in line for line in told[2:])
    assert found.remarks()[0].startswith("dtype auto: ")
    assert "difference in macro F1" in str(found)
    assert found.tables()[0].title.startswith("Macro F1 on ")
    scores = found.demo.comparisons[0].scores["ported", 0, 0]
    at_once = f"Copied to {found.demo.comparisons[0].receiver} it scores {as_scores(scores).accuracy:.3f}, "
    assert at_once in told[1]
    ported = next(row for row in found.tables()[0].rows if row[:2] == (found.demo.comparisons[0].technique, "ported"))
    assert ported[2] == f"{METRICS['macro_f1'].aggregate(scores):.3f}"
    assert "peftport demo --metric macro_f1" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(BadRequest, match="did you mean 'macro_f1'"):
        pp.demo(settings, metric="macro_f")


STUDY = """
name = "tiny"
techniques = [{{ kind = "lora", rank = 2 }}]
pairs = [["{origin}", "{receiver}"]]
tasks = ["words"]
budgets = [0, 2]
seeds = [0]
[data.words]
source = "{reviews}"
[training]
origin_steps = 2
batch_size = 4
[testing]
items = 9
"""


def test_a_study(peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(STUDY.format(origin=hosts["bert"], receiver=hosts["bert-updated"], reviews=reviews))
    study = pp.Study.from_file(file, dir=tmp_path / "runs", set={"testing.items": 8, "seeds": (0, 1)})
    planned = study.plan().to_polars().row(0, named=True)
    said = peftport("study", "plan", file, "--set", "seeds=[0, 1]", "--json").json
    assert {key: said[key] for key in planned} == planned
    assert planned["runs"] == 8

    ran = study.run(workers=1)
    assert (ran.summary.failed, ran.summary.left) == (0, 0) and ran.summary.done == planned["jobs"]
    assert study.run(workers=1).summary.done == 0
    assert study.status().counts == {"done": planned["jobs"], "failed": 0, "blocked": 0, "left": 0}
    exported = study.export(tmp_path / "out")
    assert exported.runs["state"].unique().to_list() == ["done"]
    assert exported.runs["n_items"].unique().to_list() == [8]
    assert pl.read_parquet(tmp_path / "out" / "runs.parquet").equals(exported.to_polars())
    assert study.findings().gains.height > 0
    reported = study.report(tmp_path / "page.html")
    assert reported.files == (tmp_path / "page.html",) and "</html>" in reported.files[0].read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "study.json").read_text())["study"]["name"] == "tiny"


def test_a_study_without_runs(hosts: Folders, reviews: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(STUDY.format(origin=hosts["bert"], receiver=hosts["bert-updated"], reviews=reviews))
    with pytest.raises(BadRequest, match="no run is left"):
        pp.Study.from_file(file, only=["technique=prefix"])
    with pytest.raises(BadRequest, match="format: expected one of parquet"):
        pp.Study.from_file(file).export(format="xlsx")
