"""One comparison, one statistic: sentence, verdict, JSON and page of drawn results say the same."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from peftport.api.comparisons import Compared, Demonstrated
from peftport.core.arms import ARMS
from peftport.metrics import METRICS, metrics_of
from peftport.metrics.resampling import resampled
from peftport.report.compared import comparison_findings, demo_findings
from peftport.report.html import render
from peftport.report.in_short import cards
from peftport.report.pack import unpacked
from peftport.training.evaluation import Scores
from peftport.workflows import compare_tables
from peftport.workflows.comparison import Comparison, ComparisonPlan
from peftport.workflows.demo import Demo, DemoSettings
from peftport.workflows.requests import CompareRequest, DemoRequest

CLAIM = re.compile(r"(\w+) \(([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]\)")


def drawn(seed: int, gain: float, metric: str, technique: str = "lora", arms: tuple[Any, ...] = ARMS) -> Comparison:
    """Arms of random scores, the ported one ahead by about ``gain``; items differ in difficulty."""
    rng, n = np.random.default_rng(seed), 60
    labels, hard = rng.integers(0, 2, n), rng.normal(0, 1, n)
    labels[:2] = 0, 1

    def scores(lead: float) -> Scores:
        margin = (hard + rng.normal(lead, 1, n)) * np.where(labels == 1, 1, -1)
        return Scores(np.stack([-margin, margin], 1).astype(np.float32), labels)

    leads = {"ported": 0.3 + 4 * gain}
    tests = {(arm, b, s): scores(leads.get(arm, 0.3) + b / 20) for arm in arms for b in (0, 10) for s in (0, 1, 2)}
    plan = ComparisonPlan((0, 10), (0, 1, 2), arms, metric=metric)
    return Comparison(technique, "old", "new", "toy", plan, 1e-3, scores(0.3), [], tests)


def embedded(page: str) -> dict[str, list[dict[str, Any]]]:
    """The frames that a page holds, a dictionary a row."""
    [packed] = re.findall(r'type="text/plain" id="frames">([^<]*)<', page)
    found = {}
    for name, frame in unpacked(packed).items():
        columns = {key: decoded(values) for key, values in frame["columns"].items()}
        found[name] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found


def decoded(values: Any) -> list[Any]:
    if isinstance(values, dict):
        return [None if code < 0 else values["words"][code] for code in values["codes"]]
    return list(values)


def check_claims(sentence: str, gains: list[dict[str, Any]], versus: str = "sampled") -> int:
    """Every claim of a sentence is the gain of its table, and settled where that is."""
    seen = 0
    for part in sentence.split("; "):
        for technique, *numbers in CLAIM.findall(part):
            [row] = [r for r in gains if (r["technique"], r["versus"], r["budget"]) == (technique, versus, 0)]
            assert [float(x) for x in numbers] == pytest.approx([row["gain"], row["low"], row["high"]], abs=6e-4)
            settled = row["p_holm"] < 0.05
            wanted = "not settled" if not settled else "beats" if row["gain"] > 0 else "worse"
            assert wanted in part, (part, row)
            assert not settled or row["low"] > 0 or row["high"] < 0
            seen += 1
    return seen


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of metrics without items need not be good here, only the same everywhere."""
    monkeypatch.setattr(compare_tables, "resampled", partial(resampled, draws=12))


