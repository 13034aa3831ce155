"""The commands ``tasks list`` and ``tasks show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from peftport.cli import options as o
from peftport.cli.console import AS_JSON, AsJson, plain_bars, print_json, print_table, remark, say
from peftport.workflows.task_requests import TaskShowRequest

if TYPE_CHECKING:
    from peftport.tasks.task import Task
    from peftport.workflows.reading import HostReading

app = typer.Typer(help="List the built-in tasks, and show how a task is split.", no_args_is_help=True)


@app.command("list")
def list_tasks(json_: AsJson = False) -> None:
    """List the built-in tasks.

    Example: peftport tasks list
    """
    from peftport.report.table import Table
    from peftport.tasks import TASKS

    rows = [(n, ", ".join(t.spec.labels), t.spec.domain, t.origin) for n, t in TASKS.items()]
    if json_:
        keys = ("name", "labels", "domain", "source")
        print_json({"tasks": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    print_table(Table("tasks", ("name", "labels", "domain", "source"), tuple(rows)))


def show(**texts: Any) -> None:
    """Split a task and print what is in each part."""
    as_json = texts.pop("json_")
    request = TaskShowRequest(**o.values_of(TaskShowRequest, texts))
    with plain_bars() as progress:
        data = o.read_task(request, progress)
    reading = _reading(request, data)
    for line in data.remarks:
        remark(line)
    parts: dict[str, dict[str, Any]] = {
        name: {
            "items": len(split),
            "labels" if data.spec.labels else "targets": data.spec.summary(split.targets),
        }
        for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test))
    }
    if as_json:
        dropped = asdict(data.report)
        print_json(
            {
                "spec": data.spec.model_dump(mode="json"),
                "remarks": list(data.remarks),
                "splits": parts,
                "dropped": dropped,
                "digest": data.digest,
                **({"reading": asdict(reading)} if reading else {}),
            }
        )
        return
    pairs = f"pairs of {' and '.join(data.spec.fields)}; " if len(data.spec.fields) > 1 else ""
    labels = f"labels {', '.join(data.spec.labels)}; " if data.spec.labels else ""
    kind = "" if data.spec.kind == "classification" else f"{data.spec.kind}, {data.spec.title} for each text; "
    say(f"{data.spec.name}: {kind}{pairs}{labels}domain {data.spec.domain}")
    for name, part in parts.items():
        summary: dict[str, float] = part.get("labels") or part["targets"]
        say(f"  {name:5}  {part['items']:6} items  " + ", ".join(f"{word} {n:.6g}" for word, n in summary.items()))
    dropped_text = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in asdict(data.report).items() if n)
    say(f"  dropped: {dropped_text or 'nothing'}\n  digest {data.digest[:16]}")
    if reading is not None:
        say(f"  {reading.host} reads, with the readout {reading.readout}:")
    for example in reading.examples if reading is not None else ():
        say("\n".join(f"    | {line}" for line in example.text.split("\n")))
        if example.answer is not None:
            say(f"    learns: {example.answer}")
        say(f"    ({example.tokens} tokens)")


def _reading(request: TaskShowRequest, data: Task) -> HostReading | None:
    """What the host that is named reads of the task."""
    if request.host is None:
        return None
    from peftport.workflows.reading import reading_of

    return reading_of(data, str(request.host), request.readout, request.max_tokens)


app.command("show")(o.as_command(show, "show", TaskShowRequest, [*o.parameters_of(TaskShowRequest), AS_JSON]))
