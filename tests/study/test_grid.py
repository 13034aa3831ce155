"""The study file: a mistake is told by its key, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftport.core.errors import BadRequest
from peftport.study.grid import read_study, run_count, runs
from pico_folders import Run
from pico_study import TINY

MISTAKES = {  # what is wrong: the text that replaces a text of the tiny study, and what the message must hold
    "unknown key": ('name = "tiny"', 'name = "tiny"\nbudget = [1]', ("budget: ", "Extra inputs")),
    "unknown key below": ("items = 8", "items = 8\nitem = 9", ("testing.item: ",)),
    "no name": ('name = "tiny"', "", ("name: ", "Field required")),
    "a name that is a path": ('name = "tiny"', 'name = "../tiny"', ("name: ", "../tiny")),
    "wrong type": ("seeds = [0, 1]", 'seeds = [0, "one"]', ("seeds[1]: ", "one")),
    "negative budget": ("budgets = [0, 2]", "budgets = [0, -2]", ("budgets[1]: ", "-2")),
    "no budget": ("budgets = [0, 2]", "budgets = []", ("budgets: ",)),
    "a budget twice": ("budgets = [0, 2]", "budgets = [2, 2]", ("budgets: expected each once, got 2 twice",)),
    "a technique twice": ('kind = "adapter"', 'name = "lora-2", kind = "adapter"', ("techniques: ", "'lora-2' twice")),
    "unknown technique": ('kind = "adapter"', 'kind = "adapt"', ("technique", "adapt", "adapter")),
    "unknown setting": ("rank = 2", "rang = 2", ("rang",)),
    "unknown arm": ('"scratch"]', '"scratched"]', ("arms[2]: ", "scratched")),
    "unknown porter": ("budgets =", 'porters = ["copi"]\nbudgets =', ("copi", "copy")),
    "unknown sampler": ("budgets =", 'samplers = ["gauss"]\nbudgets =', ("gauss", "gaussian")),
    "a pair of three": ('["bert", "bert-updated"]', '["bert", "t5", "bert"]', ("pairs[0]",)),
    "a rate for nobody": ("adapter = 1e-2", "adapt = 1e-2", ("training.learning_rates.adapt: ",)),
    "a rate of zero": ("adapter = 1e-2", "adapter = 0", ("training.learning_rates.adapter: ",)),
    "no steps": ("origin_steps = 3", "origin_steps = 0", ("training.origin_steps: ", "0")),
    "no stack": ("stack = 3", "stack = 0", ("execution.stack: ",)),
    "data without a source": ('source = "reviews.csv"', 'text = "text"', ("data.reviews.source: ",)),
    "a host of a host": (
        "[training]",
        '[hosts.a]\nbase = "b"\ntext = "t"\nsteps = 1\n[hosts.b]\nbase = "bert"\ntext = "t"\nsteps = 1\n[training]',
        ("hosts.a.base: ",),
    ),
    "another version": ('name = "tiny"', 'name = "tiny"\nversion = 2', ("version: ", "2")),
    "not TOML": ("seeds = [0, 1]", "seeds = [0, 1", ("expected TOML", "line")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_by_its_key(mistake: str, tmp_path: Path, peftport: Run) -> None:
    text, instead, says = MISTAKES[mistake]
    assert TINY.count(text) == 1
    path = tmp_path / "study.toml"
    path.write_text(TINY.replace(text, instead), encoding="utf-8")
    refused(peftport, "plan", path, says=says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("testing.items", ("--set: expected KEY=VALUE", "got 'testing.items'")),
        ("testing.item=3", ("testing.item: ",)),
        ("testing.items=many", ("testing.items: ", "many")),
        ("name.items=3", ("--set name.items", "a value there")),
        ("budgets=[0,0]", ("budgets: ", "0 twice")),
    ],
)
def test_a_wrong_change_is_refused(change: str, says: tuple[str, ...], tiny: Path, peftport: Run) -> None:
    refused(peftport, "plan", tiny, "--set", change, says=says)


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("seeds=1", ("factor", "seeds", "seed")),
        ("seed", ("seed",)),
        ("seed=7", ("--only seed=7", "no run is left")),
        ("technique=lora", ("--only technique=lora", "no run is left")),
    ],
)
def test_a_wrong_choice_is_refused(only: str, says: tuple[str, ...], tiny: Path, peftport: Run) -> None:
    refused(peftport, "plan", tiny, "--only", only, says=says)


@pytest.mark.parametrize(("content", "says"), [(None, "found nothing"), (b"\xff\xfe\x00", "cannot read")])
def test_a_file_that_cannot_be_read(content: bytes | None, says: str, tmp_path: Path, peftport: Run) -> None:
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    refused(peftport, "plan", path, says=(str(path), says))


def test_changes_are_read_as_toml_writes_them(tiny: Path) -> None:
    plain = read_study(tiny)
    changed = read_study(tiny, {"testing.items": "5", "seeds": "[3]", "testing.readout": "linear", "about": "x = 1"})
    assert (changed.testing.items, changed.seeds, changed.testing.readout) == (5, (3,), "linear")
    assert changed.about == "x = 1"
    assert changed.model_dump(exclude={"testing", "seeds", "about"}) == plain.model_dump(
        exclude={"testing", "seeds", "about"}
    )


def test_shorthands_mean_what_they_say(tiny: Path) -> None:
    study = read_study(tiny)
    assert [t.name for t in study.techniques] == ["lora-2", "adapter"]
    assert study.tasks[0].model_dump() == {"origin": "reviews", "receiver": "reviews"}


def test_runs_are_the_product_of_the_factors(tiny: Path) -> None:
    study = read_study(tiny)
    listed = list(runs(study))
    assert len(listed) == run_count(study) == 2 * 2 * 1 * 2 * 2 * 2
    assert len({run.name for run in listed}) == len(listed)


def test_a_method_has_no_runs_of_a_technique_it_does_not_carry(tmp_path: Path) -> None:
    """gradfix masks updates and does not carry prefixes; the count agrees with the runs."""
    text = TINY.replace('{ kind = "adapter", reduction_factor = 4 }', '"prefix"').replace(
        "adapter = 1e-2", "prefix = 1e-2"
    )
    (tmp_path / "study.toml").write_text(text.replace("budgets =", 'porters = ["copy", "gradfix"]\nbudgets ='))
    study = read_study(tmp_path / "study.toml")
    listed = list(runs(study))
    assert len(listed) == run_count(study)
    assert {(run.technique, run.method) for run in listed if run.arm == "ported"} == {
        ("lora-2", "copy"), ("lora-2", "gradfix"), ("prefix", "copy"),
    }  # fmt: skip


def test_given_studies_are_valid() -> None:
    for path in (Path(__file__).parents[2] / "studies").glob("*.toml"):
        assert read_study(path).name == path.stem


def refused(peftport: Run, *arguments: object, says: tuple[str, ...]) -> None:
    result = peftport("study", *arguments)
    assert result.code == 2, result
    lines = result.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("peftport: ")
    assert not result.out
    assert not [part for part in says if part not in lines[0]], lines[0]


def test_reading_raises_one_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot read"):
        read_study(tmp_path)
