"""Predictions: only from other pairs of hosts, only inside what was seen, and as wide as what was seen is spread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from held_out_pairs import leave_one_pair_out
from peftport.analysis.measures import Evidence
from peftport.analysis.prediction import Asked, RecordedPort, predict, recorded
from peftport.analysis.prediction.predict import FEWEST, LEVEL, NEAREST
from peftport.study.export import read_about
from record_ports import distilled_ports, markdown
from recorded_of_runs import Relation, collect
from recorded_of_upgrades import upgraded_ports

RESULTS = Path(__file__).parents[2] / "results"
ASKED = Asked("lora", "copy", "bert", "bert", True, 0.01, frozenset({"a", "new"}), "t", 60, None)


def port(receiver: str, distance: float | None, gain: float, lift: float = 0.1, **changes: object) -> RecordedPort:
    made = RecordedPort(
        study="s", origin="a", receiver=receiver, marks=("a", receiver), origin_family="bert", receiver_family="bert",
        same_vocabulary=True, distance=distance, technique="lora", method="copy", task="t", seeds=3, items=100,
        base=0.6, ceiling=0.6 + lift, ported=0.6 + gain, sampled=None, gain_low=gain - 0.1, gain_high=gain + 0.1,
        origin_steps=40, home=0.1, home_low=0.05, lift_low=lift - 0.05,
    )  # fmt: skip
    return made.model_copy(update=changes)


LADDER = [port("b", 0.001, 0.10), port("c", 0.005, 0.08), port("d", 0.02, 0.06), port("e", 0.05, 0.01)]


def test_the_interval_is_the_spread_of_the_nearest_pairs() -> None:
    found = predict([*LADDER, port("f", 1.0, -0.5)], ASKED)
    gains = np.array([0.10, 0.08, 0.06, 0.01])
    assert found.pairs == NEAREST == 4
    margin = stats.t.ppf((1 + LEVEL) / 2, 3) * gains.std(ddof=1) * (1 + 1 / 4) ** 0.5
    assert found.gain is not None and found.retention is not None
    assert (found.gain.estimate, found.gain.high) == pytest.approx((gains.mean(), gains.mean() + margin))
    assert found.retention.estimate == pytest.approx(gains.mean() / 0.1)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Outcomes that vary alike around one mean: the interval of four holds a fifth at its level."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        gains = rng.normal(0.05, 0.02, 5)
        ports = [port(f"h{i}", 0.01 * (i + 1), float(g)) for i, g in enumerate(gains[:4])]
        found = predict(ports, replace(ASKED, distance=0.02)).gain
        assert found is not None
        held += found.low <= gains[4] <= found.high
    assert held / 400 == pytest.approx(LEVEL, abs=0.06)


@pytest.mark.parametrize("marks", [("a", "new"), ("new", "a")])
def test_the_pair_itself_is_left_out_in_both_directions(marks: tuple[str, str]) -> None:
    itself = port("new", 0.01, 0.9 - 0.6, lift=0.4, marks=marks)
    assert predict([*LADDER, itself], ASKED) == predict(LADDER, ASKED)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"technique": "prefix"}, "not on record"),
        ({"method": "theseus"}, "not on record"),
        ({"receiver_family": "t5"}, "from bert to t5"),
        ({"origin_family": "opt"}, "from opt to bert"),
        ({"same_vocabulary": False}, "different vocabularies"),
        ({"distance": 0.0005}, "weights are 0.0005 apart, ports on record 0.001 to 0.05"),
        ({"distance": 0.06}, "weights are 0.06 apart"),
        ({"distance": None}, f"0 other pairs of hosts on record, expected {FEWEST}"),
        ({"task": "u"}, "modules on record are of other tasks or trainings than u, 60 steps (t, 40 steps)"),
        ({"steps": 81}, "modules on record are of other tasks or trainings than t, 81 steps"),
        ({"steps": 19}, "modules on record are of other tasks or trainings than t, 19 steps"),
        ({"task": None}, "the module does not record its task"),
        ({"steps": None}, "the module does not record its task and for how many steps"),
        ({"home_low": 0.02}, "the module's own gain at home is not settled to reach 0.03"),
    ],
)
def test_outside_what_was_seen_it_is_unknown(changes: dict[str, object], says: str) -> None:
    found = predict(LADDER, replace(ASKED, **changes))  # type: ignore[arg-type]
    assert found.gain is found.retention is None
    assert found.unknown is not None and says in found.unknown


def test_two_pairs_are_too_few_and_directions_are_one_pair() -> None:
    back = port("b", 0.001, 0.2, marks=("b", "a"))
    found = predict([LADDER[0], back, LADDER[2]], ASKED)
    assert found.unknown == f"2 other pairs of hosts on record, expected {FEWEST} or more"


def test_pairs_without_a_distance_are_held_against_one_another() -> None:
    shapes = [port(name, None, gain) for name, gain in (("b", 0.0), ("c", 0.01), ("d", -0.01))]
    found = predict([*LADDER, *shapes], replace(ASKED, distance=None))
    assert found.pairs == 3 and found.gain is not None and found.gain.estimate == pytest.approx(0)


@pytest.mark.parametrize("changes", [{"lift_low": 0.02}, {"lift_low": None}])
def test_a_lift_that_is_not_settled_has_no_share(changes: dict[str, object]) -> None:
    flat = [p.model_copy(update=changes) for p in LADDER]
    found = predict(flat, ASKED)
    assert found.gain is not None and found.retention is None


@pytest.mark.parametrize("steps", [20, 80])
def test_a_training_half_or_twice_as_long_is_alike(steps: int) -> None:
    assert predict(LADDER, replace(ASKED, steps=steps)).gain == predict(LADDER, ASKED).gain


def test_modules_that_learnt_nothing_at_home_foretell_nothing() -> None:
    """Where that is on record; where it is not, they count, and what is said of the prediction says so."""
    nothing = [port(f"n{i}", 0.01, -0.3, home_low=0.01) for i in range(4)]
    found = predict([*LADDER, *nothing], ASKED)
    assert found == predict(LADDER, ASKED)
    assert found.basis == "4 other pairs of hosts, 3 seeds and 100 test items each, modules for t of 40 steps"
    untold = [p.model_copy(update={"home": None, "home_low": None}) for p in LADDER[:1]]
    said = predict([*untold, *LADDER[1:]], ASKED).basis
    assert said.endswith("what they gained at home is not on record for 1 of 4")


def test_held_out_errors_are_those_of_what_came_out() -> None:
    [kind, every] = leave_one_pair_out(LADDER)
    assert (kind.name, every.name) == ("lora by copy", "all")
    assert (kind.asked, kind.unknown) == (4, 2)  # the nearest and the farthest pair lie outside the others
    assert kind.gain is not None and kind.gain.n == 2
    errors = [abs(0.08 - np.mean([0.10, 0.06, 0.01])), abs(0.06 - np.mean([0.10, 0.08, 0.01]))]
    assert kind.gain.mean_absolute == pytest.approx(np.mean(errors))


def remade(source: Path, ports: Sequence[RecordedPort]) -> list[RecordedPort]:
    """The records of one source of the table, with the relations and, where not measured there, distances it holds."""
    if source.parent.parts[-2:] == ("benchmarks", "results") and source.is_dir():
        held = {
            p.receiver: (Relation(p.marks, p.origin_family, p.receiver_family, p.same_vocabulary), p.distance)
            for p in ports
            if p.study == source.name
        }
        return upgraded_ports(source, lambda receiver: held[Path(receiver).name])
    document = json.loads((source if source.is_file() else source / "study.json").read_text(encoding="utf-8"))
    study = source.stem if source.is_file() else document["study"]["name"]
    own = [port for port in ports if port.study == study]
    relations = {
        (p.origin, p.receiver): Relation(p.marks, p.origin_family, p.receiver_family, p.same_vocabulary) for p in own
    }
    if source.is_file():
        here = {receiver: relation for (_, receiver), relation in relations.items()}
        return distilled_ports(study, document, here, {p.receiver: p.distance for p in own})
    evidence = Evidence.of(pl.read_parquet(source / "runs.parquet"), pl.read_parquet(source / "correct.parquet"))
    return collect(study, evidence, relations, read_about(source).study.origin_steps)


def test_the_table_is_what_the_committed_results_say() -> None:
    """Made anew from the same sources, with the relations that the table holds, it is the same table."""
    table = recorded()
    sources = [Path(word) for word in table.command.split()[2:]]
    assert sources
    made = []
    for source in sources:
        made += remade(RESULTS.parent / source, table.ports)
    assert len(made) == len(table.ports) > 10
    for one, other in zip(made, table.ports, strict=True):
        assert one.model_copy(update={"distance": other.distance}) == other
        assert one.distance == pytest.approx(other.distance)


def test_the_documented_errors_are_those_of_the_table() -> None:
    page = (RESULTS.parent / "docs" / "check.md").read_text(encoding="utf-8")
    assert markdown(leave_one_pair_out(recorded().ports)) in page, f"paste what `{recorded().command}` prints"