@pytest.mark.parametrize("metric", metrics_of("classification"))
def test_sentence_verdict_json_and_page_of_a_comparison_agree(metric: str) -> None:
    seed = list(METRICS).index(metric)
    gain = np.random.default_rng(seed).uniform(-0.4, 0.4)
    comparison = drawn(seed, gain, metric)
    result = Compared(CompareRequest("module", "new", "toy", metric=metric), comparison)
    said = json.loads(json.dumps(result.as_json()))
    found = comparison_findings(result.analysis, study="s", about="a", command="c")
    page = render(found)
    frames = embedded(page)
    # The sentences: terminal, JSON, page.
    summary, verdict = result.lines()
    assert (said["summary"], said["verdict"]["sentence"]) == (summary, verdict) == found.headlines
    [shown] = frames["verdicts"]
    assert (shown["sentence"], shown["verdict"]) == (verdict, said["verdict"]["verdict"])
    [card] = cards(found)
    assert (card.sentence, card.verdict) == (shown["sentence"], shown["verdict"])
    first = page.partition('<article class="card"')[2].partition("</article>")[0]
    assert f'data-is="{card.verdict}"' in first and all(mark.text in first for mark in card.marks)
    levels = {row["mean"] for row in found.curves.iter_rows(named=True)}
    assert card.marks and {mark.text.partition(" ")[0] for mark in card.marks} <= {f"{mean:.3f}" for mean in levels}
    # The numbers: JSON and page (which rounds), and what the sentence claims of them.
    assert len(said["gains"]) == len(frames["gains"]) == 6
    for one, other in zip(said["gains"], frames["gains"], strict=True):
        for key in ("gain", "low", "high", "p_holm"):
            assert other[key] == pytest.approx(one[key], abs=1e-4)
    assert check_claims(summary, said["gains"]) == 1
    check_verdict(said["verdict"], said["gains"])
    title = METRICS[metric].title
    assert title in summary and title in verdict and f"{title[0].upper()}{title[1:]} on held-out items" in page
    apart = result.difference("ported", "scratch", 10)
    [row] = [row for row in said["gains"] if (row["versus"], row["budget"]) == ("scratch", 10)]
    sign = 1 if METRICS[metric].higher_is_better else -1
    assert (apart["estimate"], apart["low"], apart["high"]) == pytest.approx((row["gain"], row["low"], row["high"]))
    own, base = (
        [s.measures()[metric] for k, s in comparison.scores.items() if k[:2] == (arm, 10)] for arm in ARMS[::2]
    )
    assert row["gain"] == pytest.approx(sign * (np.mean(own) - np.mean(base)), abs=1e-9)  # type: ignore[arg-type]


def check_verdict(verdict: dict[str, Any], gains: list[dict[str, Any]]) -> None:
    """What a verdict settles at its joint level, the gain of the same comparison settles alone, on the same side."""
    wins = {"copy": 1, "retrain": -1}.get(verdict["verdict"])
    if wins is not None:
        same = [
            row for row in gains if (row["versus"] == "bare") == (row["budget"] == 0) and row["versus"] != "sampled"
        ]
        settled = [row for row in same if (row["low"] > 0) - (row["high"] < 0) == wins]
        assert settled and any(r["low"] >= verdict["low"] and r["high"] <= verdict["high"] for r in settled)


@pytest.mark.parametrize(("seed", "gain"), [(0, 0.0), (1, 0.35)])
def test_sentence_json_and_page_of_the_demonstration_agree(seed: int, gain: float) -> None:
    comparisons = [drawn(seed, by, "accuracy", name) for name, by in (("lora", gain), ("prefix", -gain))]
    demo = Demo(DemoSettings(), comparisons, {"lora": 0.8}, 0.5, 1.0)
    result = Demonstrated(DemoRequest(), demo)
    said, found = json.loads(json.dumps(result.as_json())), demo_findings(demo)
    [sentence] = result.lines()
    assert said["summary"] == sentence == found.headlines[0]
    assert check_claims(sentence, said["gains"]) == 2
    frames = embedded(render(found))
    assert [row["sentence"] for row in frames["verdicts"]] == [row["sentence"] for row in said["verdicts"]]
    assert [row["gain"] for row in frames["gains"]] == pytest.approx([row["gain"] for row in said["gains"]], abs=1e-4)


def test_without_a_sampled_arm_the_sentence_is_the_verdict_s_comparison() -> None:
    result = Compared(CompareRequest("m", "new", "toy"), drawn(3, 0.3, "accuracy", arms=("ported", "scratch")))
    [(_, *numbers)] = CLAIM.findall(result.summary)
    assert result.verdict is not None and "{} [{}, {}]".format(*numbers) in result.verdict["sentence"]
