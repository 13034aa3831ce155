"""(IA)3 of the recipe against the `peft` library: equal vectors, equal outputs."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from oracles.agreement import TOLERANCE, batch, random_matrices
from peftport.modules.module import stack
from peftport.techniques import TECHNIQUES
from peftport.techniques.attach import attached
from pico import pico_host, pico_model
from techniques.ia3 import Ia3, Ia3Spec

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LEAVES: dict[str, list[str]] = {
    "bert": ["key", "value", "intermediate.dense"],
    "t5": ["k", "v", "wi_1"],
    "llama": ["k_proj", "v_proj", "up_proj"],
    "phi": ["k_proj", "v_proj", "fc1"],
}


@pytest.mark.parametrize("model_type", LEAVES)
def test_ia3_is_that_of_peft(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peft's vectors are the whole factor, ours what is added to one."""
    monkeypatch.setitem(TECHNIQUES, "ia3", Ia3())
    host, spec = pico_host(model_type), Ia3Spec()
    matrices, inputs = random_matrices(host, spec), batch(host)
    config = peft.IA3Config(target_modules=LEAVES[model_type], feedforward_modules=[])
    model: Any = peft.get_peft_model(pico_model(model_type), config).eval()
    prefix = "" if host.base is host.model else host.model.base_model_prefix + "."
    for name, own in matrices.items():
        layer = model.get_submodule(f"base_model.model.{prefix}{host.slots[name].path}")
        layer.ia3_l["default"].data = 1 + own["l"].unsqueeze(1)
    assert len(matrices) == sum("ia3_l" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        theirs, bare = model(**inputs).logits, host.model(**inputs).logits
        with attached(host, spec, stack([matrices], host.dtype)):
            ours = host.model(**inputs).logits
    told = inputs["attention_mask"].bool() if "decoder_input_ids" not in inputs else slice(None)
    largest = float(theirs[told].abs().max())
    assert float((ours - theirs)[told].abs().max()) <= TOLERANCE * largest < float((ours - bare)[told].abs().max())
