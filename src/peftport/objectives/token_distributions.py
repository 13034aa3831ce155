"""Token-level distillation: a student learns a teacher's whole distribution at every place of the teacher's answers.

    loss = sum over places of KL(p || q) = sum_v p_v (log p_v - log q_v)        p: the teacher's, q: the student's

This is Hinton et al. 2015, arXiv 1503.02531, at temperature 1, place by place. Of the teacher only the k likeliest
tokens of a place are kept, and the probability of all others together, which is one more outcome here and in q. The sum
is then a lower bound of the whole divergence (data processing), and both are zero for p = q. For k = 32, 500 answers of
200 tokens take 26 MB, however large the vocabulary is, and the teacher runs once for each answer; to compute its
logits again in every step would take a forward pass of the origin, with the old module, for each batch.

Letters: N rows, S places of a row, M places of all rows, k tokens kept, V vocabulary, D width.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from peftport.core.libraries import torch, without_gradients
from peftport.hosts.host import Host
from peftport.objectives.answer_tokens import TokenDistributions
from peftport.objectives.token_likelihood import counted_states, logits_of, places_at_once, sums_of_places

if TYPE_CHECKING:
    from torch import Tensor


@without_gradients
def likeliest_tokens(
    host: Host, inputs: dict[str, Any], counted: Tensor, known: int, most: int
) -> list[TokenDistributions]:
    """The distributions at the counted places of each of N rows.

    Args:
        host: a host with a language-model head.
        inputs: what its model takes.
        counted: which places count, (N, S).
        known: the tokens are of the first so many ids, which both hosts have; further ones are among the others.
        most: how many tokens are kept at most, k.

    """
    tokens: list[Tensor] = []
    logs: list[Tensor] = []
    for some in torch.split(counted_states(host, inputs, counted), places_at_once(host)):
        logits = logits_of(host, some)
        ids = logits[:, :known].topk(min(most, known, logits.shape[-1])).indices  # (m, k)
        tokens.append(ids.cpu())
        logs.append(_outcomes(logits, ids).cpu())
    sizes = counted.sum(1).tolist()
    by_row = zip(torch.split(torch.cat(tokens).int(), sizes), torch.split(torch.cat(logs), sizes), strict=True)
    return [TokenDistributions(ids.numpy(), own.numpy()) for ids, own in by_row]


def divergences(host: Host, inputs: dict[str, Any], counted: Tensor, taught: list[TokenDistributions]) -> Tensor:
    """The sum over the counted places of each row of the divergence of the host from what was taught there, (N,)."""
    ids = torch.cat([torch.from_numpy(each.tokens) for each in taught]).long()  # (M, k)
    logs = torch.cat([torch.from_numpy(each.log_probabilities) for each in taught])  # (M, k + 1)
    places = torch.arange(len(ids), device=counted.device)
    return sums_of_places(host, inputs, counted, places, partial(_divergence, host, ids, logs))


def _divergence(host: Host, ids: Tensor, logs: Tensor, states: Tensor, places: Tensor) -> Tensor:
    """KL(p || q) at places (m,) with the states (m, D), (m,)."""
    logits = logits_of(host, states)
    places = places.cpu()
    log_p = logs[places].to(logits)  # (m, k + 1)
    log_q = _outcomes(logits, ids[places].to(logits.device))
    told = torch.where(log_p > -torch.inf, log_p - log_q, 0.0)  # an outcome that the teacher excludes teaches nothing
    return (log_p.exp() * told).sum(-1)


def _outcomes(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the tokens (m, k) and of all others together, (m, k + 1)."""
    whole = logits.logsumexp(-1, keepdim=True)
    if ids.shape[-1] == logits.shape[-1]:  # there are no others
        others = torch.full_like(whole, -torch.inf)
    else:
        others = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True) - whole
    return torch.cat([logits.gather(-1, ids) - whole, others], dim=-1)
