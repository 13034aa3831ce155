"""demo, train, evaluate, compare, techniques, methods; check and port join them here in a first session's order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftport.cli import options as o
from peftport.cli.checking import check
from peftport.cli.console import AsJson, bars, print_json, print_table, quiet_libraries, remark, say
from peftport.cli.porting import port
from peftport.core.errors import BadRequest

if TYPE_CHECKING:
    from peftport.training.evaluation import Scores
    from peftport.workflows.comparison import Comparison


def register(app: typer.Typer) -> None:
    """Add the commands to the application, in the order of a first session."""
    for command in (demo, train, evaluate, check, port, compare, techniques, methods):
        app.command()(command)


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Where report.html, table.md and results.json go; files there are replaced.")
    ] = Path("demo"),
    json_: AsJson = False,
) -> None:
    """Four techniques, three arms, two real hosts, real reviews: the whole story in a few minutes.

    Example: peftport demo --out demo
    """
    import json

    from peftport.report.compared import demo_findings
    from peftport.report.html import render
    from peftport.report.tables import comparison_sentence, comparison_table, demo_page
    from peftport.store.artifacts import write_text
    from peftport.workflows.demo import run_demo

    if out.exists() and not out.is_dir():
        raise BadRequest(f"--out {out}: expected a folder, got a file; choose another")
    with bars() as progress:
        found = run_demo(progress=progress)
    write_text(out / "results.json", json.dumps(found.as_json(), indent=2) + "\n")
    write_text(out / "table.md", demo_page(found))
    write_text(out / "report.html", render(demo_findings(found)))
    if json_:
        print_json(found.as_json())
        return
    print_table(comparison_table(found.comparisons))
    say(comparison_sentence(found.comparisons))
    written = f"Page: {out / 'report.html'}   table: {out / 'table.md'}   every run: {out / 'results.json'}"
    say(f"\n{written}   ({found.seconds:.0f} s)")


def train(
    host: o.HostArgument,
    task: o.TaskArgument,
    technique: Annotated[str, typer.Option("--technique", "-t", help="lora, adapter, compacter or prefix.")],
    out: Annotated[Path, typer.Option("--out", help="The new module's folder.")],
    settings: o.Settings = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps.")] = 120,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of initialisation and data order.")] = 0,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = 16,
    max_tokens: o.MaxTokens = 128,
    load: o.Load = None,
    readout: o.ReadoutName = None,
    test_items: o.TestItems = None,
    text: o.Text = None,
    label: o.Label = None,
    group: o.Group = None,
    labels: o.Labels = None,
    words: o.Words = None,
    description: o.Description = None,
    prompt: o.Prompt = None,
    format_: o.FormatName = None,
    json_: AsJson = False,
) -> None:
    """Train a module on a host and test it.

    Example: peftport train all-MiniLM-L6-v2 rotten_tomatoes --technique lora --out modules/lora
    """
    from peftport.techniques import make_spec
    from peftport.workflows.actions import train_module

    spec = make_spec(technique, o.settings_dict(settings))
    chosen = o.train_settings(batch_size, max_tokens, learning_rate)
    quiet_libraries()
    data = o.read_task(task, text, label, group, labels, words, description, prompt)
    with bars() as progress:
        trained = train_module(
            host, data, spec, out=out, steps=steps, seed=seed, learning_rate=learning_rate, readout=readout,
            settings=chosen, loading=o.loading(load), test_items=test_items,
            file_format=o.file_format(format_) or "native", progress=progress,
        )  # fmt: skip
    module = trained.module
    if json_:
        print_json({
            "out": str(out), "technique": module.spec.model_dump(mode="json"), "host": module.host.model_dump(),
            "parameters": module.parameters, "steps": steps, "seed": seed, "task": data.spec.name,
            "bare": _scores(trained.bare), "with_module": _scores(trained.scores),
        })  # fmt: skip
        return
    say(
        f"{out}: {technique} on {module.host.name}, {module.parameters:,} parameters, {steps} steps; accuracy on "
        f"{data.spec.name} {trained.scores.accuracy:.3f}, host alone {trained.bare.accuracy:.3f} "
        f"({len(trained.bare.labels)} test items)"
    )


def evaluate(
    host: o.HostArgument,
    task: o.TaskArgument,
    module: Annotated[
        Path | None, typer.Option("--module", help="A module of this host; without it the host alone is tested.")
    ] = None,
    max_tokens: o.MaxTokens = 128,
    load: o.Load = None,
    readout: o.ReadoutName = None,
    test_items: o.TestItems = None,
    text: o.Text = None,
    label: o.Label = None,
    group: o.Group = None,
    labels: o.Labels = None,
    words: o.Words = None,
    description: o.Description = None,
    prompt: o.Prompt = None,
    json_: AsJson = False,
) -> None:
    """Test a host, alone or with a module, on a task's test items.

    Example: peftport evaluate sre rotten_tomatoes --module modules/lora-on-sre
    """
    from peftport.workflows.actions import evaluate_host

    chosen = o.train_settings(16, max_tokens, None)
    quiet_libraries()
    data = o.read_task(task, text, label, group, labels, words, description, prompt)
    with bars() as progress:
        scores = evaluate_host(
            host, data, module=module, readout=readout, settings=chosen, loading=o.loading(load),
            test_items=test_items, progress=progress,
        )  # fmt: skip
    if json_:
        print_json({"host": host, "task": data.spec.name, "module": str(module) if module else None, **_scores(scores)})
        return
    more = (
        f", AUROC {scores.auroc:.3f}, accuracy at the median threshold {scores.accuracy_at_median:.3f}"
        if scores.auroc is not None
        else ""
    )
    say(
        f"{host} on {data.spec.name}{f' with {module}' if module else ''}: "
        f"accuracy {scores.accuracy:.3f}{more} ({len(scores.labels)} test items)"
    )


def compare(
    module: o.ModuleArgument,
    to: o.To,
    task: Annotated[str, typer.Option("--task", metavar="TASK", help=o.TASK_HELP)],
    origin: o.From = None,
    trusted_origin: o.TrustOrigin = None,
    budgets: Annotated[str, typer.Option("--budgets", help="Steps of further training before each test.")] = "0,10,40",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, ...")] = 3,
    arms: Annotated[str, typer.Option("--arms", help="Which arms.")] = "ported,sampled,scratch",
    method: Annotated[
        str, typer.Option("--method", help="How to port (peftport methods); auto: as check chooses.")
    ] = "copy",
    sampler: Annotated[
        str, typer.Option("--sampler", help="gaussian, permutation, spectrum or norm_matched.")
    ] = "gaussian",
    texts: o.Texts = None,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = 16,
    max_tokens: o.MaxTokens = 128,
    load: o.Load = None,
    readout: o.ReadoutName = None,
    test_items: o.TestItems = 500,
    text: o.Text = None,
    label: o.Label = None,
    group: o.Group = None,
    labels: o.Labels = None,
    words: o.Words = None,
    description: o.Description = None,
    prompt: o.Prompt = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write a page (HTML); replaced if it exists.")] = None,
    json_: AsJson = False,
) -> None:
    """Compare the ported module with sampled parameters and with training from scratch, on your data.

    Example: peftport compare modules/lora --to sre --task rotten_tomatoes --budgets 0,10,40
    """
    from peftport.core.arms import arm_names
    from peftport.workflows.actions import compare_module
    from peftport.workflows.comparison import ComparisonPlan

    if out is not None and out.is_dir():
        raise BadRequest(f"--out {out}: expected a file name, got a folder; give {out / 'report.html'}")
    steps, asked = o.numbers(budgets, "--budgets"), arm_names(o.names(arms) or ())
    plan = ComparisonPlan(steps, tuple(range(seeds)), asked, method, sampler, learning_rate)
    chosen = o.train_settings(batch_size, max_tokens, learning_rate)
    quiet_libraries()
    data = o.read_task(task, text, label, group, labels, words, description, prompt)
    with bars() as progress:
        found = compare_module(
            module, to, data, plan, origin=origin, trusted_origin=trusted_origin, readout=readout, settings=chosen,
            loading=o.loading(load), test_items=test_items, texts=texts, progress=progress,
        )  # fmt: skip
    if found.choice is not None:
        remark(f"auto: {found.choice.method} ({found.choice.word}): {found.choice.why}")
    command = f"peftport compare {module} --to {to} --task {task} --budgets {budgets} --seeds {seeds} --method {method}"
    _show(found, command, out, json_)


def _show(found: Comparison, command: str, out: Path | None, json_: bool) -> None:
    """A comparison as a table with its sentences, as JSON, and as a page where one is asked for."""
    from peftport.report.compared import comparison_page
    from peftport.report.tables import comparison_sentence, comparison_table
    from peftport.store.artifacts import write_text
    from peftport.workflows.compare_tables import verdict_of

    verdict, summary = verdict_of(found), comparison_sentence([found])
    if out is not None:
        write_text(out, comparison_page(found, command))
    if json_:
        print_json({**found.as_json(), "summary": summary, "verdict": verdict})
        return
    print_table(comparison_table([found]))
    say(summary)
    if verdict is not None:
        say(verdict["sentence"])
    if out is not None:
        say(f"written: {out}")


def techniques(json_: AsJson = False) -> None:
    """The four techniques, their settings and where they come from.

    Example: peftport techniques --json
    """
    from peftport.report.tables import Table
    from peftport.techniques import TECHNIQUES, make_spec

    rows = [
        {
            "name": t.name, "title": t.title, "settings": make_spec(t.name).model_dump(mode="json", exclude={"kind"}),
            "learning_rates": {str(k): v for k, v in t.learning_rates.items()}, "source": t.source,
        }
        for t in TECHNIQUES.values()
    ]  # fmt: skip
    _listed(json_, "techniques", rows, Table)


def methods(json_: AsJson = False) -> None:
    """The porting methods and the samplers: what they need, what they fit, where they come from.

    Example: peftport methods
    """
    from peftport.porting import PORTERS, SAMPLERS
    from peftport.report.tables import Table
    from peftport.workflows import distill

    rows = [
        {
            "name": p.name, "kind": kind, "title": p.title, "needs": p.needs, "width": p.fits.width,
            "depth": p.fits.depth, "techniques": ",".join(p.fits.techniques), "source": p.source,
        }
        for kind, known in (("porter", PORTERS), ("sampler", SAMPLERS))
        for p in known.values()
    ]  # fmt: skip
    trained = {
        "name": distill.NAME, "kind": "training", "title": distill.TITLE, "needs": "training", "width": "any",
        "depth": "any", "techniques": "any to any", "source": distill.SOURCE,
    }  # fmt: skip
    rows.insert(len(PORTERS), trained)
    _listed(json_, "methods", rows, Table)


def _listed(json_: bool, title: str, rows: list[dict[str, Any]], table: Any) -> None:
    if json_:
        print_json({title: rows})
        return
    cells = [tuple(_plain(value) for value in row.values()) for row in rows]
    print_table(table(title, tuple(key.replace("_", " ") for key in rows[0]), tuple(cells)))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={_plain(inner)}" for key, inner in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _scores(scores: Scores) -> dict[str, Any]:
    return {
        "accuracy": scores.accuracy,
        "auroc": scores.auroc,
        "accuracy_at_median": scores.accuracy_at_median,
        "n_items": len(scores.labels),
    }
