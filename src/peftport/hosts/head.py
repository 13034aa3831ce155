"""The trained head that a ``...ForSequenceClassification`` folder has beside its body, as ``config.json`` tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from peftport.core.errors import HostRefused

ARCHITECTURE = "ForSequenceClassification"
UNNAMED = re.compile(r"(label[ _-]?)?\d+", re.IGNORECASE)  # LABEL_0, which transformers writes where nobody named it


@dataclass(frozen=True)
class TrainedHead:
    """What a head was trained to say.

    Attributes:
        labels: the names of its outputs, in order; a head for a number has one.
        problem: ``regression``, ``single_label_classification``, ``multi_label_classification``, or None where the
            folder does not tell.

    """

    labels: tuple[str, ...]
    problem: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Self | None:
        """The head that a ``config.json`` describes; None where it is not of a classifier.

        Raises:
            HostRefused: the names of the labels are not as transformers writes them.

        """
        if not any(str(name).endswith(ARCHITECTURE) for name in config.get("architectures") or ()):
            return None
        named = config.get("id2label")
        if named is None:
            return cls(tuple(f"LABEL_{index}" for index in range(config.get("num_labels") or 2)), _problem(config))
        try:
            labels = {int(index): str(name) for index, name in named.items()}
        except (AttributeError, TypeError, ValueError):
            labels = {}
        if sorted(labels) != list(range(len(labels))) or not labels:
            raise HostRefused(
                f"{where}: config.json: id2label: expected a name for each output 0, 1, ..., got {str(named)[:60]}; "
                "fetch the host again"
            )
        return cls(tuple(labels[index] for index in range(len(labels))), _problem(config))

    @property
    def unnamed(self) -> bool:
        """Whether nobody gave its outputs names."""
        return all(UNNAMED.fullmatch(label) for label in self.labels)


def _problem(config: Mapping[str, Any]) -> str | None:
    problem = config.get("problem_type")
    return None if problem is None else str(problem)
