"""The attention function of every host: SDPA, with the prefix of each entry put before the host's keys and values.

    attend(q, [P_k; k], [P_v; v])          Li & Liang 2021, arXiv 2101.00190, sec. 3

One function serves every family through transformers' attention interface. To make room for a prefix, the mask gets
visible columns and a relative position bias gets zeros, since a prefix has no position. Where attention is causal
without a mask, the causal mask is made explicit so that the prefix stays visible. Where scores are capped (Gemma 2), as
c tanh(s / c), SDPA cannot be used, and attention is computed step by step.

Where gradients are wanted on the processor, attention is computed in float32: in bfloat16, the backward pass of SDPA
takes many times as long there. On a GPU in bfloat16, cuDNN's attention is left out: it makes a plan for every length of
texts that it has not seen, which takes longer than the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from peftport.core.errors import HostRefused
from peftport.hosts.prefixes import Watched, prefixes, watchers

NAME = "peftport"
WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute scaled dot product attention over prefix and text.

    The query is (B, H, T, d); key and value are (B, H_kv, T, d).
    """
    if query.dtype == torch.bfloat16 and query.device.type == "cuda":
        with sdpa_kernel(WITHOUT_PLANS):
            return _attend(module, query, key, value, attention_mask, **options)
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or not torch.is_grad_enabled():
        return _attend(module, query, key, value, attention_mask, **options)
    options["position_bias"] = _wide(options.get("position_bias"))
    out, _ = _attend(module, query.float(), key.float(), value.float(), _wide(attention_mask), **options)
    return out.to(query.dtype), None


def _wide(added: Tensor | None) -> Tensor | None:
    """What is added to scores, in float32; a mask of truth values stays one."""
    return added if added is None or not added.is_floating_point() else added.float()


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if module in watchers:
        scaling = options.get("scaling")
        watchers[module](Watched(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))
    if options.get("s_aux") is not None:
        raise HostRefused(
            "attention: expected scores of tokens only, got sinks (s_aux), which this attention would ignore; give the "
            "block as `heads` instead of `attention` in the layout"
        )
    prefix, cap = prefixes.get(module), options.pop("softcap", None)
    if prefix is None and cap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    is_causal = options.pop("is_causal", None)
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and is_causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[
            None, None
        ]
    if prefix is None:
        return _capped(query, key, value, attention_mask, cap, options.get("scaling")), None
    length = prefix.keys.shape[1]
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (length, 0), value=visible)
    if options.get("position_bias") is not None:
        options["position_bias"] = F.pad(options["position_bias"], (length, 0))
    key = torch.cat([_heads(prefix.keys, key), key], dim=2)
    value = torch.cat([_heads(prefix.values, value), value], dim=2)
    if cap is not None:
        return _capped(query, key, value, attention_mask, cap, options.get("scaling")), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)  # type: ignore[no-any-return]


def _capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, cap: float, scaling: float | None
) -> Tensor:
    """Compute attention whose scores are capped: (B, T, H, d)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = cap * torch.tanh(scores / cap)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask[..., : key.shape[2]], torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask[..., : key.shape[2]]
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous()


def _heads(prefix: Tensor, like: Tensor) -> Tensor:
    """Repeat the prefix of every entry over its own rows of the batch: (K, P, H * d) -> (B, H, P, d) as ``like``."""
    batch, heads, _, width = like.shape
    entries, length, _ = prefix.shape
    split = prefix.to(like.device).view(entries, 1, length, heads, width).transpose(2, 3)  # (K, 1, H, P, d)
    return split.expand(entries, batch // entries, heads, length, width).reshape(batch, heads, length, width)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
