"""Small hosts and reviews in folders, and commands run on them: what tests of whole commands share."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from peftport.cli import main
from pico import WORDS, pico_model, word_tokenizer

SOURCES = Path(__file__).resolve().parents[1] / "src"
HOSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", dict(view="body")),
    "bert-updated": ("bert", dict(view="body", seed=1)),
    "bert-wide": ("bert", dict(view="body", hidden_size=32)),
    "bert-deep": ("bert", dict(view="body", num_hidden_layers=3)),
    "bert-masked": ("bert", dict(view="language_model")),
    "distilbert": ("distilbert", dict(view="body")),
    "t5": ("t5", {}),
    "t5-updated": ("t5", dict(seed=1)),
    "llama": ("llama", {}),
    "llama-updated": ("llama", dict(seed=1)),
}


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be exactly one JSON document."""
        return json.loads(self.out)


Run = Callable[..., Result]


def save_hosts(home: Path, names: Iterable[str]) -> dict[str, Path]:
    """The folders of small hosts under ``home``, by name."""
    found = {}
    for name in names:
        model_type, options = HOSTS[name]
        pico_model(model_type, **options).save_pretrained(home / name)
        word_tokenizer().save_pretrained(home / name)
        found[name] = home / name
    return found


def save_reviews(path: Path, count: int = 80) -> Path:
    """Labelled texts of the small hosts' words, far from each other."""
    rng = np.random.default_rng(0)
    rows = [(" ".join(rng.choice(WORDS, size=10)), ("negative", "positive")[i % 2]) for i in range(count)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def process_environment() -> dict[str, str]:
    """The environment of a real process: these sources, no hub."""
    return {**os.environ, "PYTHONPATH": str(SOURCES), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def unmeasured(environment: dict[str, str]) -> dict[str, str]:
    """For a process that is interrupted: coverage's own lock may stay locked when Control-C comes while it is held."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}


def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; whatever reaches the two streams is captured, other libraries' output too."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["peftport", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        found = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, found.out, found.err)

    return run


def cut_off(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No hub and no offline hosts: nothing outside the test's own folders answers."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PEFTPORT_CACHE", str(cache))
