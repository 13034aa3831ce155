"""Batches of texts by tokens: none lost, none over the budget, and no score that depends on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftport.modules.module import HEAD
from peftport.objectives import bind_objective
from peftport.training.evaluation import batches_of_tokens, score_entries
from pico import SPECS, TOY, WORDS, pico_host, random_matrices


@given(st.lists(st.integers(1, 40), max_size=120), st.integers(1, 8), st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_budget(
    lengths: list[int], entries: int, tokens: int
) -> None:
    picks = list(batches_of_tokens([(7,) * length for length in lengths], entries, tokens))
    assert sorted(np.concatenate(picks).tolist() if picks else []) == list(range(len(lengths)))
    for pick in picks:
        padded = entries * len(pick) * max(lengths[i] for i in pick)
        assert padded <= tokens or len(pick) == 1
    # As full as can be: the next text would have gone over.
    for pick, after in zip(picks, picks[1:], strict=False):
        assert entries * (len(pick) + 1) * lengths[after[0]] > tokens
    shortest = [min(lengths[i] for i in pick) for pick in picks]
    assert shortest == sorted(shortest)


@pytest.mark.parametrize(("model_type", "readout"), [("bert", "prototype"), ("t5", "label_tokens"), ("bert", "linear")])
def test_scores_do_not_depend_on_how_many_tokens_go_at_once(model_type: str, readout: str) -> None:
    view: Any = "language_model" if readout == "label_tokens" else "body"
    host = pico_host(model_type, view=view, dtype=torch.float64)
    bound, spec = bind_objective(readout, host, TOY), SPECS["lora"]
    rng = np.random.default_rng(0)
    rows = bound.encode([" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(30)])
    labels = rng.integers(0, 2, 30)
    modules = [random_matrices(host, spec, seed) for seed in range(3)]
    if readout == "linear":
        head = {"weight": torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(2)}
        modules = [{**module, HEAD: head} for module in modules]
    whole = score_entries(host, bound, spec, modules, rows, labels, tokens_at_once=10**6)
    assert len({one.scores.tobytes() for one in whole}) == 3
    for tokens in (1, 50, 300):
        found = score_entries(host, bound, spec, modules, rows, labels, tokens_at_once=tokens)
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6, atol=1e-6)
