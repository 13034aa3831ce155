"""Make the table that `peftport check` foretells from, of committed results of studies, and say how far it is off.

    PYTHONPATH=src python tools/record_ports.py results/drift [results/...] [benchmarks/results/unlabelled.json]
        [benchmarks/results/upgrades]

A folder is what `peftport study export` wrote (runs.parquet, correct.parquet, study.json), or what
benchmarks/upgrades.py wrote. The file is what benchmarks/unlabelled.py wrote: of it distilled modules are taken, with
the most texts that were tried. The named hosts must be on this machine, since families and vocabularies are read from
them; hosts that a study made have those of their base. Writes src/peftport/analysis/prediction/recorded.json and prints
the errors that docs/check.md states.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from held_out_pairs import Errors, HeldOut, leave_one_pair_out
from peftport.analysis.measures import Evidence
from peftport.analysis.prediction.recorded import MARK, TABLE, Recorded, RecordedPort
from peftport.core.hashing import digest
from peftport.hosts.distance import weight_distance
from peftport.hosts.layouts import layout_for
from peftport.hosts.load import load_tokenizer
from peftport.hosts.opening import open_host
from peftport.hosts.sources import find_host, read_config
from peftport.study.about import FILE, About
from peftport.workflows.distill import NAME as DISTILL
from recorded_of_runs import Relation, collect
from recorded_of_upgrades import declaration, upgraded_ports

OUT = Path(__file__).parents[1] / "src" / "peftport" / "analysis" / "prediction" / TABLE


def main(folders: list[str]) -> None:
    """Read the folders, write the table, print the errors."""
    if not folders:
        sys.exit("record_ports: expected folders of results, got none; try results/drift")
    ports = [port for name in folders for port in reader_of(Path(name))(Path(name))]
    command = f"python tools/record_ports.py {' '.join(folders)}"
    table = Recorded(command=command, ports=tuple(ports))
    OUT.write_text(json.dumps(table.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    print(f"{len(ports)} ports of {len({port.pair for port in ports})} pairs of hosts: {OUT.name}\n")
    print(markdown(leave_one_pair_out(ports)))


def reader_of(results: Path) -> Callable[[Path], list[RecordedPort]]:
    """What reads these results."""
    if results.suffix == ".json":
        return distilled
    return ports_of if (results / FILE).is_file() else upgraded


def ports_of(folder: Path) -> list[RecordedPort]:
    """The recorded ports of one folder of results."""
    about = About.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    evidence = Evidence.of(pl.read_parquet(folder / "runs.parquet"), pl.read_parquet(folder / "correct.parquet"))
    return collect(about.study.name, evidence, relations_of(about), about.study.origin_steps)


def relations_of(about: About) -> dict[tuple[str, str], Relation]:
    """Families and vocabularies of the study's pairs."""
    kin = {name: _kin(name, about) for pair in about.study.pairs for name in pair}
    return {
        (one, other): Relation(
            (about.hosts[one][:MARK], about.hosts[other][:MARK]), kin[one][0], kin[other][0],
            kin[one][1] == kin[other][1],
        )
        for one, other in about.study.pairs
    }  # fmt: skip


def distilled(file: Path) -> list[RecordedPort]:
    """The recorded ports of a run of benchmarks/unlabelled.py."""
    measured = json.loads(file.read_text(encoding="utf-8"))
    both = {name: related(measured["origin"], name) for name in {row["receiver"] for row in measured["rows"]}}
    relations, distances = {n: found[0] for n, found in both.items()}, {n: found[1] for n, found in both.items()}
    return distilled_ports(file.stem, measured, relations, distances)


def upgraded(folder: Path) -> list[RecordedPort]:
    """The recorded ports of a run of benchmarks/upgrades.py."""
    origin: str = declaration(folder)["origin"]
    return upgraded_ports(folder, lambda receiver: related(origin, receiver))


def related(origin: str, receiver: str) -> tuple[Relation, float | None]:
    """How two hosts on this machine are related, and how far apart their weights are."""
    marks = (open_host(origin).fingerprint.weights[:MARK], open_host(receiver).fingerprint.weights[:MARK])
    one, other = _kin_of(origin), _kin_of(receiver)
    distance = weight_distance(find_host(origin).folder, find_host(receiver).folder)
    return Relation(marks, one[0], other[0], one[1] == other[1]), distance


def distilled_ports(
    study: str, measured: dict[str, Any], relations: dict[str, Relation], distances: dict[str, float | None]
) -> list[RecordedPort]:
    """Records of what was distilled with the most texts and not trained further; relations by receiver."""
    rows = [row for row in measured["rows"] if row["method"] == DISTILL and row["steps"] == 0]
    most = max(row["texts"] for row in rows)
    found = [
        RecordedPort(
            study=study,
            origin=measured["origin"],
            receiver=row["receiver"],
            marks=relations[row["receiver"]].marks,
            origin_family=relations[row["receiver"]].origin_family,
            receiver_family=relations[row["receiver"]].receiver_family,
            same_vocabulary=relations[row["receiver"]].same_vocabulary,
            distance=distances[row["receiver"]],
            technique=row["technique"],
            method=DISTILL,
            task=measured["task"],
            seeds=len(measured["seeds"]),
            items=measured["items"],
            base=round(row["bare"], 6),
            ceiling=round(row["ceiling"], 6),
            ported=round(row["accuracy"], 6),
            sampled=None,
            gain_low=round(row["over_bare"][1], 6),
            gain_high=round(row["over_bare"][2], 6),
            origin_steps=measured["steps"],
            home=None,
            home_low=None,
            lift_low=None,
        )
        for row in rows
        if row["texts"] == most
    ]
    return sorted(found, key=lambda p: (p.technique, p.receiver))


def _kin(name: str, about: About) -> tuple[str, str]:
    """Family and vocabulary (its digest) of a host; an update has its base's."""
    while name in about.study.hosts:
        name = about.study.hosts[name].base
    return _kin_of(name)


def _kin_of(name: str) -> tuple[str, str]:
    """Family and vocabulary of a host on this machine."""
    source = find_host(name)
    layout = layout_for(read_config(source.folder), source.name)
    return layout.family, digest(load_tokenizer(source).get_vocab())


def markdown(rows: list[HeldOut]) -> str:
    """The errors as docs show them; of what was never foretold, only that in the last line's count."""
    lines = [
        "| ports | pairs left out | unknown | gain: mean error | inside | retention: mean error | inside |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    shown = [row for row in rows if row.gain is not None or row is rows[-1]]
    lines += [f"| {r.name} | {r.asked} | {r.unknown} | {_cells(r.gain)} | {_cells(r.retention)} |" for r in shown]
    return "\n".join(lines)


def _cells(errors: Errors | None) -> str:
    if errors is None:
        return "- | -"
    return f"{errors.mean_absolute:.3f} (intervals +-{errors.half_width:.3f}) | {errors.covered} of {errors.n}"


if __name__ == "__main__":
    main(sys.argv[1:])
