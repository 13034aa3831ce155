"""`--anchors` of port and compare: pairs of modules of other tasks, on the origin and on the receiver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftport import port
from peftport.core.errors import BadRequest
from peftport.hosts import load as loading
from peftport.hosts.load import load_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module
from pico import SPECS, random_matrices
from pico_folders import Run


@pytest.fixture
def anchors(hosts: dict[str, Path], tmp_path: Path) -> list[str]:
    """Three pairs between hosts of different width, as the command line names them."""
    pairs = []
    for seed, letter in enumerate("abc"):
        for name in ("bert", "bert-wide"):
            host = load_host(str(hosts[name]))
            module = Module(SPECS["lora"], host.fingerprint, random_matrices(host, SPECS["lora"], seed + len(name)))
            write_module(module, host, tmp_path / name / letter)
        pairs.append(f"{tmp_path / 'bert' / letter}={tmp_path / 'bert-wide' / letter}")
    return pairs


def given(pairs: list[str]) -> list[str]:
    return [word for pair in pairs for word in ("--anchors", pair)]


def test_a_module_is_carried_by_anchors(
    peftport: Run, hosts: dict[str, Path], anchors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first anchor's own module becomes its other half; no host is loaded for it."""
    monkeypatch.setattr(loading, "load_host", lambda *_: pytest.fail("a host was loaded"))
    old, new = (Path(folder) for folder in anchors[0].split("="))
    asked = ["port", old, "--to", hosts["bert-wide"], "--method", "anchor_ridge", *given(anchors)]
    done = peftport(*asked, "--out", tmp_path / "made", "--json")
    assert done.code == 0, done.err
    made, truth = read_module(tmp_path / "made"), read_module(new)
    for slot, own in truth.matrices.items():
        found = made.matrices[slot]["B"] @ made.matrices[slot]["A"]
        torch.testing.assert_close(found, own["B"] @ own["A"], atol=1e-5, rtol=0)
    pairs = dict(pair.split("=") for pair in anchors)
    again = port(old, hosts["bert-wide"], method="anchor_ridge", anchors=pairs, out=tmp_path / "again")
    assert again is not None
    twice = read_module(tmp_path / "again")
    assert all(torch.equal(twice.matrices[slot]["A"], own["A"]) for slot, own in made.matrices.items())


def test_folders_of_peft_are_anchors_too(
    peftport: Run, hosts: dict[str, Path], anchors: list[str], tmp_path: Path
) -> None:
    """They do not describe their hosts, which are those of the port."""
    pairs = []
    for pair in anchors:
        folders = []
        for place, name in zip(map(Path, pair.split("=")), ("bert", "bert-wide"), strict=True):
            host = load_host(str(hosts[name]))
            write_module(read_module(place), host, tmp_path / "peft" / name / place.name, "peft")
            folders.append(str(tmp_path / "peft" / name / place.name))
        pairs.append("=".join(folders))
    old, new = (Path(folder) for folder in pairs[0].split("="))
    asked = ["port", old, "--to", hosts["bert-wide"], "--from", hosts["bert"], "--method", "anchor_ridge"]
    done = peftport(*asked, *given(pairs), "--out", tmp_path / "made")
    assert done.code == 0, done.err
    host = load_host(str(hosts["bert-wide"]))
    made, truth = read_module(tmp_path / "made", host), read_module(new, host)
    for slot, own in truth.matrices.items():
        found = made.matrices[slot]["B"] @ made.matrices[slot]["A"]
        torch.testing.assert_close(found, own["B"] @ own["A"], atol=1e-5, rtol=0)


def test_methods_are_told_apart_with_anchors(
    peftport: Run, hosts: dict[str, Path], anchors: list[str], reviews: Path, tmp_path: Path
) -> None:
    old, out = anchors[0].split("=")[0], tmp_path / "made"
    asked = ["--to", hosts["bert-wide"], "--task", reviews, "--test-items", 8]
    methods = ["--method", "anchor_mean,anchor_ridge", *given(anchors)]
    done = peftport("port", old, *asked, *methods, "--out", out, "--json")
    assert done.code == 0, done.err
    assert [one["method"] for one in done.json["trial"]["methods"]] == ["anchor_mean", "anchor_ridge"]
    short = ["--budgets", "0,1", "--seeds", 1, "--batch-size", 4, "--method", "anchor_ridge", *given(anchors)]
    compared = peftport("compare", old, *asked, *short, "--json")
    assert compared.code == 0, compared.err
    assert compared.json["plan"]["method"] == "anchor_ridge"


def test_wrong_anchors_are_refused(
    refused: Callable[..., str], hosts: dict[str, Path], anchors: list[str], modules: dict[str, Path], reviews: Path
) -> None:
    old, new = anchors[0].split("=")
    to: list[Any] = ["--to", hosts["bert-wide"], "--method", "anchor_ridge"]
    for command, more in (("port", ["--out", "made"]), ("compare", ["--task", reviews])):
        start = [command, old, *to, *more]
        refused(*start, says=("anchor_ridge: needs at least 2 pairs of anchors", "--anchors"))
        refused(*start, *given(anchors[:1]), says=("one given",))
        refused(*start, "--anchors", old, says=("--anchors: expected KEY=VALUE", "anchors/a-on-old"))
        refused(*start, *given([anchors[0], f"{new}={old}"]), says=("first module of anchor 2", "expected one of bert"))
        refused(*start, *given([anchors[0], f"{anchors[1].split('=')[0]}={old}"]), says=("second module of anchor 2",))
        refused(*start, *given([anchors[0], f"{modules['adapter']}={new}"]), says=("kind=adapter",))
        refused(*start, *given([anchors[0], f"nowhere={new}"]), says=("nowhere",))
    with pytest.raises(BadRequest, match="needs at least 2 pairs"):
        port(old, hosts["bert-wide"], method="anchor_mean")


def test_a_study_has_no_anchors(peftport: Run, tmp_path: Path) -> None:
    from pico_study import TINY

    study = tmp_path / "study.toml"
    study.write_text(TINY, encoding="utf-8")
    told = peftport("study", "plan", study, "--set", 'porters=["anchor_ridge"]')
    assert told.code == 2 and told.err.count("\n") == 1
    assert "porters: expected methods that need no anchors, got anchor_ridge" in told.err
