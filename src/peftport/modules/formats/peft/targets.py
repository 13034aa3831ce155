"""Find the matrices that a PEFT LoRA is on, with their rank and alpha, by the rules of PEFT's configuration.

    target_modules    "all-linear"; a pattern that the whole name must match; or names, of which one must be the name
                      or its end behind a dot, in the layers of `layers_to_transform` where that is given
    rank_pattern      the first pattern that is the name, or its end behind a dot

Patterns are regular expressions from untrusted files: each has a time limit, so that malicious ones are refused.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import regex

from peftport.core.errors import ModuleRefused
from peftport.modules.formats.peft.config import PeftConfig
from peftport.modules.formats.tensors import one_line, printable

ALL_LINEAR = "all-linear"
MOST_PATTERN_CHARACTERS = 10_000
SECONDS_A_NAME, SECONDS_ALTOGETHER = 0.1, 5.0
ANY_LAYERS = r".*?\.[^.]*"  # PEFT's pattern for layers, where layers_pattern is not given


class Targets:
    """The rules of one configuration for target modules, ranks and alphas."""

    def __init__(self, config: PeftConfig, path: Path) -> None:
        self.config, self.path = config, path
        self._compiled: dict[str, Any] = {}
        self._seconds_left = SECONDS_ALTOGETHER

    @property
    def known(self) -> bool:
        """Whether the configuration names target modules; if not, PEFT has a default for each model type."""
        return self.config.target_modules is not None

    def has(self, name: str) -> bool:
        """Return whether PEFT puts a LoRA on the linear map of this name."""
        targets = self.config.target_modules
        if self._named(self.config.exclude_modules, name):
            return False
        if isinstance(targets, str):
            return targets.lower() == ALL_LINEAR or self._match(targets, name) is not None
        if targets is None or name in targets:
            return True
        return _ends(name, targets) and self._in_layers(name)

    def has_parameter(self, name: str) -> bool:
        """Return whether PEFT puts a LoRA on the parameter of this name, which ends with the parameter's own."""
        return name in self.config.target_parameters or _ends(name, self.config.target_parameters)

    def rank(self, name: str) -> int:
        """Return the rank of the LoRA on the linear map of this name."""
        return next((r for p, r in self.config.rank_pattern.items() if self._ends_with(p, name)), self.config.r)

    def alpha(self, name: str) -> float:
        """Return the alpha of the LoRA on the linear map of this name."""
        alphas = (a for p, a in self.config.alpha_pattern.items() if self._ends_with(p, name))
        return next(alphas, self.config.lora_alpha)

    def _named(self, names: str | tuple[str, ...] | None, name: str) -> bool:
        if isinstance(names, str):
            return self._match(names, name) is not None
        return names is not None and (name in names or _ends(name, names))

    def _in_layers(self, name: str) -> bool:
        if not self.config.layers_to_transform:
            return True
        places = [rf"(?:^|.*?\.){p}" for p in self.config.layers_pattern] or [ANY_LAYERS]
        for place in places:
            match = self._match(rf"{place}\.(?P<idx>\d+)\.", name, whole=False)
            if match is not None:
                return match["idx"] is not None and int(match["idx"]) in self.config.layers_to_transform
        return False

    def _ends_with(self, pattern: str, name: str) -> bool:
        return self._match(rf"(.*\.)?({pattern})$", name, whole=False) is not None

    def _match(self, pattern: str, name: str, whole: bool = True) -> Any:
        began = time.monotonic()
        try:
            if pattern not in self._compiled:
                self._compiled[pattern] = _compile(pattern)
            seconds = max(0.001, min(SECONDS_A_NAME, self._seconds_left))
            compiled = self._compiled[pattern]
            return (compiled.fullmatch if whole else compiled.match)(name, timeout=seconds)
        except (regex.error, TimeoutError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise ModuleRefused(
                f"{self.path}: expected regular expressions that PEFT could use, got {printable(repr(pattern))} "
                f"({one_line(error)}); name the modules one by one"
            ) from error
        finally:
            self._seconds_left -= time.monotonic() - began


def _compile(pattern: str) -> Any:
    if len(pattern) > MOST_PATTERN_CHARACTERS:
        raise ValueError(f"{len(pattern)} characters, expected at most {MOST_PATTERN_CHARACTERS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about changes of the pattern's meaning in future versions
        return regex.compile(pattern)


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return name.endswith(tuple(f".{end}" for end in ends))
