"""A scorer of the user's own: a function in a file is a metric; what is wrong with it is said in one line."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from completions import Completions, completions
from peftport.analysis.columns import run_columns
from peftport.core.arms import ARMS
from peftport.core.errors import BadRequest
from peftport.metrics import METRICS, asked_metric, metric_named
from peftport.metrics.choice import MetricChoice, check_defined, choose_metric
from peftport.report.compared import comparison_findings
from peftport.report.html import render
from peftport.report.tables import comparison_sentence, comparison_table
from peftport.study import grid
from peftport.workflows.compare_tables import ComparisonAnalysis
from peftport.workflows.comparison import Comparison, ComparisonPlan

SOURCE = """
from __future__ import annotations

import dataclasses

@dataclasses.dataclass
class Length:
    of: str

def off(answer: str, references: tuple[str, ...]) -> float:
    return min(abs(len(Length(answer).of) - len(each)) for each in references)

off.title, off.higher_is_better = "characters off", False

def same(answer, references):
    return answer in references
"""


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    path = tmp_path / "my scorer.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_a_function_is_a_metric(scorer: Path) -> None:
    test = completions(["yes", None, "nope", "no"], [("yes", "y"), ("a",), ("no",), ("x", "no")])
    off, same = metric_named(f"{scorer}:off"), metric_named(f"{scorer}:same")
    assert [off.per_item(test).tolist(), same.per_item(test).tolist()] == [[0, 2, 0], [1, 0, 1]]  # type: ignore[union-attr]
    assert (off.title, off.higher_is_better, same.title, same.higher_is_better) == (
        "characters off",
        False,
        "same",
        True,
    )
    judged = choose_metric(test, f"{scorer}:same")
    check_defined(judged.name, test)
    assert judged.items(test) == 3 and judged.title == "same"
    assert judged.as_json()["sha256"] == hashlib.sha256(scorer.read_bytes()).hexdigest()
    assert "sha256" not in MetricChoice("exact_match").as_json()
    with pytest.raises(BadRequest, match="expected generated answers"):
        check_defined(f"{scorer}:off", completions([None], [("x",)]))


def test_the_scorer_of_the_page_judges_as_the_page_says(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    [block] = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "scorer.py").write_text(block, encoding="utf-8")
    metric = metric_named(f"{tmp_path / 'scorer.py'}:within_ten_percent")
    test = completions(["105 ohm", "120", "about 100", "1"], [("100",), ("100", "115"), ("100",), ("2", "3")])
    assert metric.per_item(test).tolist() == [1, 1, 0, 0] and metric.title == "within 10 %"  # type: ignore[union-attr]


def test_every_metric_is_on_the_page_with_its_direction() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    shown = {name: cells[3].strip() for cells in rows for name in re.findall(r"`(\w+)`", cells[1])}
    assert shown == {name: "higher" if one.higher_is_better else "lower" for name, one in METRICS.items()}


def test_a_request_reads_the_file_anew_and_its_results_stay_with_what_was_read(scorer: Path) -> None:
    name, test = f"{scorer}:same", completions(["yes"], [("yes",)])
    assert asked_metric(name).aggregate(test) == 1
    scorer.write_text("def same(answer, references):\n    return 0.25\n", encoding="utf-8")
    assert metric_named(name).aggregate(test) == 1  # of the request before
    assert asked_metric(name).aggregate(test) == metric_named(name).aggregate(test) == 0.25
    scorer.unlink()
    assert metric_named(name).aggregate(test) == 0.25


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        ("", "", "expected FILE.py:function, got no function; name it after a colon"),
        (None, "f", "got: No such file or directory; correct the path"),
        ("def g(a, r): return 1\n_x = 1", "f", "expected a function f in "),
        ("f = 3", "f", "which has none; correct the name"),
        ("def f(:", "f", "got SyntaxError: invalid syntax"),
        ("import no_such_library", "f", "got ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "f", "got SystemExit: 3"),
        ("def f(a, r): return 1\nf.title = 3", "f", "expected a text as its title, got 3"),
        ("def f(a, r): return 1\nf.higher_is_better = 'no'", "f", "expected True or False as its higher_is_better"),
        ("def f(a): return 1", "f", "got TypeError: f() takes 1 positional argument but 2 were given; correct it"),
        ("def f(a, r): raise KeyError('one\\ntwo')", "f", "got KeyError: 'one"),
        ("def f(a, r): return 'good'", "f", "as the score of the answer 'yes', got 'good'; correct it"),
        ("def f(a, r): return None", "f", "got None; correct it"),
        ("def f(a, r): return float('nan')", "f", "got nan; correct it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(source: str | None, function: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scorer.py"
    if source is not None:
        path.write_text(source, encoding="utf-8")
    with pytest.raises(BadRequest, match=re.escape(message)) as caught:
        asked_metric(f"{path}:{function}" if function else str(path)).aggregate(completions(["yes"], [("yes",)]))
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).startswith(f"--metric {path}")


def test_a_study_refuses_it_with_a_reason(scorer: Path) -> None:
    with pytest.raises(ValueError, match="is a scorer of your own, which evaluate and compare take"):
        grid.Testing(metric=f"{scorer}:same")


def compared(metric: str) -> Comparison:
    """Arms whose answers to the first 30 of 40 items are right by chance, the ported one's mostly."""
    rng, seeds = np.random.default_rng(0), (0, 1, 2)
    references = [(f"answer {i}", f"the answer is {i}") for i in range(40)]

    def test(share: float) -> Completions:
        said = [texts[rng.integers(2)] if rng.random() < share else "no idea" for texts in references[:30]]
        return completions([*said, *[None] * 10], references, int(rng.integers(99)))

    plan = ComparisonPlan((0, 10), seeds, ARMS, metric=metric)
    tests = {(a, b, s): test(0.9 if a == "ported" else 0.2 + b / 20) for a in ARMS for b in (0, 10) for s in seeds}
    return Comparison("lora", "old", "new", "toy", plan, 1e-3, test(0.1), [], tests)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "metric", ["exact_match", "negative_log_likelihood", "perplexity", "SCORER:off", "SCORER:same"]
)
def test_a_comparison_is_judged_by_it(metric: str, scorer: Path) -> None:
    """Intervals over seeds and the items that have a value; sentence, table, JSON and page are of that metric."""
    name = metric.replace("SCORER", str(scorer))
    found = ComparisonAnalysis([compared(name)])
    [gain] = found.gains.filter(versus="sampled", budget=0).rows(named=True)
    tests = found.first.scores
    means = [
        np.mean([metric_named(name).aggregate(tests[arm, 0, s]) for s in (0, 1, 2)]) for arm in ("ported", "sampled")
    ]  # type: ignore[misc]
    sign = 1 if metric_named(name).higher_is_better else -1
    assert gain["gain"] == pytest.approx(sign * (means[0] - means[1])) and gain["low"] < gain["gain"] < gain["high"]
    judged = 40 if metric in ("negative_log_likelihood", "perplexity") else 30
    assert f"over 3 seeds and {judged} test items" in comparison_sentence(found)
    if judged == 30:
        assert gain["p_holm"] < 0.05 and "beats the sampled" in comparison_sentence(found)
    assert "40 test items, 30 of them with a generated answer" in comparison_table(found).title
    stated = found.first.as_json()
    assert stated["bare"][name] == metric_named(name).aggregate(found.first.bare) and stated["metric"]["name"] == name
    assert ("sha256" in stated["metric"]) is metric.startswith("SCORER")
    assert set(run_columns("completion")) <= set(found.frames.runs.columns)
    page = render(comparison_findings(found, study="s", about="a", command="c"))
    assert metric_named(name).title in page
