"""Metrics of completions against the libraries and scripts that define them, on drawn and on listed texts."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF

from completions import completions
from peftport.core.errors import BadRequest
from peftport.metrics import METRICS, items_measured, metric_named, metrics_of
from peftport.metrics.base import Metric
from peftport.metrics.choice import check_defined, choose_metric
from peftport.metrics.resampling import resampled
from peftport.metrics.rouge_l import longest_common_subsequence
from peftport.metrics.texts import TextMetric
from peftport.metrics.token_f1 import squad_words

OF_COMPLETIONS = (
    "negative_log_likelihood", "perplexity", "exact_match", "contains", "token_f1", "rouge_l", "chrf", "json_valid",
    "json_fields",
)  # fmt: skip
WORDS = st.sampled_from(
    ["a", "The", "cat", "sat.", "café", "Straße", "東京", "3.5", "-5", "{", "}", "?", "\n", "x0", "ﬁn"]
)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=20)
REFERENCES = st.lists(TEXTS, min_size=1, max_size=3).map(tuple)


def score(name: str, answer: str, *references: str) -> float:
    metric = METRICS[name]
    assert isinstance(metric, TextMetric)
    return metric.score(answer, references)


def squad_f1(answer: str, reference: str) -> float:
    """The script of SQuAD 2.0, from its description."""

    def tokens(text: str) -> list[str]:
        plain = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split()).split()

    one, other = tokens(reference), tokens(answer)
    same = sum((Counter(one) & Counter(other)).values())
    if not one or not other:
        return float(one == other)
    precision, recall = same / len(other), same / len(one)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def test_the_metrics_of_completions_come_after_the_others_and_are_judged_by_the_first() -> None:
    assert tuple(metrics_of("completion")) == OF_COMPLETIONS == tuple(METRICS)[-len(OF_COMPLETIONS) :]
    assert choose_metric(completions([None], [("x",)])).name == "negative_log_likelihood"


@given(TEXTS, REFERENCES)
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_the_packages(answer: str, references: tuple[str, ...]) -> None:
    rouge = RougeScorer(["rougeL"]).score_multi(references, answer)["rougeL"].fmeasure
    assert score("rouge_l", answer, *references) == pytest.approx(rouge, abs=1e-12)
    chrf = CHRF().sentence_score(answer, list(references)).score / 100
    assert score("chrf", answer, *references) == pytest.approx(chrf, abs=1e-12)
    f1 = max(squad_f1(answer, each) for each in references)
    if all(map(squad_words, references)):
        assert score("token_f1", answer, *references) == pytest.approx(f1, abs=1e-12)


@given(st.lists(st.sampled_from("abc"), max_size=70), st.lists(st.sampled_from("abc"), max_size=70))
@settings(max_examples=60, deadline=None)
def test_the_longest_common_subsequence_is_that_of_the_usual_table(one: list[str], other: list[str]) -> None:
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, left in enumerate(one, 1):
        for j, right in enumerate(other, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if left == right else max(table[i - 1, j], table[i, j - 1])
    assert longest_common_subsequence(one, other) == table[-1, -1]


@given(TEXTS, REFERENCES)
@settings(max_examples=150, deadline=None)
def test_what_scores_of_texts_promise(answer: str, references: tuple[str, ...]) -> None:
    """Between 0 and 1, the best reference counts, a reference itself is right, and what is exact is also contained."""
    for name in OF_COMPLETIONS[2:7]:
        best = score(name, answer, *references)
        assert 0 <= best <= 1 and best == max(score(name, answer, each) for each in references), name
        known = name != "rouge_l" or re.search("[a-z0-9]", references[0].lower())
        if known and (name != "chrf" or references[0].strip()):
            assert score(name, references[0], *references) == pytest.approx(1), name
    assert score("contains", answer, *references) >= score("exact_match", answer, *references)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "contained", "f1"),
    [
        ("Paris", "Paris", 1, 1, 1),
        (" paris.\n", "Paris", 1, 1, 1),
        ("The city is Paris, in France.", "Paris", 0, 1, 2 / 6),
        ("the Eiffel Tower", "Eiffel Tower", 0, 1, 1),  # SQuAD drops articles; they are words elsewhere
        ("cafe\u0301", "CAFÉ", 1, 1, 0),  # composed or not; SQuAD compares code points
        ("STRASSE", "Straße", 1, 1, 0),
        ("-5", "5", 0, 1, 1),
        ("3.5", "35", 0, 0, 1),
        ("15", "5", 0, 0, 0),
        ("10²", "102", 0, 0, 0),
        ("start", "art", 0, 0, 0),
        ("これは東京です", "東京", 0, 1, 0),
        ("B", "A", 0, 0, 0),
        ("a", "A", 1, 1, 1),
        ("the", "A", 0, 0, 0),  # SQuAD's script: both are empty, so equal
        ("!", "?", 0, 0, 0),
        ("x[0] = 1;", "x[0] = 1;", 1, 1, 1),
        ("x0 = 1;", "x[0] = 1;", 0, 0, 1),
        ("", "Paris", 0, 0, 0),
        ("...", "...", 1, 1, 1),
    ],
)
def test_listed_answers(answer: str, reference: str, exact: float, contained: float, f1: float) -> None:
    found = [score(name, answer, reference) for name in ("exact_match", "contains", "token_f1")]
    assert found == pytest.approx([exact, contained, f1])


@pytest.mark.parametrize(
    ("answer", "reference", "valid", "fields"),
    [
        ('{"a": 1, "b": {"c": [true, "X y"]}}', '{"b": {"c": [true, "x  Y"]}, "a": 1.0}', 1, 1),
        ('```json\n{"a": 1}\n```', '{"a": 1, "b": 2}', 1, 1 / 2),
        ('\n```\n{"a": 1}```\n', '{"a": 1}', 1, 1),
        ('Here it is: {"a": 1}', '{"a": 1}', 0, 0),
        ('{"a": 1,}', '{"a": 1}', 0, 0),
        ('{"a": NaN}', '{"a": 1}', 0, 0),
        ('{"a": 1, "more": 2}', '{"a": true}', 1, 0),
        ('{"a": "1"}', '{"a": 1}', 1, 0),
        ('{"a": 12345678901234567891}', '{"a": 12345678901234567890}', 1, 0),
        ("[1, 2, 3]", "[1, 5, 3, 4]", 1, 1 / 2),
        ('{"0": 1}', "[1]", 1, 0),
        ("{}", "{}", 1, 1),
        ("[]", "{}", 1, 0),
        ("42", '{"a": 42}', 1, 0),
        ("null", '{"a": null}', 1, 0),
        ('{"a": null}', '{"a": null, "b": null}', 1, 1 / 2),
        ("", "[1]", 0, 0),
        ("[" * 100_000, "[[]]", 0, 0),
        ("9" * 5_000, "[[]]", 1, 0),
    ],
)
def test_json_answers(answer: str, reference: str, valid: float, fields: float) -> None:
    assert score("json_valid", answer, reference) == valid
    assert score("json_fields", answer, reference) == pytest.approx(fields)
    assert score("json_fields", answer, "no JSON", reference) == pytest.approx(fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON.filter(lambda value: isinstance(value, dict | list)))
@settings(max_examples=60, deadline=None)
def test_what_json_writes_is_valid_and_matches_itself(value: Any) -> None:
    text, pretty = json.dumps(value), f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"
    assert score("json_valid", pretty, text) == score("json_fields", pretty, text) == 1


def test_likelihoods_are_their_definitions() -> None:
    test = completions([None] * 40, [("x",)] * 40)
    nats, tokens = -test.values["log_likelihood"], test.values["tokens"]
    found = test.measures()
    assert found["negative_log_likelihood"] == pytest.approx(nats.mean())
    assert found["perplexity"] == pytest.approx(math.exp(nats.sum() / tokens.sum()))
    assert found["perplexity"] == pytest.approx(np.prod(np.exp(nats)) ** (1 / tokens.sum()))
    assert {name for name, value in found.items() if value is not None} == set(OF_COMPLETIONS[:2])
    test.values["log_likelihood"] = -1e9
    assert test.measures()["perplexity"] is None


def test_items_without_an_answer_are_left_out() -> None:
    test = completions(["yes", None, "no", "", None], [("yes",), ("b",), ("x", "No."), ("d",), ("e",)])
    each = METRICS["exact_match"].per_item(test)
    assert each is not None and each.tolist() == [1, 1, 0] and items_measured(METRICS["exact_match"], test) == 3
    assert items_measured(METRICS["perplexity"], test) == items_measured(METRICS["negative_log_likelihood"], test) == 5
    assert test.measures()["exact_match"] == pytest.approx(2 / 3) and test.measures()["json_valid"] is None
    russian = completions(["да", "нет"], [("да",), ("да",)])
    assert russian.measures()["rouge_l"] is None and russian.measures()["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("metric", "answer", "message"),
    [
        ("exact_match", None, "expected generated answers (--generate N), got 2 test items without"),
        ("json_valid", "{}", "references that are JSON objects or arrays, got 2 test items without"),
        ("rouge_l", "да", "references that have words of the letters a to z, got 2 test items without"),
        ("accuracy", "да", "expected one that measures a task of kind completion (negative_log_likelihood, "),
    ],
)
def test_a_metric_that_a_test_does_not_have_is_refused(metric: str, answer: str | None, message: str) -> None:
    test = completions([answer, answer], [("да",), ("нет",)])
    with pytest.raises(BadRequest, match=re.escape(message)):
        check_defined(choose_metric(test, metric).name, test)


def test_resampling_scores_no_text_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """References are no classes, and what was scored stays known, also for other arms with the same answer."""
    scored: list[str] = []

    class Counting(TextMetric):
        name, title = "counting", "counting"

        def score(self, answer: str, references: tuple[str, ...]) -> float:
            scored.append(answer)
            return float(len(answer))

    metric: Metric = Counting()
    answers: list[str | None] = [str(i) * i for i in range(1, 9)]
    tests = [completions(answers, [(f"{i}", "x") for i in range(8)], seed) for seed in (0, 1)]
    draws = resampled(metric, tests, rng=np.random.default_rng(0))
    assert len(scored) == 8 and np.array_equal(draws[0], draws[1]) and abs(draws[0].mean() - 4.5) < 0.3
    likelihoods = resampled(metric_named("perplexity"), tests, rng=np.random.default_rng(0))
    assert np.isfinite(likelihoods).all() and (likelihoods[0] != likelihoods[1]).any()
