"""Scores of tokens are those of the model itself, whatever it does to what its head gives; else the host is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from peftport.core.errors import HostRefused
from peftport.hosts.host import Host
from peftport.hosts.layouts import layout_for
from peftport.objectives import bind_objective
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.task import Split
from pico import CONFIGS, DECODER, pico_host

# What models of these types do to the scores of their heads, by other numbers than those that change nothing.
CHANGED: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 8.0},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 2.0},
}
# Types that no layout names; their linear maps are found in the model.
STRANGERS: dict[str, dict[str, Any]] = {
    "cohere2": {**DECODER, "logit_scale": 0.3, "head_dim": 4},
    "nanochat": {**DECODER, "final_logit_softcapping": 2.0},
    "granitemoe": {**DECODER, "logits_scaling": 8.0, "num_local_experts": 2},
}
GENERATORS = [name for name in sorted(CONFIGS) if layout_for({"model_type": name}, "pico").kind != "encoder"]


def objective_on(host: Host) -> AnswerTokens:
    spec = Completion.read("answers", Columns("answers", {"text": ["a"]}, ["b"]), Wording(template="none")).spec
    found = bind_objective("answer_tokens", host, spec, 32)
    assert isinstance(found, AnswerTokens)
    return found


def rows_of(objective: AnswerTokens) -> list[Any]:
    targets = np.empty(3, dtype=object)
    targets[:] = [("good bad . film film",), ("dull",), ("it is a fine film .",)]
    return objective.encode_split(Split(("0", "1", "2"), ("the film was good", "a plot", "it is"), targets)).rows


def plain(host: Host, row: Any) -> float:
    """The log-likelihood of an answer by the model's own logits, read alone."""
    target = torch.tensor(row.target)
    if host.kind == "encoder_decoder":
        start = torch.tensor([[int(host.config.decoder_start_token_id), *row.target[:-1]]])
        logits = host.model(input_ids=torch.tensor([row]), decoder_input_ids=start, use_cache=False).logits[0]
    else:
        whole = torch.tensor([[*row, *row.target]])
        logits = host.model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False).logits[0]
        logits = logits[len(row) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, target[:, None]).sum())


@pytest.mark.parametrize("model_type", [*GENERATORS, *STRANGERS])
def test_likelihoods_are_those_of_the_model(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if model_type in STRANGERS:
        monkeypatch.setitem(CONFIGS, model_type, STRANGERS[model_type])
    dtype = torch.float32 if model_type == "bloom" else torch.float64  # BLOOM takes no padding in float64
    host = pico_host(model_type, dtype=dtype, **CHANGED.get(model_type, {}))
    objective = objective_on(host)
    rows = rows_of(objective)
    with torch.no_grad():
        for _ in range(2):  # the first time, the model is tried as well
            found = objective.predict(rows, None, 0)["log_likelihood"]
            np.testing.assert_allclose(found, [plain(host, row) for row in rows], rtol=1e-5)  # T5 norms in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["llama", *CHANGED])
def test_rounding_refuses_no_host(model_type: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        host = pico_host(model_type, seed, dtype=dtype, **CHANGED.get(model_type, {}))
        objective = objective_on(host)
        assert np.isfinite(objective.predict(rows_of(objective), None, 0)["log_likelihood"]).all()


@pytest.mark.parametrize("model_type", ["llama", "t5"])
def test_a_model_that_does_more_to_its_scores_is_refused(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = pico_host(model_type)
    objective, own = objective_on(host), host.model.forward
    monkeypatch.setattr(host.model, "forward", lambda **given: SimpleNamespace(logits=1.1 * own(**given).logits))
    for _ in range(2):
        with pytest.raises(HostRefused, match=f"pico-{model_type}: expected a model that scores tokens by its head"):
            objective.predict(rows_of(objective), None, 0)
