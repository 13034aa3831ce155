"""What README and the site show: commands and options that exist, links that lead somewhere, snippets that run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from sklearn.metrics import mean_poisson_deviance

from first_minutes import commands_of
from peftport import cli, porting
from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.hashing import rng_for
from peftport.hosts import layouts
from peftport.hosts.layouts import Layout
from peftport.metrics import METRICS
from peftport.metrics.resampling import resampled
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import stack
from peftport.objectives import OBJECTIVES
from peftport.study import executors
from peftport.tasks import load_task
from peftport.tasks.kinds import KINDS
from peftport.tasks.kinds.classification import as_scores
from peftport.techniques.attach import attached
from peftport.training.bound_task import Start, bind_task
from peftport.training.loop import TrainSettings
from peftport.workflows import compare_tables
from pico import SPECS, WORDS, inputs_of, pico_host, random_matrices
from pico_study import Here

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Run = Callable[..., Any]
Folders = dict[str, Path]
ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
# Options of programs other than ours that the pages show.
FOREIGN = {"--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task", "--time", "--overlap", "--exclude", "--array"}
FOREIGN |= {"--model", "--tasks", "--batch", "--device"}  # of lm-evaluation-harness
MISTAKES = {"--lr"}  # in docs/errors.md, whose commands are run by test_docs_errors.py
FOREIGN |= {"--src", "--head", "--port", "--num-cpus", "--block", "--address"}
STUDY = """
name = "quick"
techniques = [{ kind = "lora", rank = 2 }]
pairs = [["all-MiniLM-L6-v2", "sre"]]
tasks = ["words"]
budgets = [0, 2]
seeds = [0, 1]
training = { origin_steps = 2, batch_size = 4 }
testing = { items = 8 }
data.words.source = "rotten_tomatoes.csv"
"""


def commands() -> dict[str, Any]:
    """Every command by its words."""
    group: Any = typer.main.get_command(cli.app)
    found: dict[str, Any] = {"": group}
    for name, command in group.commands.items():
        found[name] = command
        found |= {f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()}
    return found


COMMANDS = commands()


def options_of(command: Any) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts} | {"--help", "-h"}


def options_of_benchmarks() -> set[str]:
    """What the scripts declare by `add_argument`, or look for in `sys.argv` themselves."""
    texts = (script.read_text(encoding="utf-8") for script in ROOT.glob("benchmarks/**/*.py"))
    declared = re.compile(r'(?:add_argument\(\s*|sys\.argv.*)"(--[a-z][a-z-]*)"')
    return {option for text in texts for option in declared.findall(text)}


def named(words: list[str]) -> str:
    """The longest command that the words begin with."""
    for count in (2, 1):
        if " ".join(words[:count]) in COMMANDS:
            return " ".join(words[:count])
    return ""


def shown(page: Path, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def lines_of(page: Path) -> list[list[str]]:
    """The words of every command that a page's blocks show."""
    lines = [
        line.removeprefix("$ ").strip() for text in shown(page, "", "bash", "console") for line in text.splitlines()
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("peftport ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    every = set().union(*(options_of(command) for command in COMMANDS.values()))
    if page.name == "measurements.md":  # shows the commands of benchmarks, too
        every |= options_of_benchmarks()
    assert set(OPTION.findall(text)) - FOREIGN - MISTAKES <= every
    for words in re.findall(r"`peftport ([a-z][^`]*)`", text):
        assert named(words.split()), words
    for words in lines_of(page):
        command = named(words)
        own = {word.partition("=")[0] for word in words if word.startswith("-")}
        if own & MISTAKES:
            continue
        assert own <= options_of(COMMANDS[command]), words
        if not getattr(COMMANDS[command], "commands", None):  # it parses, as typer does it
            COMMANDS[command].make_context(command, words[len(command.split()) :])


@pytest.mark.parametrize("name", [name for name, each in COMMANDS.items() if not getattr(each, "commands", None)])
def test_every_help_has_an_example_that_parses(name: str) -> None:
    help_text = COMMANDS[name].help
    [example] = re.findall(r"^\s*Example: peftport (.*)$", help_text, re.MULTILINE)
    words = shlex.split(example)
    assert named(words) == name
    COMMANDS[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_page_is_in_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name not in text] == []


def test_files_named_in_pages_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"\b(?:studies|benchmarks|tools|tests)/[\w./-]+\.\w+", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.fixture
def place(hosts: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the names of the pages' hosts are small ones, and it is the present one."""
    for name, host in {
        "all-MiniLM-L6-v2": "bert",
        "sre": "bert-updated",
        "distilbert-base-cased": "distilbert",
        "old-base": "llama",
        "new-base": "llama-updated",
        "other-model": "t5",
    }.items():
        shutil.copytree(hosts[host], tmp_path / name)
    shutil.copy(reviews, tmp_path / "rotten_tomatoes.csv")
    chats = [
        {"messages": [{"role": "user", "content": line}, {"role": "assistant", "content": line.split()[0]}]}
        for line in reviews.read_text(encoding="utf-8").splitlines()[1:]
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    (tmp_path / "studies").mkdir()
    for name in ("quick", "paper-offline", "paper-updated", "paper"):
        (tmp_path / "studies" / f"{name}.toml").write_text(STUDY.replace("quick", name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller(words: list[str]) -> list[str]:
    """The same command for small hosts and few texts."""
    words = ["rotten_tomatoes.csv" if word == "rotten_tomatoes" else word for word in words]
    if named(words) == "train":
        words += ["--steps", "2"] + (["--set", "rank=2"] if "adapter" not in words else [])
    if "chats.jsonl" in words and named(words) in ("evaluate", "compare", "port"):
        words += ["--generate", "4"] + ([] if named(words) == "port" else ["--test-items", "6"])
        words += ["--seeds", "1", "--shots", "1"] if named(words) == "compare" else []
        words += ["--steps", "2"] if named(words) == "port" else []
    if named(words) in ("study plan", "study run") and "--calibrate" not in words:
        words += ["--set", "seeds=[0]"] if named(words) == "study plan" else []
    return words


# Needs the package index, real hosts, or Ray; each has its own test, and so has what a scheduler sets variables for.
ELSEWHERE = {"hosts install", "demo"}


@pytest.mark.parametrize(
    "name",
    ["README.md"]
    + [
        f"docs/{name}.md"
        for name in ("index", "upgraded", "instruct", "check", "another-family", "cluster", "loading", "serving")
    ],
)
def test_commands_of_a_page_run_in_their_order(name: str, place: Path, peftport: Run) -> None:
    ran = 0
    for words in lines_of(ROOT / name):
        if named(words) in ELSEWHERE or "ray" in words or "--calibrate" in words or any("$" in word for word in words):
            continue
        result = peftport(*smaller(words))
        assert result.code == 0, (words, result.err)
        ran += 1
    assert ran >= 3


@pytest.mark.parametrize(
    "name", ["README.md", "docs/index.md", "docs/upgraded.md", "docs/python.md", "docs/serving.md"]
)
def test_python_of_a_page_runs(name: str, place: Path, peftport: Run) -> None:
    if name in ("docs/upgraded.md", "docs/serving.md"):
        for words in lines_of(ROOT / name):
            assert peftport(*smaller(words)).code == 0
    code = "\n".join(shown(ROOT / name, "python"))
    code = code.replace('"rotten_tomatoes"', '"rotten_tomatoes.csv"').replace('"lora", out=', '"lora", steps=2, out=')
    assert "import" in code
    (place / "page.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:peftport", "page.py"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def expanded(script: str, **variables: str) -> list[list[str]]:
    """The words of every peftport command that a shell runs for a script."""
    command = 'peftport() { printf "%s\\0" "$@" ""; }\n' + script  # a zero ends each word, another one each command
    done = subprocess.run(
        ["bash", "-euc", command], capture_output=True, text=True, check=True, env=os.environ | variables
    )
    return [words.split("\0") for words in done.stdout.split("\0\0")[:-1]]


def test_the_job_array_of_the_page_about_clusters_runs(
    place: Path, peftport: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script for every number of the array, by a shell, and what is said to follow: the whole study, by shards."""
    monkeypatch.setattr(executors, "make_executor", lambda *_: Here())
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").partition("## Job arrays")[2]
    plan, script, join = [text for _, text in BLOCK.findall(page.partition("\n## ")[0])]
    [(first, last)] = re.findall(r"--array=(\d+)-(\d+)", script)
    numbers = range(int(first), int(last) + 1)
    places = {"SCRATCH": str(place / "scratch")}
    ran = [expanded(script, SLURM_ARRAY_TASK_ID=str(number), **places) for number in numbers]
    assert [words[words.index("--shard") + 1] for [words] in ran] == [f"{number}/{last}" for number in numbers]
    assert [peftport(*words).code for [words] in (expanded(plan), *ran)] == [0] * (len(ran) + 1)
    joined = [peftport(*words, "--json") for words in expanded(join, **places)]
    assert [each.code for each in joined] == [0, 0]
    assert (joined[0].json["left"], joined[0].json["missing"], len(joined[0].json["folders"])) == (0, [], len(ran))
    assert joined[1].json["states"] == {"done": joined[1].json["runs"]}


def test_the_commands_about_many_modules_run(place: Path, peftport: Run) -> None:
    """What becomes of modules that two steps have trained is open: not enough evidence is exit code 3."""
    codes = [peftport(*smaller(words)).code for words in lines_of(ROOT / "docs" / "many.md")]
    assert codes[:2] == [0, 0] and len(codes) == 4 and set(codes[2:]) <= {0, 3, 4}
    card = (place / "upgraded" / "modules" / "lora" / "README.md").read_text(encoding="utf-8")
    assert "rotten_tomatoes" in card and "ported from all-MiniLM-L6-v2" in card


def test_the_timed_first_minutes_are_the_readme_s() -> None:
    *typed, python = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [words[1:] for words in typed] == list(lines_of(ROOT / "README.md"))
    assert python[:2] == ["python", "-c"] and "import peftport" in python[2]


def recipe(page: str, marker: str, language: str = "python") -> str:
    [text] = [text for text in shown(ROOT / page, language) if marker in text]
    return text


def executed(page: str, marker: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(recipe(page, marker), page, "exec", dont_inherit=True), space)  # the page's own text
    return space


def test_the_recipe_of_a_technique() -> None:
    """It is the file whose technique tests/techniques/test_ia3.py uses everywhere that a technique is used."""
    file = (ROOT / "tests" / "techniques" / "ia3.py").read_text(encoding="utf-8")
    assert file.partition('"""\n\n')[2] == recipe("docs/extending.md", "class Ia3(")


def test_the_recipe_of_a_porter(
    peftport: Run, hosts: Folders, modules: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name works on the command line, and the numbers are half of what they were."""
    from safetensors.torch import load_file

    porter = executed("docs/extending.md", "class Halve(")["Halve"]()
    monkeypatch.setitem(porting.PORTERS, porter.name, porter)
    options = ["--to", hosts["bert-updated"], "--method", porter.name, "--out", tmp_path / "out"]
    assert peftport("port", modules["lora"], *options).code == 0
    before, after = (load_file(folder / "module.safetensors") for folder in (modules["lora"], tmp_path / "out"))
    assert all(torch.equal(after[key], before[key] / 2) for key in before)


@pytest.mark.parametrize("text", ["text", "text,other"])
@pytest.mark.parametrize("host", ["bert", "t5", "llama"])
def test_the_recipes_of_a_kind_of_task_and_of_an_objective(
    host: str, text: str, hosts: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts as targets: read, split, trained (the error falls), predicted, written, ported; no classification."""
    kind, objective = (executed("docs/extending.md", f"class {name}(")[name] for name in ("Count", "Poisson"))
    monkeypatch.setitem(KINDS, kind.kind, kind)
    monkeypatch.setitem(OBJECTIVES, objective.name, (objective,))
    metric = executed("docs/extending.md", "class PoissonDeviance(")["PoissonDeviance"]()
    monkeypatch.setitem(METRICS, metric.name, metric)
    lines = reviews.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.rpartition(",")[0] for line in lines]
    counted = [f"{own},{other},{own.count('good') + own.count('bad')}" for own, other in pairwise([*rows, rows[0]])]
    (tmp_path / "counted.csv").write_text("\n".join(["text,other,label", *counted]), encoding="utf-8")
    task = load_task(str(tmp_path / "counted.csv"), text=text, kind="count")
    assert task.train.targets.dtype.kind == "i"
    bound_task = bind_task(str(hosts[host]), task, settings=TrainSettings(batch_size=80))
    spec = SPECS["lora"]
    [kept] = bound_task.train(spec, [Start(bound_task.fresh(spec, 0), 0)], [1, 30], 1e-2)
    assert kept[1].loss is not None and kept[30].loss is not None and kept[30].loss < kept[1].loss
    [bare], [found] = bound_task.test(None, []), bound_task.test(spec, [kept[30].matrices])
    assert len(found) == len(task.test) and found.values.shape == found.targets.shape
    wanted = mean_poisson_deviance(task.test.targets, found.values)
    assert found.measures() == {"poisson_deviance": pytest.approx(wanted, rel=1e-5)}
    assert found.measures() != bare.measures()
    with pytest.raises(BadRequest, match="expected a classification here, got a task of kind count"):
        as_scores(found)
    write_module(bound_task.module(spec, kept[30], 0, 1e-2), bound_task.host, tmp_path / "count")
    back = read_module(tmp_path / "count")
    assert back.task is not None and back.task.kind == "count"
    [again] = bound_task.test(spec, [bound_task.startable(back)])
    assert torch.equal(torch.from_numpy(again.values), torch.from_numpy(found.values))
    porting.porter_named("copy").port(back, bound_task.host, rng_for(0, "porting"))
    plain = bind_task(str(hosts[host]), load_task(str(reviews)), readout="linear")
    with pytest.raises(TaskRefused, match="this module was trained for a task of kind count, got classification"):
        plain.startable(back)
    with pytest.raises(BadRequest, match="readout linear: counted is count of .*, expected poisson"):
        bind_task(str(hosts[host]), task, readout="linear")
    (tmp_path / "words.csv").write_text("\n".join(["text,label", *[f"{row},x" for row in rows]]), encoding="utf-8")
    with pytest.raises(TaskRefused, match="expected whole numbers as targets"):
        load_task(str(tmp_path / "words.csv"), kind="count")


@pytest.mark.parametrize("technique", ["lora", "adapter", "prefix"])
def test_the_recipe_of_a_family(technique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file is the family's own, on which the contract tests run; alone, it makes models of it hosts.

    What is attached to their slots is felt, and gone afterwards.
    """
    layout = Layout(family="phi", **tomllib.loads(recipe("docs/extending.md", "phi", "toml")))
    assert layout == layouts.layouts()["phi"]
    others = {name: known for name, known in layouts.layouts().items() if name != "phi"}
    monkeypatch.setattr(layouts, "layouts", lambda: {**others, "phi": layout})
    host = pico_host("phi")
    inputs = inputs_of(host, [(5, 6, 7, 8)])
    with torch.no_grad():
        bare = host.model(**inputs).logits
        with attached(host, SPECS[technique], stack([random_matrices(host, SPECS[technique])])):
            changed = host.model(**inputs).logits
        again = host.model(**inputs).logits
    assert not torch.allclose(bare, changed, atol=1e-3)
    assert torch.equal(bare, again)


def test_the_recipe_of_a_metric(
    peftport: Run, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its file and line alone it is in evaluate, train, compare (table, JSON, verdict) and on the page."""
    metric = executed("docs/extending.md", "class WorstRecall(")["WorstRecall"]()
    monkeypatch.setitem(METRICS, metric.name, metric)
    monkeypatch.setattr(compare_tables, "resampled", partial(resampled, draws=12))
    short = ["--max-tokens", 32, "--metric", metric.name]
    said = peftport("evaluate", hosts["bert"], reviews, *short, "--json").json
    assert 0 <= said[metric.name] <= said["accuracy"] and said["metric"] == metric.name
    assert (
        f": {metric.title} {said[metric.name]:.3f}, accuracy"
        in peftport("evaluate", hosts["bert"], reviews, *short).out
    )
    trained = peftport("train", hosts["bert"], reviews, "-t", "lora", "--steps", 1, "--out", tmp_path / "m", *short)
    value = peftport("evaluate", hosts["bert"], reviews, "--module", tmp_path / "m", *short, "--json").json[metric.name]
    assert f"; {metric.title} on reviews {value:.3f}, host alone {said[metric.name]:.3f} (" in trained.out
    unknown = peftport(
        "train", hosts["bert"], reviews, "-t", "lora", "--out", tmp_path / "n", "--metric", "worst_recal"
    )
    assert (unknown.code, unknown.err.count("\n")) == (2, 1) and f"did you mean '{metric.name}'" in unknown.err
    assert not (tmp_path / "n").exists()
    page = tmp_path / "page.html"
    options = [
        "--to",
        hosts["bert-updated"],
        "--task",
        reviews,
        "--budgets",
        "0,1",
        "--seeds",
        2,
        *short,
        "--out",
        page,
    ]
    told = peftport("compare", modules["lora"], *options)
    assert told.code == 0 and metric.title in told.err + told.out
    found = peftport("compare", modules["lora"], *options, "--json").json
    assert all(0 <= row[metric.name] <= 1 for row in found["rows"]) and found["metric"]["name"] == metric.name
    assert f"difference in {metric.title}" in found["verdict"]["sentence"] and metric.title in found["summary"]
    text = page.read_text(encoding="utf-8")
    assert f'"column": "{metric.name}"' in text and f"{metric.title.capitalize()} on held-out items" in text
    assert f"--metric {metric.name}" in text and found["verdict"]["verdict"] in text
    wrong = peftport("compare", modules["lora"], *options, "--metric", "worst_recal")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1) and f"did you mean '{metric.name}'" in wrong.err


def test_a_lopsided_set_is_judged_by_balanced_accuracy(peftport: Run, hosts: Folders, tmp_path: Path) -> None:
    """The share of the frequent class is said, and why; --metric says otherwise."""
    texts = [" ".join(words) for words in product(("good", "bad", "great"), ("film", "plot"), WORDS[:20])]
    lines = [f"{text},{'rare' if i % 8 == 0 else 'usual'}" for i, text in enumerate(texts)]
    (tmp_path / "lop.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    told = peftport("evaluate", hosts["bert"], tmp_path / "lop.csv", "--json")
    assert told.json["majority"] > 0.8 and told.json["metric"] == "balanced_accuracy"
    assert told.json["remarks"] == told.err.splitlines() and "balanced accuracy" in told.json["remarks"][-1]
    line = peftport("evaluate", hosts["bert"], tmp_path / "lop.csv")
    assert ": balanced accuracy" in line.out and f"{told.json['majority']:.3f} of them of the most frequent" in line.out
    assert "judged by balanced accuracy; --metric accuracy" in line.err
    asked = peftport("evaluate", hosts["bert"], tmp_path / "lop.csv", "--metric", "accuracy")
    assert ": accuracy" in asked.out and "judged by" not in asked.err
