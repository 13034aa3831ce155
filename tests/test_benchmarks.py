"""What the benchmarks conclude from what they measured, and what they give to all sides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    for name in ("agreement", "contestants", "work", "slice", "machine"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_accuracies_agree_within_what_seeds_explain() -> None:
    from agreement import agrees, tolerance

    steady, wild = [0.70, 0.70, 0.70, 0.70, 0.70], [0.50, 0.60, 0.70, 0.80, 0.90]
    assert tolerance(steady, steady) == 0.02
    assert tolerance(steady, wild) == pytest.approx(3 * (0.025 / 5) ** 0.5)
    assert agrees(steady, [0.715] * 5) and not agrees(steady, [0.73] * 5)
    assert agrees(wild, [0.80] * 5)
    assert agrees([0.7], [0.71]) and not agrees([0.7], [0.73])  # one pair: the floor is all there is


def test_speed_up_is_the_median_of_pairs_not_of_sides() -> None:
    """A machine that slows down half way slows both of a pair."""
    from agreement import speed_up

    assert speed_up([1, 1, 10], [3, 3, 20]) == 3
    assert speed_up([2.0], [1.0]) == 0.5
    with pytest.raises(ValueError):
        speed_up([1.0, 2.0], [1.0])


def test_nobody_is_asked_for_what_he_lacks() -> None:
    from contestants import CONTESTANTS

    ours, trainer, lean, adapters = CONTESTANTS
    for kind in ("encoder", "encoder_decoder"):
        assert all(ours.can(technique, kind) is None for technique in ("lora", "adapter", "compacter", "prefix"))
        for peft in (trainer, lean):
            assert peft.can("lora", kind) is None
            assert peft.can("adapter", kind) == "peft has no adapter"
    assert trainer.can("prefix", "encoder") is None
    assert "decoder" in (trainer.can("prefix", "encoder_decoder") or "")
    assert (adapters.can("adapter", "encoder") is None) == adapters.python.exists()


def test_the_slice_is_48_runs_of_a_valid_study(tmp_path: Path) -> None:
    from slice import study_file

    from peftport.study.grid import read_study, run_count

    file = tmp_path / "slice.toml"
    file.write_text(study_file(["lora", "adapter", "compacter", "prefix"], [0, 5, 15], 1, 40, 200), encoding="utf-8")
    study = read_study(file)
    assert run_count(study) == 48
    assert (study.training.origin_steps, study.testing.items, study.training.max_tokens) == (40, 200, 64)
    file.write_text(study_file(["lora"], [0, 5, 15], 10, 40, 200), encoding="utf-8")
    assert run_count(read_study(file)) == 120
