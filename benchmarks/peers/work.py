"""What every contestant is given and what it gives back: plain JSON, so that environments need not agree on anything.

Texts are token rows already, the same for all: tokenising is on nobody's clock. Standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Texts:
    """N token rows and their labels."""

    rows: list[list[int]]
    labels: list[int]

    def head(self, n: int) -> Texts:
        """The first ``n``."""
        return Texts(self.rows[:n], self.labels[:n])


@dataclass(frozen=True)
class Run:
    """One train/test run: ``points`` are the steps after which all test items are scored."""

    seed: int
    points: list[int]


@dataclass(frozen=True)
class Work:
    """One technique on one host, trained and tested once for every run, one run after another.

    Attributes:
        label_rows: token rows of the label words (encoder-decoders) or of the label descriptions (encoders).
        task, items, max_tokens: how our side names the same texts.
        numbers: float32, or bfloat16: products in bfloat16 and what is trained in float32, as each side has it.
        device: cpu, or cuda.

    """

    host: str
    folder: str
    kind: str
    technique: str
    settings: dict[str, object]
    learning_rate: float
    batch_size: int
    max_grad_norm: float
    train: Texts
    test: Texts
    label_rows: list[list[int]]
    pad_id: int
    start_id: int
    task: str
    items: int
    max_tokens: int
    runs: list[Run]
    numbers: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Done:
    """One run as it went. ``load_seconds``: host and fresh module; it is in neither of the other two."""

    seed: int
    load_seconds: float
    train_seconds: float
    test_seconds: float
    parameters: int
    accuracy: dict[int, float]


def read_work() -> Work:
    """The work named on the command line: SCRIPT WORK.json RESULT.json."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found["train"], found["test"] = Texts(**found["train"]), Texts(**found["test"])
    found["runs"] = [Run(**run) for run in found["runs"]]
    return Work(**found)


def write_done(done: list[Done]) -> None:
    """Write the runs to the file named on the command line."""
    Path(sys.argv[2]).write_text(json.dumps([asdict(one) for one in done]), encoding="utf-8")


def warm_and_timed(work: Work) -> Iterator[tuple[Run, Texts, bool]]:
    """A run of one step that counts for nothing (libraries load parts of themselves late), then the runs asked for."""
    yield Run(seed=work.runs[0].seed, points=[0, 1]), work.test.head(work.batch_size), False
    for run in work.runs:
        yield run, work.test, True
