"""Soft prompts of decoders that real `peft` made, read as prefixes of the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import get_peft_model

from peftport.core.errors import ModuleRefused
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.folders import read_module
from peftport.modules.module import check_fits, in_host_dtype, stack
from peftport.techniques.attach import attached
from pico import pico_model, word_tokenizer

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
IDS = torch.randint(2, 24, (2, 7), generator=torch.Generator().manual_seed(3))
LENGTH = 3
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "prefix tuning": ("llama", "PrefixTuningConfig", {}),
    "prefix tuning through an MLP": (
        "gpt2",
        "PrefixTuningConfig",
        {"prefix_projection": True, "encoder_hidden_size": 6},
    ),
    "prompt tuning": ("llama", "PromptTuningConfig", {}),
    "P-tuning": ("gpt2", "PromptEncoderConfig", {"encoder_hidden_size": 8}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_soft_prompt_of_a_decoder_is_a_prefix(name: str, tmp_path: Path) -> None:
    model_type, config, settings = CASES[name]
    pico_model(model_type).save_pretrained(tmp_path / "host")
    word_tokenizer().save_pretrained(tmp_path / "host")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "host")
    torch.manual_seed(2)
    made = getattr(peft, config)(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, **settings)
    model = get_peft_model(base, made).eval()
    for parameter in model.prompt_encoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(tmp_path / "peft")
    host = load_host(str(tmp_path / "host"), "language_model")
    module = read_module(tmp_path / "peft", open_host(str(tmp_path / "host")))
    check_fits(module, host)
    positions = torch.arange(LENGTH, LENGTH + IDS.shape[1]).expand(IDS.shape)
    with torch.no_grad():
        want = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -IDS.shape[1] :]
        with attached(host, module.spec, in_host_dtype(host, stack([module.matrices]))):
            got = host.model(input_ids=IDS, position_ids=positions).logits
        bare = host.model(input_ids=IDS).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (bare - want).abs().max() > 1e-2


def test_a_soft_prompt_of_an_encoder_is_refused(tmp_path: Path) -> None:
    pico_model("bert", view="body").save_pretrained(tmp_path / "host")
    word_tokenizer().save_pretrained(tmp_path / "host")
    made = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH)
    get_peft_model(transformers.AutoModel.from_pretrained(tmp_path / "host"), made).save_pretrained(tmp_path / "peft")
    with pytest.raises(ModuleRefused, match="expected a soft prompt of a decoder.*keep it on its host$"):
        read_module(tmp_path / "peft", open_host(str(tmp_path / "host")))
