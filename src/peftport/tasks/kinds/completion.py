"""completion: a prompt, or a conversation, and the text that answers it.

The prompt is put to a host by the host's own chat template where it has one, and else by a plain one (`Template`).

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from peftport.core.errors import TaskRefused
from peftport.metrics.choice import MetricChoice
from peftport.tasks.chats import AUTO, Chat, prompt_and_answer, turns_of
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.spec import ONE_TEXT, Example, Predictions, ReadTargets, Targets, TaskSpec

SHORT_WORDS = 5


@dataclass(frozen=True, eq=False)
class Answers(Predictions):
    """What a host answers to N prompts.

    Attributes:
        values: (N,), of type `peftport.metrics.base.ANSWER`: the log-likelihood of the first reference, its tokens,
            and the generated text, None where none was generated.
        targets: (N,), tuples of one or more references.

    """

    kind = "completion"

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The generated texts, None where none was generated."""
        return tuple(self.values["text"])

    def usual_metric(self) -> MetricChoice:
        """Exact match where references are short, else ROUGE-L; the likelihood where nothing was generated."""
        if all(text is None for text in self.texts):
            return MetricChoice("negative_log_likelihood")
        words = np.median([len(references[0].split()) for references in self.targets])
        return MetricChoice("exact_match" if words <= SHORT_WORDS else "rouge_l")


class Completion(TaskSpec):
    """How prompts are put to a host.

    ``prompt`` renders the user's (last) turn. ``template``: ``auto`` (the host's own chat template where it has one,
    else ``causal_prompt`` for decoders), ``none`` (never a chat template), or the text of a chat template for any host.
    """

    kind = "completion"
    title = "a text that answers a prompt"
    predictions = Answers

    template: str = AUTO

    @classmethod
    def prepared(cls, columns: Columns) -> Columns:
        """Prompts and answers of what was read: messages become a conversation and its answer; several columns one."""
        first = next(iter(columns.fields.values()))
        if any(isinstance(value, list | tuple) for value in first):
            parsed = [prompt_and_answer(columns.where, row, value) for row, value in enumerate(first, 1)]
            prompts, answers = [prompt for prompt, _ in parsed], [answer for _, answer in parsed]
            return replace(columns, fields={ONE_TEXT[0]: prompts}, targets=answers)
        if len(columns.fields) == 1:
            return replace(columns, fields={ONE_TEXT[0]: first})
        return replace(columns, fields={ONE_TEXT[0]: _joined(list(columns.fields.values()))})

    @classmethod
    def read(cls, name: str, columns: Columns, wording: Wording) -> ReadTargets:
        """The answers, each a tuple of one or more references."""
        for option, value in (("labels", wording.labels), ("words", wording.words)):
            if value:
                raise TaskRefused(f"--{option}: expected none for prompts and answers, which have no labels; drop it")
        targets = np.empty(len(columns.targets), dtype=object)
        targets[:] = [_references(columns.where, row, value) for row, value in enumerate(columns.targets, 1)]
        conversations = any(isinstance(prompt, Chat) for prompt in next(iter(columns.fields.values())))
        asked = wording.prompt or "{text}"
        own_prompts = ("prompt", "causal_prompt") if wording.prompt else ()
        values: dict[str, Any] = {"name": name, "domain": name, "prompt": asked, "own_prompts": own_prompts}
        values["template"] = wording.template or AUTO
        values["causal_prompt"] = f"{asked}\nAssistant:" if conversations else wording.prompt or "{text}\nAnswer:"
        return ReadTargets(cls.worded(**values), targets)

    def objectives(self, host_kind: str) -> tuple[str, ...]:
        """The likelihood of the answer's tokens, on hosts that generate."""
        return () if host_kind == "encoder" else ("answer_tokens",)

    def summary(self, targets: Targets) -> dict[str, float]:
        """How long the answers are, and how many different ones there are."""
        firsts = [references[0] for references in targets]
        return {
            "different answers": len(set(firsts)),
            "median characters": float(np.median([len(first) for first in firsts])) if firsts else 0.0,
        }

    def alike_by(self, example: Example, target: tuple[str, ...]) -> tuple[str, ...]:
        """What is asked, and its answer: prompts often differ in a word or number only, and so do their answers.

        What a system is told is left out, since most conversations of a data set begin with the same.
        """
        turns = turns_of(example) if isinstance(example, str) else ()
        return "\n".join(turn.content for turn in turns if turn.role != "system"), target[0]

    def contradict(self, targets: Targets) -> bool:
        """Never: a prompt may have several good answers; the first copy stays."""
        return False


def _joined(columns: Sequence[Sequence[object]]) -> list[object]:
    """The texts of several columns as one prompt, a blank line between; what is empty is left out."""
    return [
        "\n\n".join(value for value in values if isinstance(value, str) and value.strip()) or None
        for values in zip(*columns, strict=True)
    ]


def _references(where: str, row: int, value: object) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    texts = tuple(str(text) if isinstance(text, int | float) and not isinstance(text, bool) else text for text in texts)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskRefused(
            f"{where}, row {row}: expected an answer, a text or a list of texts, got {value!r}; correct or drop the row"
        )
    return tuple(str(text) for text in texts)


def check_lengths(name: str, lengths: npt.NDArray[np.int64], limit: int) -> None:
    """Refuse answers of more tokens than the limit; ``lengths``: of each answer, (N,).

    Raises:
        TaskRefused: as said.

    """
    longer = int((lengths > limit).sum())
    if longer:
        raise TaskRefused(
            f"{name}: {longer} of {len(lengths)} answers have more than {limit} tokens (--max-tokens), the longest "
            f"{int(lengths.max())}; an answer is never cut: give --max-tokens {int(lengths.max())}, or drop them"
        )
