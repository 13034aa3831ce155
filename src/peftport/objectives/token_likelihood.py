"""The log-probability of given tokens, of whose logits only a part is in memory at a time.

    log p(y_i | h_i) = z_i[y_i] - logsumexp(z_i)        z_i = head(h_i), one of M places

A place has as many logits as the vocabulary has tokens (262,144 in Gemma 3), and the backward pass would keep several
times as many. So the host runs up to its head, only the places whose tokens count are taken, and the head and the
log-probability are computed for some of them at a time. A log-probability depends on the state of its own place alone;
so its gradient is computed at once and kept, (M, D), and the backward pass only scales it.

Some models change what their head gives: they add a bias, scale or cap it. That is done here as well, and the first
batch of every model shows whether it is all that the model does; if it is not, the host is refused.

Letters: N rows, S places of a row, M places that count, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from peftport.core.errors import HostRefused
from peftport.hosts.host import Host

LOGITS_AT_ONCE = 2**24  # 64 MiB of float32
MULTIPLIERS, DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)  # Cohere, Falcon-H1; Granite
_confirmed: WeakSet[nn.Module] = WeakSet()  # models whose logits were found to be those of `logits_of`
OfPlaces = Callable[[Tensor, Tensor], Tensor]  # states (m, D) and what is given (m, ...) -> values (m,)


def token_log_likelihood(host: Host, inputs: dict[str, Any], tokens: Tensor, counted: Tensor) -> Tensor:
    """The sum over the counted places of each row of the log-probability of its token, (N,).

    Args:
        host: a host with a language-model head.
        inputs: what its model takes.
        tokens: the token at each place, (N, S).
        counted: which places count, (N, S); of the places that the model has logits for, the first S are meant.

    """
    return sums_of_places(host, inputs, counted, tokens[counted.bool()], partial(_of_places, host))


def sums_of_places(host: Host, inputs: dict[str, Any], counted: Tensor, given: Tensor, function: OfPlaces) -> Tensor:
    """The sum over the counted places of each row of a function of the state there and of what is given for it, (N,).

    ``given`` (M, ...) is in the order of the rows and their places; ``inputs`` and ``counted`` are as above.
    """
    where, states = counted.bool(), counted_states(host, inputs, counted)
    found: Tensor = _ByPlace.apply(states, given, function, places_at_once(host))  # type: ignore[no-untyped-call]
    found = found.to(host.device)
    rows = where.nonzero()[:, 0].to(found.device)
    return found.new_zeros(len(counted)).index_add(0, rows, found)


def counted_states(host: Host, inputs: dict[str, Any], counted: Tensor) -> Tensor:
    """What the head of the host reads at the counted places, (M, D)."""
    states = _states_before_head(host, inputs)[:, : counted.shape[1]]  # (N, S, D)
    return states[counted.bool().to(states.device)]


def places_at_once(host: Host) -> int:
    """Of how many places the logits are in memory at a time."""
    return max(1, LOGITS_AT_ONCE // int(host.config.vocab_size))


def _states_before_head(host: Host, inputs: dict[str, Any]) -> Tensor:
    """What the head of the host reads, (N, S, D); the head itself gets no place, but one when a model runs first."""
    seen: list[Tensor] = []
    first = host.model not in _confirmed

    def keep(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0])
        return (args[0][:1, -1:] if first else args[0][:, :0],)

    handle = _head(host).register_forward_pre_hook(keep)
    try:
        logits = host.model(**inputs).logits
    finally:
        handle.remove()
    [states] = seen
    if first:
        _confirm(host, states[:1, -1:], logits)
    return states


@torch.no_grad()
def _confirm(host: Host, states: Tensor, theirs: Tensor) -> None:
    """Refuse a host whose model has other logits (1, 1, V) at a place than `logits_of` its state (1, 1, D).

    Raises:
        HostRefused: the model does more to the scores of its head than is known here.

    """
    ours = logits_of(host, states)
    theirs = theirs.to(ours)
    if not (ours.isfinite().all() and theirs.isfinite().all()):  # whoever reads them says where that begins
        return
    rounding = max(1e-5, 4 * torch.finfo(host.dtype).eps)  # that of numbers in the host's format
    if not torch.allclose(ours, theirs, rtol=rounding, atol=rounding * float(ours.abs().max())):
        raise HostRefused(
            f"{host.name}: expected a model that scores tokens by its head, with a bias, a scale or a cap at most, "
            f"{type(host.model).__name__} does more to the scores; name another readout (--readout), or another host"
        )
    _confirmed.add(host.model)


def _head(host: Host) -> nn.Module:
    head: nn.Module = host.model.get_output_embeddings()  # type: ignore[operator]
    return head


def _of_places(host: Host, states: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities (m,) of the tokens (m,) at places with the states (m, D), as the host's model has them."""
    logits = logits_of(host, states)
    chosen = logits.gather(-1, tokens.to(logits.device).unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def logits_of(host: Host, states: Tensor) -> Tensor:
    """The logits (m, V) at places with the states (m, D), as the host's model has them."""
    logits: Tensor = _head(host)(states)  # (m, V)
    scales = {name: scale for name in (*MULTIPLIERS, *DIVISORS) if (scale := getattr(host.config, name, None))}
    for name, scale in scales.items():
        logits = logits * scale if name in MULTIPLIERS else logits / scale
    bias = getattr(host.model, "final_logits_bias", None)  # BART has one, of zeros unless it was trained
    cap = getattr(host.config, "final_logit_softcapping", None)  # Gemma may have one
    logits = logits if bias is None else logits + bias.to(logits.device)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.to(host.wide_dtype)


class _ByPlace(torch.autograd.Function):
    """A function of each place alone with its gradient, computed for some places at a time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, function: OfPlaces, at_once: int) -> Tensor:
        """Return the values, (M,); keep the gradient of each by its own state, (M, D), where one is asked for."""
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for some, own in zip(torch.split(states, at_once), torch.split(tokens, at_once), strict=True):
            if not ctx.needs_input_grad[0]:
                values.append(function(some, own))
                continue
            leaf = some.detach().requires_grad_()
            with torch.enable_grad():
                value = function(leaf, own)
                gradients += torch.autograd.grad(value.sum(), leaf)
            values.append(value.detach())
        ctx.save_for_backward(*[torch.cat(gradients)] if gradients else [])
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Scale the gradient of each place by that of its value."""
        [gradient], [scale] = ctx.saved_tensors, grads
        return gradient * scale.to(gradient).unsqueeze(-1), None, None, None
