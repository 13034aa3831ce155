"""The attention function of every host: SDPA, with the prefix of each entry put before the host's keys and values.

    attend(q, [P_k; k], [P_v; v])          Li & Liang 2021, arXiv 2101.00190, sec. 3

One function serves every family through transformers' attention interface. To make room for a prefix, the mask gets
visible columns and a relative position bias gets zeros, since a prefix has no position. Where attention is causal
without a mask, the causal mask is made explicit so that the prefix stays visible.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from peftport.hosts.prefixes import Watched, prefixes, watchers

NAME = "peftport"


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute scaled dot product attention over prefix and text.

    The query is (B, H, T, d); key and value are (B, H_kv, T, d).
    """
    if module in watchers:
        scaling = options.get("scaling")
        watchers[module](Watched(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling))
    prefix = prefixes.get(module)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    length = prefix.keys.shape[1]
    is_causal = options.pop("is_causal", None)
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and is_causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[
            None, None
        ]
    if attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (length, 0), value=visible)
    if options.get("position_bias") is not None:
        options["position_bias"] = F.pad(options["position_bias"], (length, 0))
    key = torch.cat([_heads(prefix.keys, key), key], dim=2)
    value = torch.cat([_heads(prefix.values, value), value], dim=2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)  # type: ignore[no-any-return]


def _heads(prefix: Tensor, like: Tensor) -> Tensor:
    """Repeat the prefix of every entry over its own rows of the batch: (K, P, H * d) -> (B, H, P, d) as ``like``."""
    batch, heads, _, width = like.shape
    entries, length, _ = prefix.shape
    split = prefix.to(like.device).view(entries, 1, length, heads, width).transpose(2, 3)  # (K, 1, H, P, d)
    return split.expand(entries, batch // entries, heads, length, width).reshape(batch, heads, length, width)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
