"""What every kind of task has: examples of named fields, a target for each, and prompts that render the fields.

A kind is a subclass of `TaskSpec` (``kinds``). It says how a column of targets is read, which objectives train and test
it on which kind of host, and what a prediction is. Texts in, targets out: nothing here knows a model.

Shapes: N items, F fields.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from peftport.core.errors import TaskRefused
from peftport.metrics import measured_by_all
from peftport.metrics.choice import MetricChoice, first_of

if TYPE_CHECKING:
    from peftport.tasks.columns import Columns, Wording

# What a host reads of one item: the text, where the task has one field; with more, their texts in the fields' order.
Example: TypeAlias = str | tuple[str, ...]
Targets: TypeAlias = npt.NDArray[Any]  # (N,) or (N, ...): classes, numbers, or texts as objects
ONE_TEXT = ("text",)

PLACEHOLDER = re.compile(r"\{(\w+)\}")
MASK = "{mask}"  # what a masked language model fills, in a prompt


def texts_of(example: Example) -> tuple[str, ...]:
    """The texts of an example's fields, (F,)."""
    return (example,) if isinstance(example, str) else example


def plain_text(example: Example) -> str:
    """An example as one text, for methods that read unlabelled texts: its fields with a space between."""
    return example if isinstance(example, str) else " ".join(example)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one module predicts for N items, and their targets. A kind derives its own.

    Attributes:
        kind: the kind of task, by which metrics know what they can measure.
        values: (N, ...), what the objective gives for each item.
        targets: (N, ...), what is right.

    """

    values: npt.NDArray[Any]
    targets: Targets
    kind: ClassVar[str] = ""

    def __len__(self) -> int:
        """The number N of items that were predicted."""
        return len(self.targets)

    def usual_metric(self) -> MetricChoice:
        """The metric that the test is judged by where none is asked for: the first of its kind."""
        return first_of(self.kind)

    def measures(self) -> dict[str, float | None]:
        """The value of each metric of the kind, by name; None where a metric is not defined."""
        return measured_by_all(self)


class ReadTargets(NamedTuple):
    """What a kind makes of a data set: the task's spec, and the items' targets (N, ...)."""

    spec: TaskSpec
    targets: Targets


class TaskSpec(BaseModel, ABC):
    """What a task asks. ``fields`` names the parts of an example, which stand in prompts as ``{field}``.

    Tasks of one ``domain`` share, or may share, texts. ``labels`` names the classes, where targets are classes.
    ``own_prompts`` names the prompts that the user worded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    title: ClassVar[str]
    predictions: ClassVar[type[Predictions]]

    name: str
    labels: tuple[str, ...] = ()
    prompt: str
    causal_prompt: str
    domain: str
    fields: tuple[str, ...] = ONE_TEXT
    own_prompts: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def read(cls, name: str, columns: Columns, wording: Wording) -> ReadTargets:
        """The spec and the targets of a user's data set.

        Raises:
            TaskRefused: targets that this kind does not have, or a wording that does not fit them.

        """

    @abstractmethod
    def objectives(self, host_kind: str) -> tuple[str, ...]:
        """Names of the objectives that serve this task on a kind of host; the first is the default."""

    def check(self, targets: Mapping[str, Targets]) -> None:
        """Refuse splits (targets by split name) whose targets cannot be learnt or tested; here none.

        Raises:
            TaskRefused: as said.

        """

    def fitted(self, targets: Targets) -> Self:
        """The spec once the targets of the training split, (N, ...), are known; here the same.

        Raises:
            TaskRefused: nothing can be learnt from them.

        """
        return self

    def recorded(self) -> dict[str, Any]:
        """What a module's record of the task holds beside what all kinds have; here nothing."""
        return {}

    def summary(self, targets: Targets) -> dict[str, float]:
        """What ``tasks show`` says of the targets of a split, (N, ...), by word; here nothing."""
        return {}

    def alike_by(self, example: Example, target: Any) -> tuple[str, ...]:
        """The texts in all of which two items must be near copies of each other to count as such: the example's own."""
        return texts_of(example)

    def contradict(self, targets: Targets) -> bool:
        """Whether several items of one and the same example, with these targets, contradict each other."""
        return bool((targets != targets[0]).any())

    def identity(self) -> dict[str, Any]:
        """All of the wording that can change a result, for the task's digest; not its name and domain."""
        left_out = {"name", "domain", "own_prompts"} | ({"fields"} if self.fields == ONE_TEXT else set())
        return {"kind": self.kind, **self.model_dump(mode="json", exclude=left_out)}

    def reworded(self, wording: Wording) -> Self:
        """The spec with the user's wording in place of its own. Raises TaskRefused where that does not fit."""
        changes = wording.changes()
        beside = sorted(changes.keys() - type(self).model_fields.keys())
        if beside:
            option = "--prompt with {mask}" if beside == ["masked_prompt"] else f"--{beside[-1]}"
            raise TaskRefused(f"{self.name}: {option}: expected none for a task of kind {self.kind}; drop it")
        return self.worded(**{**self.model_dump(), **changes})

    @classmethod
    def worded(cls, **values: Any) -> Self:
        """A spec of these values. Raises TaskRefused where a user's prompt or words do not fit, in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TaskRefused(f"{values['name']}: {reason}; correct the option") from error

    @model_validator(mode="after")
    def _prompts_name_the_fields(self) -> Self:
        for name in ("prompt", "causal_prompt"):
            self._check_placeholders(name, getattr(self, name), self.fields)
        return self

    def _check_placeholders(self, name: str, template: str, known: Sequence[str]) -> None:
        for field in known:
            if f"{{{field}}}" not in template:
                raise ValueError(f"{name} {template!r}: expected {{{field}}} in it")
        unknown = [field for field in PLACEHOLDER.findall(template) if field not in known]
        if unknown:
            places = " and ".join(f"{{{field}}}" for field in known)
            raise ValueError(f"{name} {template!r}: expected {places} in it, got {{{unknown[0]}}} too")

    def prompt_for(self, example: Example) -> str:
        """The input of an encoder-decoder host for one example."""
        return self.render(self.prompt, example)

    def causal_prompt_for(self, example: Example) -> str:
        """The input of a decoder host for one example; it ends where the answer (with a leading space) begins."""
        return self.render(self.causal_prompt, example)

    def render(self, template: str, example: Example, **more: str) -> str:
        """The template with every ``{field}`` replaced by its text, and those of ``more`` by their values.

        Replaced in one pass: a text that has ``{field}`` in it stays as it is.
        """
        values = dict(zip(self.fields, texts_of(example), strict=True)) | more
        places = "|".join(re.escape(f"{{{field}}}") for field in values)
        return re.sub(places, lambda match: values[match[0][1:-1]], template)
