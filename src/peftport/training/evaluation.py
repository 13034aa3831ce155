"""Test K modules on the same texts in one pass: the host's matrices are multiplied once for the rows of all modules.

Texts are sorted by length and batched by their number of tokens: many short ones or few long ones.

The predictions for each item are kept, and metrics are computed from them. If a prediction is not finite, the test
fails with a message that says where in the host the first such number occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.core import stopping
from peftport.core.errors import NotFinite
from peftport.core.libraries import without_gradients
from peftport.hosts.host import Host
from peftport.hosts.tracing import where_not_finite
from peftport.modules.module import HEAD, in_host_dtype, stack
from peftport.objectives.base import Objective, Row, row_length
from peftport.tasks.kinds.classification import Scores as Scores
from peftport.techniques.attach import at_once, attached, prefix_length
from peftport.techniques.base import Parameters, TechniqueSpec

# Tokens in one batch, padding included, of all modules together. The value for a processor is measured: with more, the
# activations no longer fit in its caches. An accelerator needs more tokens to be busy; its value is not measured.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_ELSEWHERE = 1024, 16384
MODULES_AT_ONCE = 8


def predict_entries(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec | None,
    modules: Sequence[Parameters],
    rows: Sequence[Row],
    advance: Callable[[int], None] = lambda predictions: None,
    tokens_at_once: int | None = None,
) -> list[npt.NDArray[Any]]:
    """Predict the same N rows with each of K modules of one spec. Returns an array (N, ...) for each module.

    With ``spec`` None, the bare host predicts once. Predictions are in the order of ``rows``. ``tokens_at_once`` limits
    the tokens of a batch, padding included (None: by the device); it changes values only by rounding. ``advance`` is
    called with the number of predictions just made, of K N.
    """
    count = len(modules) if spec is not None else 1
    together = at_once(host, spec) or MODULES_AT_ONCE
    tokens = tokens_at_once or (TOKENS_AT_ONCE if host.device.type == "cpu" else TOKENS_AT_ONCE_ELSEWHERE)
    predicted: list[npt.NDArray[Any]] = []
    for begin in range(0, count, together):
        group = list(modules[begin : begin + together])
        predicted += _predict_group(host, objective, spec, group, rows, tokens, advance)
    return predicted


def score_entries(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec | None,
    modules: Sequence[Parameters],
    rows: Sequence[Row],
    labels: npt.NDArray[np.int64],
    advance: Callable[[int], None] = lambda predictions: None,
    tokens_at_once: int | None = None,
) -> list[Scores]:
    """Test K modules on N rows of a classification task with the classes ``labels`` (N,); see `predict_entries`."""
    values = predict_entries(host, objective, spec, modules, rows, advance, tokens_at_once)
    return [Scores(of_module, labels) for of_module in values]


def batches_of_tokens(rows: Sequence[Row], entries: int, tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of rows, from short to long, in batches of at most ``tokens`` tokens, padding included.

    A batch has at least one row. ``entries`` is the number of modules: a row counts once for each of them.
    """
    lengths = np.array([row_length(row) for row in rows], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * entries * lengths[order[end]] > tokens:
            yield order[begin:end]
            begin = end


@without_gradients
def _predict_group(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec | None,
    modules: list[Parameters],
    rows: Sequence[Row],
    tokens: int,
    advance: Callable[[int], None],
) -> list[npt.NDArray[Any]]:
    matrices = in_host_dtype(host, stack(modules, host.wide_dtype) if spec is not None else {})
    entries = max(1, len(modules))
    picks = [*batches_of_tokens(rows, entries, tokens)][::-1]  # long ones first, so that the time left is not too short
    parts: list[npt.NDArray[Any]] = []
    with attached(host, spec, matrices):
        for pick in picks:
            batch = [rows[i] for i in pick] * entries
            out = objective.predict(batch, matrices.get(HEAD), prefix_length(spec, host))  # (K B, ...)
            parts.append(out.reshape(entries, len(pick), *out.shape[1:]))
            advance(entries * len(pick))
            stopping.check()
        back = np.argsort(np.concatenate(picks), kind="stable")
        values = np.concatenate(parts, axis=1)[:, back]  # (K, N, ...)
        _check_finite(host, objective, spec, matrices, rows, values)
    return list(values)


def _check_finite(
    host: Host,
    objective: Objective,
    spec: TechniqueSpec | None,
    matrices: Parameters,
    rows: Sequence[Row],
    values: npt.NDArray[Any],
) -> None:
    """Refuse predictions (K, N, ...) that are NaN or infinite, and say where in the host they first occur."""
    wrong = np.array([~objective.finite(of_module) for of_module in values])  # (K, N)
    if not wrong.any():
        return
    entry, item = (int(place) for place in np.argwhere(wrong)[0])
    what = f"module {entry} of {len(values)} on {host.name}" if len(values) > 1 else f"{host.name}"
    again = partial(objective.predict, [rows[item]] * len(values), matrices.get(HEAD), prefix_length(spec, host))
    raise NotFinite(
        f"{what}: expected finite scores, got NaN or infinity for {int(wrong[entry].sum())} of {len(rows)} "
        f"items, {where_not_finite(host, again)}; no accuracy is read from these, use another host or module"
    )
