"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.core.errors import BadRequest

if TYPE_CHECKING:
    from peftport.hosts.loading import Loading
    from peftport.modules.folders import Format
    from peftport.tasks.task import Task
    from peftport.training.loop import TrainSettings

HOST_HELP = "A local folder, an offline host's name (peftport hosts list), or a hub id org/name[@revision]."
TASK_HELP = "A built-in task (peftport tasks list), a .csv, .jsonl or .parquet file, or a hub data set id."

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help=HOST_HELP)]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help=TASK_HELP)]
Text = Annotated[str | None, typer.Option("--text", help="Column of the texts, for your own data.")]
Label = Annotated[str | None, typer.Option("--label", help="Column of the labels, for your own data.")]
Group = Annotated[str | None, typer.Option("--group", help="Column of groups that no split may tear apart.")]
Labels = Annotated[str | None, typer.Option("--labels", help="The labels that may occur, in order: negative,positive.")]
Words = Annotated[str | None, typer.Option("--words", help="Label words, in the order of the labels: bad,good.")]
Description = Annotated[
    list[str] | None,
    typer.Option("--description", help="What a label means, once a label, in their order; the prototype readout's."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", help="An encoder-decoder's prompt, with {text} in it.")]
ReadoutName = Annotated[
    str | None, typer.Option("--readout", help="label_tokens, prototype or linear; default by the host's kind.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Texts are cut to this many tokens.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Texts a training step.")]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Default: the technique's own (peftport techniques).")
]
TestItems = Annotated[int | None, typer.Option("--test-items", min=1, help="Test on the first N test items only.")]
Load = Annotated[
    list[str] | None,
    typer.Option(
        "--load",
        metavar="KEY=VALUE",
        help="How the host is loaded: device=auto|cpu|cuda, dtype=float32|bfloat16, spread=true (over all devices), "
        "bits=8|4, checkpointing=true (less memory, more time).",
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the technique, such as rank=4.")
]

ModuleArgument = Annotated[Path, typer.Argument(metavar="MODULE", help="A module folder: native, PEFT or adapters.")]
To = Annotated[str, typer.Option("--to", metavar="HOST", help="The receiver. " + HOST_HELP)]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="HOST", help="The origin: needed for a PEFT or adapters folder, checked where recorded."
    ),
]
TrustOrigin = Annotated[
    str | None,
    typer.Option("--trust-origin", metavar="HOST", help="The origin, whatever fingerprint the module records."),
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="native, peft (LoRA only) or adapters (every technique but LoRA).")
]
Texts = Annotated[
    str | None,
    typer.Option("--texts", metavar="FILE|TASK", help="Unlabelled texts, for methods that need them: .txt, or a task."),
]


def names(text: str | None) -> tuple[str, ...] | None:
    """``a,b`` as a tuple; None stays None."""
    return tuple(part.strip() for part in text.split(",")) if text is not None else None


def numbers(text: str, option: str) -> tuple[int, ...]:
    """``0,10,40`` as a tuple of integers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadRequest(
            f"{option}: expected whole numbers with commas between, such as 0,10,40, got {text!r}"
        ) from error


def settings_dict(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value with commas, or one for ``sites``, is a list."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadRequest(f"--set: expected KEY=VALUE, such as rank=4, got {pair!r}")
        if key == "kind":
            raise BadRequest(
                f"--set: expected a setting of the technique, got {pair!r}; name the technique by --technique"
            )
        found[key] = value.split(",") if "," in value or key == "sites" else value
    return found


def read_task(
    ref: str,
    text: str | None,
    label: str | None,
    group: str | None,
    labels: str | None,
    words: str | None,
    descriptions: list[str] | None,
    prompt: str | None,
) -> Task:
    """The task that the options describe."""
    from peftport.tasks import load_task

    return load_task(
        ref,
        text=text,
        label=label,
        group=group,
        labels=names(labels),
        words=names(words),
        descriptions=tuple(descriptions) if descriptions else None,
        prompt=prompt,
    )


def train_settings(batch_size: int, max_tokens: int, learning_rate: float | None) -> TrainSettings:
    """Training settings, checked."""
    from peftport.training.loop import TrainSettings

    if learning_rate is not None and not 0 < learning_rate < 10:
        raise BadRequest(f"--learning-rate: expected a number above 0 and under 10, got {learning_rate}")
    return TrainSettings(batch_size=batch_size, max_tokens=max_tokens)


def loading(pairs: list[str] | None) -> Loading | None:
    """``KEY=VALUE`` pairs of --load, checked; none: None."""
    from peftport.hosts.loading import loading_of

    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadRequest(f"--load: expected KEY=VALUE, such as device=auto, got {pair!r}")
        values[key] = int(value) if value.isdigit() else value
    return loading_of(values)


def file_format(name: str | None) -> Format | None:
    """The format that --format names; None stays None."""
    if name not in (None, "native", "peft", "adapters"):
        raise BadRequest(f"--format: expected native, peft or adapters, got {name!r}")
    return name  # type: ignore[return-value]
