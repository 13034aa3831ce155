"""From a ledger, or from exported tables, to headlines, page, figures and LaTeX; and watching a study end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico_folders import Result, Run
from pico_study import plan_of, run_in


@pytest.fixture
def study(peftport: Run, tiny: Path) -> Run:
    def run(command: str, *arguments: object) -> Result:
        return peftport("study", command, tiny, *arguments)

    return run


def test_the_terminal_gets_a_table_and_headlines(study: Run, undisturbed: Path) -> None:
    told = study("report", "--dir", undisturbed)
    assert told.code == 0, told
    assert "gain over sampled" in told.out
    assert "Verdicts on 4 cells" in told.out


def test_headlines_count_only_settled_cells(study: Run, undisturbed: Path) -> None:
    """Eight items and two seeds settle little: what is not settled is claimed for no arm."""
    found = study("report", "--dir", undisturbed, "--json").json
    assert found["headlines"][0].startswith(
        "2 claims were tried: that ported modules gain over sampled (2 tests), scratch"
    )
    gains = [line for line in found["headlines"] if line.startswith("Ported over")]
    assert [line.split()[2].rstrip(",") for line in gains] == ["sampled", "scratch"]
    assert all(line.count("settled; ") == 2 and "of 8 cells and budgets" in line for line in gains)
    assert any(line.startswith("Gains settled to differ") for line in found["headlines"])
    assert {row["verdict"] for row in found["verdicts"]} <= {"copy", "retrain", "not enough evidence"}


def test_a_page_figures_and_tables_from_exported_files(study: Run, undisturbed: Path, tmp_path: Path) -> None:
    """The ledger and its export give the same findings; the export needs no ledger."""
    assert study("export", "--dir", undisturbed, "--out", tmp_path / "results").code == 0
    there = study("report", "--results", tmp_path / "results", "--json").json
    here = study("report", "--dir", undisturbed, "--json").json
    assert {**there, "files": []} == {**here, "files": []}
    page = tmp_path / "page.html"
    written = study(
        "report", "--results", tmp_path / "results", "--out", page, "--figures", tmp_path / "figures",
        "--latex", tmp_path / "tables", "--json",
    ).json["files"]  # fmt: skip
    assert str(page) in written
    assert all(Path(path).stat().st_size > 0 for path in written)
    assert {Path(path).suffix for path in written} == {".html", ".svg", ".tex"}
    assert "tiny" in page.read_text(encoding="utf-8")


def test_how_it_was_run_travels_with_the_tables(study: Run, undisturbed: Path, tmp_path: Path) -> None:
    study("export", "--dir", undisturbed, "--out", tmp_path)
    told = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert told["study"]["name"] == "tiny"
    assert told["sharing"]["runs"] == 32
    assert set(told["hosts"]) == {"bert", "bert-updated", "t5", "t5-updated"}
    assert told["failures"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--format", "gif"), "svg, png, pdf"),
        (("--results", "nowhere"), "runs.parquet"),
        (("--dir", "nowhere"), "ledger.sqlite"),
    ],
)
def test_a_report_of_nothing_is_refused(study: Run, arguments: tuple[str, ...], says: str) -> None:
    told = study("report", *arguments)
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert says in told.err


def test_watching_ends_with_what_came_out(study: Run, undisturbed: Path) -> None:
    told = study("watch", "--dir", undisturbed)
    assert told.code == 0
    assert "0 left of" in told.err
    assert "Verdicts on 4 cells" in told.out


def test_a_study_that_is_not_finished_reports_what_there_is(study: Run, tiny: Path, tmp_path: Path) -> None:
    run_in(tmp_path, plan_of(tiny), None)
    told = study("report", "--dir", tmp_path, "--set", "seeds=[0,1,2]", "--json")
    assert told.code == 0, told
    assert told.json["headlines"]
