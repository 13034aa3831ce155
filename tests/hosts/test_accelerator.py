"""On a GPU the same modules come out as on the processor. Where there is no GPU, nothing here can be tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hosts.test_loading import KINDS, by_kind, by_technique, trained
from hosts.test_mixed import ROWS, saved
from peftport.hosts import calibration
from peftport.hosts.host import Host, View
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.hosts.weights import HostWeights
from peftport.objectives import bind_objective
from peftport.study.devices import devices_of_workers
from peftport.techniques import TECHNIQUES
from peftport.training.evaluation import score_entries
from peftport.training.memory import free_bytes
from pico import CONFIGS, SPECS, TOY, inputs_of, random_matrices

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


def on(home: Path, model_type: str, readout: str, **loading: Any) -> Host:
    view: View = "language_model" if readout == "label_tokens" else "body"
    return load_host(str(saved(home / model_type, model_type)), view, Loading(**loading))


@by_kind
@by_technique
def test_training_and_scores_are_those_of_the_processor(
    home: Path, model_type: str, readout: str, technique: str
) -> None:
    """In float32: products on the card are not shortened to the 10 bits of TF32.

    Adam divides by the size of gradients, so numbers whose gradients are nearly zero may move either way.
    """
    here, there = (on(home, model_type, readout, device=device) for device in ("cpu", "cuda"))
    assert there.device.type == "cuda"
    one, other = trained(here, readout, technique), trained(there, readout, technique)
    for slot, own in one.matrices.items():
        for name, tensor in own.items():
            assert (tensor - other.matrices[slot][name]).norm() <= 0.05 * tensor.norm() + 1e-4
    assert one.loss == pytest.approx(other.loss, abs=1e-4)
    found = []
    for host in (here, there):
        bound = bind_objective(readout, host, TOY)
        rows = bound.encode(["a good film", "the plot was dull and bad", "it is great"])
        [tested] = score_entries(host, bound, SPECS[technique], [one.matrices], rows, np.zeros(3, np.int64))
        found.append(tested.scores)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("dtype", ["mixed", "bfloat16"])
@by_kind
@by_technique
def test_narrower_formats_train_there_too(
    home: Path, model_type: str, readout: str, technique: str, dtype: str
) -> None:
    wide, narrow = (on(home, model_type, readout, device="cuda", dtype=each) for each in ("float32", dtype))
    one, other = trained(wide, readout, technique), trained(narrow, readout, technique)
    assert one.loss == pytest.approx(other.loss, rel=0.1, abs=0.1)
    assert all(tensor.dtype == torch.float32 for own in other.matrices.values() for tensor in own.values())


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_family_computes_the_same(home: Path, model_type: str) -> None:
    scores = []
    for device in ("cpu", "cuda"):
        host = on(home, model_type, "label_tokens", device=device)
        with torch.no_grad():
            scores.append(host.model(**inputs_of(host, ROWS)).logits.cpu())
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in KINDS}))
def test_methods_read_the_same_numbers(home: Path, model_type: str) -> None:
    here, there = (HostWeights(on(home, model_type, "", device=device)) for device in ("cpu", "cuda"))
    for slot in here.host.slots.values():
        if slot.kind == "linear":
            torch.testing.assert_close(here.matrix(slot).cpu(), there.matrix(slot).cpu(), rtol=0, atol=0)
    assert all(random_matrices(there.host, SPECS[technique], std=0.1) for technique in TECHNIQUES)


def test_the_card_is_found_timed_and_measured() -> None:
    assert devices_of_workers(Loading(device="auto")) == devices_of_workers(Loading(device="cuda")) != ()
    assert free_bytes(torch.device("cuda")) > 0
    assert calibration.chosen_format("cuda").ratio > 0
