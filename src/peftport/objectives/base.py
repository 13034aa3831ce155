"""An objective: how a task is put to a host. It encodes examples as token rows, gives their loss, and predicts.

An objective is bound to one host and one task. Users know it as the readout. Where a host is a BERT-like encoder, two
fields are the tokenizer's own pair, with token types where the host has them; elsewhere a prompt names both.

Letters: K entries, B rows an entry, N = K B rows of all entries, T tokens, C labels, V vocabulary, D width.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.libraries import torch
from peftport.core.scale import Scale
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import HostKind
from peftport.objectives.cuts import Cuts, CutTexts
from peftport.tasks.kinds.classification import Classification
from peftport.tasks.spec import Example, Targets, TaskSpec, texts_of
from peftport.tasks.task import Split

if TYPE_CHECKING:
    from torch import Tensor

Row: TypeAlias = tuple[int, ...]  # token ids of one example, special tokens included
HeadMatrices: TypeAlias = "dict[str, Tensor]"  # an objective's own matrices in one module
Head: TypeAlias = "Mapping[str, Tensor] | None"  # those of K modules, stacked


class PairRow(tuple[int, ...]):
    """A row of two fields on a host that tells them apart: beside each token id its token type, 0 or 1."""

    types: Row

    def __new__(cls, ids: Iterable[int], types: Iterable[int]) -> Self:
        """Of token ids and as many token types."""
        row = super().__new__(cls, ids)
        row.types = tuple(types)
        return row


def row_length(row: Row) -> int:
    """How many tokens a host reads of a row: its own, and those of a text that a row may carry.

    It may carry the text that is its ``target``, or a ``second`` text that is read apart from the first.
    """
    return len(row) + len(getattr(row, "target", ())) + len(getattr(row, "second", ()))


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split as an objective trains and tests on it: N rows, and what is right for each of them.

    Attributes:
        rows: the rows, which may carry more than the example (`Objective.encode_split`).
        targets: (N, ...), what the loss takes; numbers.

    """

    rows: list[Row]
    targets: Targets

    def __len__(self) -> int:
        """The number of items."""
        return len(self.rows)


