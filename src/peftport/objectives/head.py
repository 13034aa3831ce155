"""head: the host's own trained head, as a ``...ForSequenceClassification`` folder has it. It is frozen, as its host is.

    encoder            what the class of the model does with the first token: pooler, classifier
    encoder-decoder    the last end token, as the decoder reads the text again; classification_head
    decoder            the last token that is no padding; score

The head belongs to the host: a ported module meets the receiver's. What its outputs are is the kind of task's own:
`HeadClasses` scores classes, `HeadNumber` predicts a number in the unit that the head was trained for, `HeadLabels`
says labels, each where its probability is over one half.

Letters: as in `peftport.objectives.base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.libraries import torch
from peftport.hosts.head import UNNAMED, TrainedHead
from peftport.hosts.host import Host
from peftport.objectives.base import Head, Row, decoder_inputs, pad
from peftport.objectives.outputs import ClassOutputs, LabelOutputs, NumberOutput, Outputs
from peftport.tasks.spec import Example, TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

NAME = "head"
PROBLEMS = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}


class Match(NamedTuple):
    """Which output of a head stands for each label of a task, and whether their names say so."""

    outputs: tuple[int, ...]
    named: bool


def matched(head: TrainedHead, task: TaskSpec) -> Match | None:
    """How a head's outputs stand for a task's labels; None where they do not.

    Names are compared without case, and with spaces for ``_`` and ``-``. Where either side has numbers for names, as
    ``LABEL_0`` or ``0``, outputs stand for labels in order, and that is not ``named``.
    """
    if head.problem not in (None, PROBLEMS.get(task.kind)):
        return None
    if task.kind == "regression":
        return Match((0,), True) if len(head.labels) == 1 else None
    if task.kind not in PROBLEMS or len(head.labels) != len(task.labels) or len(task.labels) < 2:
        return None
    trained, wanted = [_plain(label) for label in head.labels], [_plain(label) for label in task.labels]
    if len(set(trained)) == len(trained) and set(trained) == set(wanted):
        return Match(tuple(trained.index(label) for label in wanted), True)
    if head.unnamed or all(UNNAMED.fullmatch(label) for label in task.labels):
        return Match(tuple(range(len(trained))), False)
    return None


def usual(head: TrainedHead, task: TaskSpec) -> bool:
    """Whether a host's head is the default for a task: its labels have the task's names.

    A head that may be of single labels is none for sets of them, unless its folder says so.
    """
    match = matched(head, task)
    return match is not None and match.named and not (task.kind == "multi_label" and head.problem is None)


def unused(head: TrainedHead, task: TaskSpec) -> str:
    """Why a head that a host has is not used with another readout, in one line."""
    match = matched(head, task)
    if match is None:
        why = "it was not trained for what this task asks"
    elif match.named:
        why = "--readout head uses it"
    else:
        why = f"--readout head takes {_paired(head, task, match)}"
    return f"its own trained head, for {_shown(head.labels)}, is not used: {why}"


class HostHead(Outputs):
    """The host's own head on a text, or on a pair of texts read together."""

    name = NAME
    title = "the host's own trained head"
    kinds = ("encoder", "encoder_decoder", "decoder")
    view = "sequence_classification"

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Find which output of the head stands for which label.

        Raises:
            BadRequest: the host's head is for other labels, or another kind of task.

        """
        super().__init__(host, task, max_tokens)
        head = TrainedHead.of({**host.config.to_dict(), "architectures": [type(host.model).__name__]}, host.name)
        match = matched(head, task) if head is not None else None
        if head is None or match is None:
            actual = "no head" if head is None else f"one for {_shown(head.labels)} ({head.problem or 'kind not told'})"
            asked = f"the labels {_shown(task.labels)}" if task.labels else "a number"
            raise BadRequest(
                f"readout head: {host.name}: expected a head for {task.kind} of {asked}, got {actual}; "
                + ("give the task these labels, or " if task.labels and head is not None else "")
                + "use --readout linear"
            )
        self.trained, self.match = head, match

    @property
    def prompt_name(self) -> str | None:
        """The one that is answered, for pairs on a decoder."""
        return self.answered_prompt if self._in_prompt else None

    @property
    def _in_prompt(self) -> bool:
        return len(self.task.fields) > 1 and self.host.kind == "decoder"

    def wording(self, example: Example) -> Example:
        """The text or pair alone, behind the prefix that the host was trained with; a pair on a decoder in a prompt."""
        if isinstance(example, str):
            return self.host.text_prefix + example
        return self.prompted(example) if self._in_prompt else (self.host.text_prefix + example[0], *example[1:])

    def about(self) -> str:
        """Whose head it is, and which labels its outputs were taken for where their names do not say."""
        if self.match.named:
            return f"{self.host.name}: readout head is the host's own trained head, for {_shown(self.trained.labels)}"
        return (
            f"{self.host.name}: the labels of the host's own head are taken in order, as their names do not tell: "
            f"{_paired(self.trained, self.task, self.match)}"
        )

    def outputs(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """The head's logits in the order of the task's labels, (N, C)."""
        return head_logits(self.host, self.host.model, rows, shift)[:, list(self.match.outputs)]


class HeadClasses(HostHead, ClassOutputs):
    """The head of a classifier."""


class HeadNumber(HostHead, NumberOutput):
    """The head of a regression, which predicts numbers in the unit that it was trained for."""


class HeadLabels(HostHead, LabelOutputs):
    """The head of a classifier that gives each label a probability of its own."""


def head_logits(host: Host, model: Any, rows: Sequence[Row], shift: int) -> Tensor:
    """What the head of a model around a host says of each row, (N, C). ``model`` may be the host's own."""
    logits: Tensor = _LOGITS[host.kind](host, model, rows, shift)
    return logits.to(host.device, host.wide_dtype)


