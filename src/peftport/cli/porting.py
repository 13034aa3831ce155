"""port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.cli import options as o
from peftport.cli.console import AsJson, bars, print_json, print_table, quiet_libraries, remark, say
from peftport.core.errors import BadRequest

if TYPE_CHECKING:
    from peftport.workflows.actions import PortedModule
    from peftport.workflows.method_selection import MethodSelection


Out = Annotated[Path, typer.Option("--out", help="The ported module's folder.")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="How (peftport methods). auto: as check chooses. Several, the simplest first, such as copy,theseus: "
        "the one that the validation items of --task carry.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of methods that draw numbers.")]
Items = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="TASK", help="Labelled items, for methods that need labels, and to choose between several."
    ),
]
As = Annotated[str | None, typer.Option("--as", help="adapter: carry a Compacter as an adapter, exactly.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Training steps of distill; no other trains.")]
ItemsOfSeveral = Annotated[
    int | None,
    typer.Option("--test-items", min=1, help="With several methods: the first N validation and N test items only."),
]


def port(
    module: o.ModuleArgument,
    to: o.To,
    out: Out,
    origin: o.From = None,
    trusted_origin: o.TrustOrigin = None,
    method: Method = "copy",
    format_: o.FormatName = None,
    seed: Seed = 0,
    texts: o.Texts = None,
    task: Items = None,
    as_: As = None,
    steps: Steps = 120,
    readout: o.ReadoutName = None,
    max_tokens: o.MaxTokens = 128,
    test_items: ItemsOfSeveral = None,
    text: o.Text = None,
    label: o.Label = None,
    group: o.Group = None,
    labels: o.Labels = None,
    words: o.Words = None,
    description: o.Description = None,
    prompt: o.Prompt = None,
    json_: AsJson = False,
) -> None:
    """Port a module to another host, file to file; the format stays what it was unless --format says otherwise.

    Example: peftport port modules/lora --to sre --out modules/lora-on-sre
    """
    from peftport.workflows.actions import PortOptions, port_module
    from peftport.workflows.method_selection import port_by_selection

    if as_ not in (None, "adapter"):
        raise BadRequest(f"--as: expected adapter, got {as_!r}")
    chosen, settings = o.file_format(format_), o.train_settings(16, max_tokens, None)
    methods = o.names(method) or ()
    quiet_libraries()
    data = o.read_task(task, text, label, group, labels, words, description, prompt) if task else None
    means = PortOptions(texts, data, "adapter" if as_ else None, readout, settings, seed, steps)
    with bars() as progress:
        if len(methods) > 1:
            tried = port_by_selection(
                module, to, methods, means, origin=origin, trusted_origin=trusted_origin, out=out, file_format=chosen,
                test_items=test_items, progress=progress,
            )  # fmt: skip
        else:
            done = port_module(
                module, to, method, means, origin=origin, trusted_origin=trusted_origin, out=out, file_format=chosen,
                progress=progress,
            )  # fmt: skip
    if len(methods) > 1:
        _show_trial(tried, out, json_)
    else:
        _show_port(done, out, json_)


def _show_port(done: PortedModule, out: Path, json_: bool) -> None:
    from dataclasses import asdict

    choice, record = done.choice, done.module.ports[-1]
    if choice is not None:
        remark(f"auto: {choice.method} ({choice.word}): {choice.why}")
    if json_:
        document = {"out": str(out), "format": done.file_format, "technique": done.module.spec.kind}
        print_json(document | record.model_dump() | {"choice": asdict(choice) if choice else None})
        return
    kinds = {note: list(record.slots.values()).count(note) for note in dict.fromkeys(record.slots.values())}
    did = ", ".join(f"{count} slots {note}" for note, count in kinds.items())
    say(
        f"{out}: {done.module.spec.kind} from {record.origin.name} on {record.receiver.name} "
        f"by {record.method} ({done.file_format}): {did}"
    )


def _show_trial(tried: MethodSelection, out: Path, json_: bool) -> None:
    from peftport.report.checked import trial_table

    document: dict[str, Any] = {"out": str(out), "format": tried.file_format, "technique": tried.module.spec.kind}
    if json_:
        print_json(document | tried.module.ports[-1].model_dump() | {"trial": tried.as_json()})
        return
    print_table(trial_table(tried))
    say(f"{tried.sentence}.")
    say(f"written: {out}")