class Objective(ABC):
    """One way to train and test a task, bound to one host and one task. The task's kind admits it by its name.

    ``kinds`` are the kinds of host that it reads, ``serves`` the kinds of task that it is for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[tuple[HostKind, ...]]
    view: ClassVar[View]
    serves: ClassVar[tuple[str, ...]] = ("classification",)
    certain: ClassVar[bool] = False  # whether what it predicts for an item has a probability

    def __init__(self, host: Host, task: TaskSpec, max_tokens: int) -> None:
        """Bind to a host and a task. Texts are cut to ``max_tokens`` tokens; prompts around them are kept whole.

        Raises:
            BadRequest: so few tokens that a field would be left with none.

        """
        self.host, self.task, self.max_tokens = host, task, max_tokens
        self.cuts = Cuts()
        if max_tokens < len(task.fields):
            raise BadRequest(
                f"--max-tokens {max_tokens}: expected at least {len(task.fields)}, a token for each of "
                f"{' and '.join(task.fields)}; give more"
            )

    @abstractmethod
    def wording(self, example: Example) -> Example:
        """The example as the host reads it, prompt included: a text, or two that the tokenizer encodes as a pair."""

    @property
    def prompt_name(self) -> str | None:
        """Which of the task's prompts the host reads; None: it reads the texts alone."""
        return None

    @property
    def answered_prompt(self) -> str:
        """The name of the prompt that hosts of this kind answer, where they generate."""
        return "prompt" if self.host.kind == "encoder_decoder" else "causal_prompt"

    def unprompted(self) -> str:
        """Why a prompt that the user gave does not act here, in one line; empty where it acts, or none was given."""
        name, prompts = self.prompt_name, self.task.own_prompts
        if not prompts or name in prompts:
            return ""
        if name is None:
            why = f"with readout {self.name}, {self.host.name} reads the texts alone"
        elif name == "masked_prompt":
            why = (
                f"{self.host.name} is a masked language model and reads {getattr(self.task, name)!r}; give a prompt "
                "with {mask} where the label's word goes"
            )
        else:
            why = f"{self.host.name} reads what stands before {{mask}}, which lacks a text; put the texts before it"
        return f"--prompt does not act here: {why}"

    @abstractmethod
    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """The loss of each row, (N,). targets (N, ...). ``shift``: positions before the text."""

    @abstractmethod
    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """The predicted values, (N, ...): what the predictions of the task's kind are made of."""

    def weights(self, rows: Sequence[Row]) -> Tensor | None:
        """How much each row counts in the loss of its entry's batch, (N,); None: all the same."""
        return None

    def finite(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which predicted values (N, ...) are finite numbers, (N,)."""
        finite: npt.NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1).all(1)
        return finite

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the objective's own trainable matrices; most have none."""
        return {}

    def fresh_head(self, rng: np.random.Generator) -> HeadMatrices:
        """The matrices that `head_shapes` names, untrained; most objectives with a head start at zeros."""
        return {name: torch.zeros(shape) for name, shape in self.head_shapes().items()}

    def about(self) -> str:
        """How it reads the host, in one line, where users should know; else empty."""
        return ""

    def alone(self) -> str:
        """What the host predicts without a module, in one line, where users would not expect it; else empty."""
        return ""

    def own_head(self, head: HeadMatrices, record: Scale | None) -> HeadMatrices:
        """A module's head as this objective reads it. ``record``: the scale of the numbers that it was trained for."""
        return head

    def taught(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What a student is to learn from a teacher's predicted values, (N, ...), as targets of the loss."""
        return values

    def lesson(self, examples: Sequence[Example], taught: npt.NDArray[Any]) -> Encoded:
        """The rows and targets that a student learns from what a teacher said to N examples (`taught`)."""
        return Encoded(self.encode(examples), taught)

    def learnable(self, examples: Sequence[Example], taught: npt.NDArray[Any]) -> list[int]:
        """Which of N examples a student can learn from (`lesson`), in order."""
        return list(range(len(examples)))

    def certainty(self, values: npt.NDArray[Any], taught: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The log-probability that predicted values (N, ...) give to what is taught of each item, (N,).

        Only where the objective is ``certain``.
        """
        raise NotImplementedError(f"readout {self.name} predicts no probabilities")

    def encode_split(self, split: Split, generate: int = 0) -> Encoded:
        """The rows and targets that a split is trained and tested on.

        ``generate``: for how many of the first items a text is generated when they are tested, where the objective
        generates texts.
        """
        return Encoded(self.encode(split.examples), split.targets)

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token rows of examples: cut, worded, tokenised.

        Raises:
            TaskRefused: the tokenizer makes no token of an example.

        """
        if not examples:
            return []
        rows = self._tokenised([self.wording(cut) for cut in self._cut(examples)])
        check_tokens(self.host, rows, examples)
        return rows

    def _tokenised(self, worded: Sequence[Example]) -> list[Row]:
        if isinstance(worded[0], str):
            return [tuple(ids) for ids in self.host.tokenizer(list(worded), verbose=False)["input_ids"]]
        first, second = (list(texts) for texts in zip(*worded, strict=True))
        encoded = self.host.tokenizer(first, second, verbose=False)
        if "token_type_ids" not in encoded or getattr(self.host.config, "type_vocab_size", 0) < 2:
            return [tuple(ids) for ids in encoded["input_ids"]]
        return [PairRow(*row) for row in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)]

    def cut_of(self, examples: Sequence[Example]) -> CutTexts:
        """How much is cut of these examples, whatever was counted before."""
        before, self.cuts = self.cuts, Cuts()
        try:
            self.encode(examples)
            return self.cuts.total()
        finally:
            self.cuts = before

    def most_tokens(self) -> int | None:
        """The largest limit at which the host can still read what stands around a text; None: there is none."""
        if self.host.positions is None:
            return None
        probe = ("x",) * len(self.task.fields)
        [row] = self.encode([probe if len(probe) > 1 else probe[0]])
        return self.host.positions - len(row) + len(probe)

    def prompted(self, example: Example) -> str:
        """The task's prompt for a host that generates."""
        return self.task.render(getattr(self.task, self.answered_prompt), example)

    def _cut(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the ends of their longest fields cut off until no more than ``max_tokens`` are left."""
        fields = [list(texts) for texts in zip(*map(texts_of, examples), strict=True)]
        spans = [
            self.host.tokenizer(t, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
                "offset_mapping"
            ]
            for t in fields
        ]
        cut: list[list[str]] = [[] for _ in fields]
        for row in range(len(examples)):
            of_row = [span[row] for span in spans]
            lengths = [len(span) for span in of_row]
            limits = longest_first(lengths, self.max_tokens)
            self.cuts.add(examples[row], sum(lengths), sum(limits))
            for field, limit in enumerate(limits):
                text, span = fields[field][row], of_row[field]
                cut[field].append(text[: span[limit - 1][1]] if len(span) > limit else text)
        return list(cut[0]) if len(cut) == 1 else list(zip(*cut, strict=True))


class LabelScorer(Objective):
    """An objective that scores every label of a classification; its loss is the cross-entropy of the scores."""

    task: Classification
    certain = True

    @abstractmethod
    def scores(self, rows: Sequence[Row], head: Head, shift: int) -> Tensor:
        """Score every label for every row, (N, C), higher is likelier. ``shift``: positions before the text."""

    def loss(self, rows: Sequence[Row], targets: Tensor, head: Head, shift: int) -> Tensor:
        """Cross-entropy of each row, (N,). targets: the right classes (N,), or their probabilities (N, C)."""
        return torch.nn.functional.cross_entropy(self.scores(rows, head, shift), targets, reduction="none")

    def predict(self, rows: Sequence[Row], head: Head, shift: int) -> npt.NDArray[Any]:
        """The scores, (N, C)."""
        scores: npt.NDArray[Any] = self.scores(rows, head, shift).float().cpu().numpy()
        return scores

    def taught(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The probabilities of the classes, (N, C)."""
        from scipy.special import softmax  # imported here: a study's driver does without

        return np.asarray(softmax(values, axis=1), dtype=np.float32)

    def certainty(self, values: npt.NDArray[Any], taught: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The log-probability of the class that is the likeliest of those taught, (N,)."""
        from scipy.special import log_softmax  # as above

        logs = log_softmax(values.astype(np.float64), axis=1)
        likeliest: npt.NDArray[np.float64] = logs[np.arange(len(logs)), taught.argmax(1)]
        return likeliest


def check_tokens(host: Host, rows: Sequence[Row], examples: Sequence[Example]) -> None:
    """Refuse rows without a token: means over their tokens and attention to them are no numbers.

    Raises:
        TaskRefused: the tokenizer makes no token of an example.

    """
    empty = next((example for row, example in zip(rows, examples, strict=True) if not row), None)
    if empty is not None:
        raise TaskRefused(
            f"{host.name}: expected tokens for every text, its tokenizer makes none of {reprlib.repr(empty)}; take "
            "such texts out, or use another host"
        )


def longest_first(lengths: Sequence[int], limit: int) -> list[int]:
    """How many tokens of each field are kept, ``limit`` in all: the longest give first, as tokenizers cut pairs."""
    kept, left = [0] * len(lengths), limit
    order = sorted(range(len(lengths)), key=lambda field: lengths[field])
    for others, field in zip(range(len(order), 0, -1), order, strict=True):
        kept[field] = min(lengths[field], left // others)
        left -= kept[field]
    return kept


def pad(rows: Sequence[Row], pad_id: int | None, device: torch.device, *, left: bool = False) -> dict[str, Tensor]:
    """input_ids and attention_mask, each (N, T), padded to the longest row; of pairs token_type_ids, too."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id or 0)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    types = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, where] = torch.tensor(row)
        mask[index, where] = 1
        if isinstance(row, PairRow):
            types[index, where] = torch.tensor(row.types)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    pairs = any(isinstance(row, PairRow) for row in rows)
    return inputs | {"token_type_ids": types.to(device)} if pairs else inputs


def decoder_inputs(host: Host, rows: Sequence[Row], shift: int) -> dict[str, Any]:
    """Inputs of a decoder-only host, padded on the left so that all rows end together; positions start at ``shift``."""
    inputs: dict[str, Any] = pad(rows, host.tokenizer.pad_token_id, host.device, left=True)
    if host.takes_positions:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0) + shift
    return {**inputs, "use_cache": False}


def mean_pooled(host: Host, rows: Sequence[Row], shift: int) -> Tensor:
    """Mean of the last hidden states over the tokens of each row, (N, D); of the encoder, where there is one."""
    if host.kind == "decoder":
        inputs = decoder_inputs(host, rows, shift)
        hidden = host.base(**inputs).last_hidden_state
    else:
        inputs = pad(rows, host.tokenizer.pad_token_id, host.device)
        body = host.model.get_encoder() if host.kind == "encoder_decoder" else host.base  # type: ignore[operator]
        hidden = body(**inputs).last_hidden_state  # (N, T, D)
    hidden = hidden.to(host.device, host.wide_dtype)
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean: Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return mean