def _of_encoder(host: Host, model: Any, rows: Sequence[Row], shift: int) -> Tensor:
    logits: Tensor = model(**pad(rows, host.tokenizer.pad_token_id, host.device)).logits
    return logits


def _of_decoder(host: Host, model: Any, rows: Sequence[Row], shift: int) -> Tensor:
    """At the last token of each row that is not the padding of ``config.json``, whatever a batch is padded with."""
    hidden = host.base(**decoder_inputs(host, rows, shift)).last_hidden_state  # (N, T, D), padded on the left
    padding = host.config.pad_token_id
    last = [max((place for place, token in enumerate(row) if token != padding), default=0) for row in rows]
    start = [hidden.shape[1] - len(row) for row in rows]
    places = torch.tensor(start, device=hidden.device) + torch.tensor(last, device=hidden.device)
    logits: Tensor = model.score(hidden[torch.arange(len(rows), device=hidden.device), places])
    return logits


def _of_encoder_decoder(host: Host, model: Any, rows: Sequence[Row], shift: int) -> Tensor:
    """At the last end token of each row, which the decoder reads shifted by one."""
    end, start = host.config.eos_token_id, int(host.config.decoder_start_token_id)
    if any(end not in row for row in rows):
        raise TaskRefused(
            f"readout head: {host.name}: expected its tokenizer to end each text with token {end}, got one without it; "
            "use --readout linear"
        )
    inputs = pad(rows, host.tokenizer.pad_token_id, host.device)
    ids = inputs["input_ids"]
    shifted = torch.cat([torch.full((len(rows), 1), start, device=ids.device), ids[:, :-1]], dim=1)
    hidden = model.base_model(**inputs, decoder_input_ids=shifted, use_cache=False).last_hidden_state
    places = torch.tensor([len(row) - 1 - row[::-1].index(end) for row in rows], device=hidden.device)
    at = hidden[torch.arange(len(rows), device=hidden.device), places]
    logits: Tensor = model.classification_head(at)
    return logits


_LOGITS = {"encoder": _of_encoder, "decoder": _of_decoder, "encoder_decoder": _of_encoder_decoder}


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


def _paired(head: TrainedHead, task: TaskSpec, match: Match) -> str:
    """Such as ``LABEL_0 for negative, LABEL_1 for positive``."""
    pairs = [f"{head.labels[output]} for {label}" for output, label in zip(match.outputs, task.labels, strict=True)]
    return _shown(pairs)
