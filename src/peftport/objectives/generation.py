"""Generation of the answers of K modules at once, with a cache of keys and values.

    y_t = argmax p(y | prompt, y_<t)        until a token that ends an answer, or a number of tokens

That is greedy; with numbers drawn between 0 and 1, a token is sampled by each of them instead, at temperature 1:

    y_t = the first token y at which the sum of p over the tokens up to y exceeds u_t

Decoders read prompts padded on the left, so that all end together; an encoder-decoder encodes each prompt once.

Shapes: N rows of all entries, T tokens of a prompt, V vocabulary, S generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from peftport.core.libraries import torch, without_gradients
from peftport.hosts.host import Host
from peftport.objectives.base import Row, decoder_inputs, pad

if TYPE_CHECKING:
    from torch import Tensor

# The token of each row that was chosen last, (N, 1) -> logits (N, V)
NextLogits: TypeAlias = "Callable[[Tensor], Tensor]"


@without_gradients
def generated(
    host: Host,
    prompts: Sequence[Row],
    ends: Collection[int],
    most: int,
    shift: int,
    draws: npt.NDArray[np.float64] | None = None,
) -> list[Row]:
    """The tokens that each prompt is continued with, without the one that ends them.

    Args:
        host: a decoder or an encoder-decoder, with modules attached or alone.
        prompts: N rows, those of the entries one entry after the other.
        ends: the tokens that end an answer.
        most: how many tokens are generated at most.
        shift: positions before the text, as a prefix takes them.
        draws: numbers from 0 up to 1 to sample by, (N, most); None takes the likeliest tokens.

    Returns:
        For each row, its tokens.

    """
    starting = _from_encoder if host.kind == "encoder_decoder" else _from_prompt
    logits, following = starting(host, prompts, shift)
    stop = torch.tensor(sorted(ends), dtype=torch.long, device=logits.device)
    chosen: list[Tensor] = []
    going = torch.ones(len(prompts), dtype=torch.bool, device=logits.device)
    for step in range(most):
        chosen.append(logits.argmax(-1) if draws is None else _sampled(logits, draws[:, step]))
        going &= ~torch.isin(chosen[-1], stop)
        if step + 1 == most or not going.any():
            break
        logits = following(chosen[-1][:, None])
    tokens = torch.stack(chosen, dim=1).tolist() if chosen else [[] for _ in prompts]
    return [_until(row, set(ends)) for row in tokens]


def _sampled(logits: Tensor, draws: npt.NDArray[np.float64]) -> Tensor:
    """The token of each row that a number u (N,) falls on when the probabilities are laid end to end, (N,)."""
    ends = logits.double().softmax(-1).cumsum(-1)  # (N, V)
    return (ends <= torch.from_numpy(draws)[:, None].to(ends) * ends[:, -1:]).sum(-1)


def _until(tokens: list[int], ends: set[int]) -> Row:
    """The tokens before the first that ends them."""
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:end])


def _from_prompt(host: Host, prompts: Sequence[Row], shift: int) -> tuple[Tensor, NextLogits]:
    """The logits after each prompt of a decoder, and those after each further token."""
    inputs = decoder_inputs(host, prompts, shift) | {"use_cache": True}
    out = host.model(**inputs, logits_to_keep=1)
    cache, mask = out.past_key_values, inputs["attention_mask"]
    place = inputs["position_ids"][:, -1:] if host.takes_positions else None

    def following(token: Tensor) -> Tensor:
        nonlocal mask, place, cache
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = {"input_ids": token, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        if place is not None:
            place = place + 1
            inputs["position_ids"] = place
        out = host.model(**inputs)
        cache = out.past_key_values
        return _last(out)

    return _last(out), following


def _from_encoder(host: Host, prompts: Sequence[Row], shift: int) -> tuple[Tensor, NextLogits]:
    """The logits of the first token of an encoder-decoder's answers, and those after each further token."""
    inputs = pad(prompts, host.tokenizer.pad_token_id, host.device)
    encoded = (host.model.get_encoder()(**inputs).last_hidden_state,)  # type: ignore[operator]
    cache: Any = None

    def following(token: Tensor) -> Tensor:
        nonlocal cache
        out = host.model(
            encoder_outputs=encoded, attention_mask=inputs["attention_mask"], decoder_input_ids=token,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = out.past_key_values
        return _last(out)

    start = torch.full((len(prompts), 1), int(host.config.decoder_start_token_id), device=host.device)
    first, settings = following(start), getattr(host.model, "generation_config", None)
    forced = getattr(settings, "forced_bos_token_id", None)
    if forced is not None:  # BART says its start token first, whatever is asked
        first = torch.full_like(first, -torch.inf).index_fill(-1, torch.tensor([forced], device=first.device), 0.0)
    return first, following


def _last(out: Any) -> Tensor:
    logits: Tensor = out.logits[:, -1]
    return logits
