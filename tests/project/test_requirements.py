"""Lower bounds are tested ones: requirements/minimal.txt pins them, requirements/dev.txt is not below them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["peft"], *EXTRAS["bits"]]]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = (line.partition("==")[::2] for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in found}


@pytest.mark.parametrize("declared", [each for each in DECLARED if each.name != "torch"], ids=lambda each: each.name)
def test_the_lowest_version_is_the_bound(declared: Requirement) -> None:
    [bound] = [Version(each.version) for each in declared.specifier if each.operator == ">="]
    pinned = pins("minimal")[canonicalize_name(declared.name)]
    assert pinned.release[: len(bound.release)] == bound.release
    assert pins("dev")[canonicalize_name(declared.name)] >= pinned


def test_every_tracker_has_an_extra_of_its_name() -> None:
    from peftport.tracking import TRACKERS

    assert TRACKERS.keys() <= PROJECT["optional-dependencies"].keys()
    installed = pins("dev").keys() | ({"mlflow"} if "mlflow-skinny" in pins("dev") else set())
    assert installed >= TRACKERS.keys()
