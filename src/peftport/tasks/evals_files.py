"""Files of the package `evals` (OpenAI's registry of evaluations): chats, and the answers that are right.

Each line is a JSON object of one sample:

    {"input": [{"role": "system", "content": TEXT}, {"role": "user", "content": TEXT}], "ideal": TEXT or [TEXT, ...]}

Other keys are left out. Most files say the same system message in every sample; the messages are kept as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peftport.core.errors import TaskRefused
from peftport.tasks.chats import ROLES, Turn, as_prompt
from peftport.tasks.kinds.classification import Classes
from peftport.tasks.spec import TaskSpec
from peftport.tasks.split import Items

SARCASTIC = {"0": "serious", "1": "sarcastic"}  # ideal: the label that it stands for
PREMISE, HYPOTHESIS, ANSWER = "Premise: ", " Hypothesis: ", "Answer: "


class Sample(NamedTuple):
    """What a model is told, and the answers that are right, at least one, without outer spaces."""

    messages: tuple[Turn, ...]
    ideal: tuple[str, ...]


def read_samples(path: str | Path) -> list[Sample]:
    """Return the samples of a file, in its order; N of them.

    Raises:
        TaskRefused: a line is not such an object, or the file has none; the line is named.

    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    samples = [_sample(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise TaskRefused(f"{path}: no samples, expected a JSON object a line; install the texts again")
    return samples


def _sample(where: str, line: str) -> Sample:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _refused(where, f"got {error}") from error
    if not isinstance(row, dict) or "input" not in row or "ideal" not in row:
        raise _refused(where, "got an object without them" if isinstance(row, dict) else f"got {type(row).__name__}")
    ideal = row["ideal"] if isinstance(row["ideal"], list) else [row["ideal"]]
    answers = tuple(each.strip() if isinstance(each, str) else "" for each in ideal)
    if not answers or not all(answers):
        raise _refused(where, f"got the answer {json.dumps(row['ideal'])}")
    return Sample(_messages(where, row["input"]), answers)


def _messages(where: str, messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise _refused(where, f"got the input {json.dumps(messages)[:60]}")
    for each in messages:
        known = isinstance(each, dict) and each.get("role") in ROLES and isinstance(each.get("content"), str)
        if not known or not each["content"].strip():
            raise _refused(where, f"got the message {json.dumps(each)[:60]}")
    return tuple(Turn(each["role"], each["content"]) for each in messages)


def _refused(where: str, actual: str) -> TaskRefused:
    return TaskRefused(
        f"{where}: expected an object with input (messages of role and content) and ideal (an answer, or several), "
        f"{actual}; install the texts again"
    )


def read_headlines(place: str, spec: TaskSpec) -> Items:
    """Headlines and whether they are sarcastic: the last message is the headline, the answer 1 or 0.

    Raises:
        TaskRefused: as `read_samples`, or an answer that is another.

    """
    samples = read_samples(place)
    return Items(
        tuple(sample.messages[-1].content for sample in samples),
        _classes(place, [SARCASTIC.get(sample.ideal[0], sample.ideal[0]) for sample in samples], spec),
    )


def read_corr2cause(place: str, spec: TaskSpec) -> Items:
    """Premises and hypotheses: the last message has both, the answer names the label. Groups are premises.

    A premise has up to 120 hypotheses, so that pairs of one premise must not lie on both sides of a split.

    Raises:
        TaskRefused: as `read_samples`, a message without both parts, or an answer that is another.

    """
    samples = read_samples(place)
    pairs = []
    for number, sample in enumerate(samples, 1):
        head, separator, hypothesis = sample.messages[-1].content.partition(HYPOTHESIS)
        if not head.startswith(PREMISE) or not separator:
            raise TaskRefused(
                f"{place}, sample {number}: expected {PREMISE}... {HYPOTHESIS.strip()} ..., "
                f"got {head[:40]!r}; install the texts again"
            )
        pairs.append((head.removeprefix(PREMISE), hypothesis))
    labels = _classes(place, [sample.ideal[0].removeprefix(ANSWER) for sample in samples], spec)
    return Items(tuple(pairs), labels, groups=tuple(premise for premise, _ in pairs))


def read_answered(place: str, spec: TaskSpec) -> Items:
    """Prompts, or conversations, and the texts that answer them.

    Raises:
        TaskRefused: as `read_samples`.

    """
    samples = read_samples(place)
    targets = np.empty(len(samples), dtype=object)
    targets[:] = [sample.ideal for sample in samples]
    return Items(tuple(as_prompt(sample.messages) for sample in samples), targets)


def _classes(place: str, names: list[str], spec: TaskSpec) -> Classes:
    """Return the index of each sample's label among those of the task, (N,)."""
    for number, name in enumerate(names, 1):
        if name not in spec.labels:
            raise TaskRefused(
                f"{place}, sample {number}: answer {name!r}, expected one for {', '.join(spec.labels)}; "
                "install the texts again"
            )
    return np.array([spec.labels.index(name) for name in names], dtype=np.int64)
