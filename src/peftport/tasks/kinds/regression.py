"""regression: a text, or a pair of texts, and the number that is right for it.

Objectives train on standardised numbers, z = (y - mean) / deviation, with the mean and the standard deviation of the
training split, and predict numbers in the target's own unit.

Shapes: N items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from peftport.core.errors import TaskRefused
from peftport.core.scale import Scale
from peftport.tasks.columns import Columns, Wording, is_empty
from peftport.tasks.spec import Predictions, ReadTargets, Targets, TaskSpec

LARGEST = 1e100  # beyond it squares are no longer numbers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Numbers(Predictions):
    """Predicted and right numbers, (N,) each, in the target's unit."""

    values: Floats
    targets: Floats
    kind = "regression"


class RegressionTask(TaskSpec):
    """A number for each example. ``scale`` is that of the training split, once the items are split."""

    kind = "regression"
    title = "a number"
    predictions = Numbers

    scale: Scale | None = None

    @classmethod
    def read(cls, name: str, columns: Columns, wording: Wording) -> ReadTargets:
        """Numbers as the file has them; in text with a point for decimals."""
        refuse_words(columns.where, cls.kind, wording)
        targets = np.array([number(columns.where, row, value) for row, value in enumerate(columns.targets, 1)])
        return ReadTargets(cls.worded(**plain_wording(name, columns, wording)), targets)

    def objectives(self, host_kind: str) -> tuple[str, ...]:
        """Pairs on encoders are scored by the cosine of both texts."""
        if len(self.fields) == 1:
            return ("linear", "head", "classifier")
        pooled = ("cosine", "linear") if host_kind == "encoder" else ("linear", "cosine")
        return (*pooled, "head", "classifier")

    def check(self, targets: Mapping[str, Targets]) -> None:
        """Refuse a training split with one number only, from which nothing can be learnt."""
        train = targets["train"]
        if (train == train[0]).all():
            raise TaskRefused(
                f"{self.name}: the target is {train[0]:g} in every item of train, expected at least two different "
                "numbers; name the right column with --label"
            )

    def fitted(self, targets: Targets) -> Self:
        """With the scale of the training split."""
        return self.model_copy(update={"scale": Scale.of(targets.tolist())})

    def recorded(self) -> dict[str, Any]:
        """The scale, by which a head's outputs are read."""
        return {"scale": self.scale}

    def summary(self, targets: Targets) -> dict[str, float]:
        """Mean, standard deviation, lowest and highest."""
        return {
            "mean": float(targets.mean()),
            "deviation": float(targets.std()),
            "lowest": float(targets.min()),
            "highest": float(targets.max()),
        }

    def identity(self) -> dict[str, Any]:
        """Without the scale, which follows from the training split."""
        return {key: value for key, value in super().identity().items() if key != "scale"}


def number(where: str, row: int, value: object) -> float:
    """A target as a number.

    Raises:
        TaskRefused: it is missing, not a number, not finite or too large; the row is named.

    """
    if is_empty(value):
        raise TaskRefused(f"{where}, row {row}: the target is missing, expected a number; fill it in or delete the row")
    parsed = as_number(value)
    if parsed is None:
        raise TaskRefused(
            f"{where}, row {row}: target {value!r}, expected a number such as 3.5; correct the row, name the right "
            "column with --label, or say what the targets are with --kind"
        )
    if not abs(parsed) <= LARGEST:
        raise TaskRefused(
            f"{where}, row {row}: target {value!r}, expected a finite number of at most {LARGEST:g}; correct or "
            "delete the row"
        )
    return parsed


def as_number(value: object) -> float | None:
    """The number that a value is or, as text, spells; None where it is something else. It may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # Python takes 1_000 for a number
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def refuse_words(where: str, kind: str, wording: Wording, *also: str) -> None:
    """Refuse what only classes have: words and descriptions, and the wording's fields that are named too.

    Raises:
        TaskRefused: as said.

    """
    for name in ("words", "descriptions", "labels", "separator"):
        if getattr(wording, name) and name not in also:
            option = "description" if name == "descriptions" else name
            raise TaskRefused(f"{where}: --{option}: expected none for a task of kind {kind}; drop the option")


def plain_wording(name: str, columns: Columns, wording: Wording) -> dict[str, Any]:
    """The fields of a spec without words for labels; the prompt says what the texts are, or what the user says."""
    fields = tuple(columns.fields)
    if len(fields) == 1:
        plain = "{text}"
    else:
        plain = "\n".join(f"{field[0].upper()}{field[1:]}: {{{field}}}" for field in fields)  # Premise: {premise}
    prompt, names = wording.prompt or plain, ("prompt", "causal_prompt") if wording.prompt else ()
    return {
        "name": name, "prompt": prompt, "causal_prompt": prompt, "domain": name, "fields": fields, "own_prompts": names
    }  # fmt: skip
