"""Hosts small enough to reason about: random weights, two layers, width 16, a tokenizer of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.host import Host
from peftport.hosts.layouts import layout_for
from peftport.hosts.load import wrap_host
from peftport.hosts.views import auto_class
from peftport.modules.module import fresh_module
from peftport.objectives.base import Row, decoder_inputs, pad
from peftport.tasks.kinds.classification import Classification
from peftport.techniques import make_spec
from peftport.techniques.base import Parameters, TechniqueSpec

WORDS = [
    "good",
    "bad",
    "film",
    "plot",
    "dull",
    "fine",
    "the",
    "a",
    "was",
    "it",
    "positive",
    "negative",
    "great",
    "terrible",
    "movie",
    "is",
    "this",
    "review",
    "or",
    ".",
]
SPECIAL = ["<pad>", "</s>", "<unk>", "<mask>", "<s>"]
DECODER = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32)
ENCODER = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
T5 = dict(d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=3)
HEADS = dict(encoder_attention_heads=2, decoder_attention_heads=2)
SMALL: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "electra": {**ENCODER, "embedding_size": 16},
    "distilbert": dict(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "t5": {**T5, "feed_forward_proj": "gated-gelu"},
    "mt5": T5,
    "bart": dict(d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, **HEADS),
    "llama": DECODER,
    "mistral": {**DECODER, "head_dim": 4},
    "qwen2": DECODER,
    "qwen3": {**DECODER, "head_dim": 4},
    "gemma": {**DECODER, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
    "gemma3_text": {
        **DECODER,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "query_pre_attn_scalar": 8,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": dict(n_embd=16, n_layer=2, n_head=2),
    "opt": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16),
    "phi": {**ENCODER, "partial_rotary_factor": 0.5},
}
# Families that the contract tests draw from; those above, all of them run on.
POSITIONS = dict(max_position_embeddings=64)
BART = SMALL["bart"]
EXPERTS = dict(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8)
LATENT = dict(
    num_key_value_heads=4, n_routed_experts=3, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1,
    first_k_dense_replace=1, kv_lora_rank=6, q_lora_rank=6, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=4,
    moe_intermediate_size=8,
)  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "albert": {**ENCODER, "embedding_size": 8},
    "bloom": dict(hidden_size=16, n_layer=2, n_head=4),
    "camembert": ENCODER,
    "cohere": DECODER,
    "deberta-v2": {
        **ENCODER,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_biased_input": False,
    },
    "deepseek_v3": {**DECODER, **LATENT},
    "falcon": dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4),
    "gemma2": {**SMALL["gemma3_text"], "attn_logit_softcapping": 2.0},
    "glm": {**DECODER, "head_dim": 4},
    "gpt_bigcode": dict(n_embd=16, n_layer=2, n_head=4),
    "gpt_neox": ENCODER,
    "gptj": dict(n_embd=16, n_layer=2, n_head=2, rotary_dim=4),
    "granite": {**DECODER, "attention_multiplier": 0.3, "residual_multiplier": 0.7},
    "led": {
        **{key: size for key, size in BART.items() if key != "max_position_embeddings"},
        "attention_window": [8, 8],
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
    "mbart": BART,
    "mixtral": {**DECODER, "num_local_experts": 3},
    "modernbert": {**ENCODER, "local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 4},
    "mpnet": ENCODER,
    "olmo2": DECODER,
    "pegasus": {**BART, **POSITIONS},
    "phi3": DECODER,
    "qwen2_moe": {**DECODER, **EXPERTS},
    "qwen3_moe": {**DECODER, **EXPERTS, "head_dim": 4},
    "smollm3": DECODER,
    "starcoder2": DECODER,
    "umt5": {**T5, "feed_forward_proj": "gated-gelu"},
}
CONFIGS = SMALL | MORE


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>"
    )


def pico_model(model_type: str, seed: int = 0, view: str = "language_model", **changes: Any) -> nn.Module:
    layout = layout_for({"model_type": model_type}, "pico")
    shared = dict(vocab_size=len(SPECIAL) + len(WORDS), pad_token_id=0, eos_token_id=1, bos_token_id=4)
    if layout.kind == "encoder_decoder":
        shared["decoder_start_token_id"] = 0
    config = transformers.AutoConfig.for_model(model_type, **{**shared, **CONFIGS[model_type], **changes})
    torch.manual_seed(seed)
    # grouped_mm, the default of experts, takes no float64, in which most tests compare
    model = auto_class(layout, view).from_config(config, experts_implementation="eager")
    for parameter in model.parameters():  # random enough that every part matters
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def pico_host(
    model_type: str, seed: int = 0, view: str = "language_model", dtype: torch.dtype = torch.float32, **changes: Any
) -> Host:
    model = pico_model(model_type, seed, view, **changes).to(dtype)
    layout = layout_for({"model_type": model_type}, "pico")
    mark = Fingerprint(
        name=f"pico-{model_type}", family=layout.family, model_type=model_type, layers=2, width=16,
        architecture=model_type, weights=str(seed), tokenizer="words",
    )  # fmt: skip
    return wrap_host(f"pico-{model_type}", model, word_tokenizer(), layout, mark, None, "")


# Every technique small: no test may leave one of them out.
SPECS: dict[str, TechniqueSpec] = {
    "lora": make_spec("lora", {"rank": 2, "alpha": 3.0}),
    "adapter": make_spec("adapter", {"reduction_factor": 4}),
    "compacter": make_spec("compacter", {"phm_dim": 4, "reduction_factor": 2}),
    "prefix": make_spec("prefix", {"length": 3, "hidden": 6}),
}
TOY = Classification(
    name="toy",
    labels=("negative", "positive"),
    words=("negative", "positive"),
    descriptions=("a terrible film .", "a great film ."),
    prompt="{text} is this review positive or negative",
    causal_prompt="review {text} it is",
    masked_prompt="it was {mask} . {text}",
    masked_words=("terrible", "great"),
    domain="toy",
)


def random_matrices(host: Host, spec: TechniqueSpec, seed: int = 3, std: float = 0.3) -> Parameters:
    """A module's matrices on a host, every number from N(0, std^2)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        slot: {name: std * torch.randn(tensor.shape, generator=generator) for name, tensor in own.items()}
        for slot, own in fresh_module(host, spec, 0).matrices.items()
    }


def inputs_of(host: Host, rows: Sequence[Row], shift: int = 0) -> dict[str, Any]:
    """A batch as the readouts pad it; encoder-decoders are told the first four tokens of each row."""
    if host.kind == "decoder":
        return decoder_inputs(host, rows, shift)
    inputs: dict[str, Any] = pad(rows, host.tokenizer.pad_token_id, host.device)
    if host.kind == "encoder_decoder":
        told = torch.tensor([row[:4] for row in rows], device=host.device)
        inputs |= {"decoder_input_ids": told, "use_cache": False}
    return inputs
