"""What a check says is what the porters then do; the choice rests on records, and says so where there are none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from peftport.analysis.prediction import Prediction, RecordedPort
from peftport.analysis.prediction.recorded import FLOOR
from peftport.analysis.stats import Interval
from peftport.core.errors import BadRequest, ModuleRefused
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.opening import open_host
from peftport.modules.module import HomeTest, Module, TaskRecord, TrainingRecord, fresh_module
from peftport.porting import PORTERS, porter_named
from peftport.porting.base import PortInputs
from peftport.tasks import load_task
from peftport.techniques import TECHNIQUES, make_spec
from peftport.workflows.checking import AvailableInputs, FoundOrigin, PortCheck, check_port, find_origin
from peftport.workflows.checking.choice import choose_method
from peftport.workflows.checking.host_comparison import compare_hosts
from peftport.workflows.checking.methods import MethodCheck, OnRecord, method_checks
from peftport.workflows.checking.slots import nothing_fits
from pico import SPECS, WORDS, random_matrices
from pico_folders import save_hosts

NAMES = ("bert", "bert-updated", "bert-wide", "bert-deep", "distilbert", "t5")
TEXTS = tuple(" ".join(np.random.default_rng(i).choice(WORDS, 9)) for i in range(24))
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_hosts(tmp_path_factory.mktemp("hosts"), NAMES)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def module_on(host: Host, technique: str) -> Module:
    return Module(SPECS[technique], host.fingerprint, random_matrices(host, SPECS[technique]))


def checked(folders: dict[str, Path], technique: str, to: str, texts: tuple[str, ...] = ()) -> PortCheck:
    get = load_host if texts else open_host
    origin = get(str(folders["bert"]))
    receiver = get(str(folders[to]))
    return check_port(module_on(origin, technique), FoundOrigin(origin), receiver, texts=texts, rng=rng())


@by_technique
def test_one_host_is_alike_in_everything(technique: str, folders: dict[str, Path]) -> None:
    found = checked(folders, technique, "bert", TEXTS)
    hosts = found.host_comparison
    assert hosts.same_host and all(hosts.same.values()) and hosts.distance == 0
    assert hosts.tokens is not None and hosts.tokens.share == 1 and hosts.tokens.equal
    assert {one.state for one in found.slots.slots} == {"fits"} and not found.slots.unused
    assert [one.overlap for one in found.slots.slots] == pytest.approx([1.0] * len(found.slots.slots))
    assert [one.takes for one in found.slots.slots] == [one.slot for one in found.slots.slots]
    assert [(one.takes, one.most_like) for one in found.layers] == [(0, 0), (1, 1)]
    assert [one.cka for one in found.layers] == pytest.approx([1.0, 1.0])
    assert (found.choice.method, found.choice.word) == ("copy", "copy")


def test_distance_and_unequal_parts_of_an_update(folders: dict[str, Path]) -> None:
    found = checked(folders, "lora", "bert-updated")
    old, new = (load_file(folders[name] / "model.safetensors") for name in ("bert", "bert-updated"))
    moved = sum(float((new[k].double() - w.double()).square().sum()) for k, w in old.items())
    norm = sum(float(w.double().square().sum()) for w in old.values())
    assert found.host_comparison.distance == pytest.approx(math.sqrt(moved / norm))
    assert {part for part, same in found.host_comparison.same.items() if not same} == {"weights"}
    assert all(one.overlap is not None and one.overlap < 0.9 for one in found.slots.slots)


@by_technique
@pytest.mark.parametrize("to", ["bert-wide", "bert-deep", "distilbert", "t5"])
def test_states_are_what_resizing_then_does(technique: str, to: str, folders: dict[str, Path]) -> None:
    origin, receiver = open_host(str(folders["bert"])), open_host(str(folders[to]))
    module = module_on(origin, technique)
    slots = check_port(module, FoundOrigin(origin), receiver, rng=rng()).slots
    if technique == "prefix" and slots.count("no counterpart"):
        with pytest.raises(BadRequest, match="no counterpart"):
            porter_named("resize").port(module, receiver, rng())
        return
    did = porter_named("resize").port(module, receiver, rng()).ports[-1].slots
    meant = {"fits": "copied", "resizes": "resized", "no counterpart": "left out: no counterpart in the origin"}
    for one in slots.slots:
        assert did[one.slot].startswith(meant[one.state])
    assert len(slots.slots) == sum(not name.startswith("origin ") for name in did)


@by_technique
@pytest.mark.parametrize("to", ["bert-updated", "bert-wide", "bert-deep", "distilbert", "t5"])
def test_methods_can_what_they_are_said_to(technique: str, to: str, folders: dict[str, Path]) -> None:
    """A method without a refusal ports; one with a refusal refuses, for that reason."""
    origin, receiver = load_host(str(folders["bert"])), load_host(str(folders[to]))
    module = module_on(origin, technique)
    hosts = compare_hosts(module, FoundOrigin(origin), receiver)
    methods = {one.name: one for one in method_checks(module, hosts, receiver, AvailableInputs(texts=True), ())}
    assert [*methods] == [*PORTERS, "distill"]
    assert methods["distill"].lacking == "texts and training (--task TASK)"
    inputs = PortInputs(origin, TEXTS)
    for name, porter in PORTERS.items():
        one = methods[name]
        if one.able:
            assert porter.port(module, receiver, rng(), inputs).host == receiver.fingerprint, name
        elif one.refusal is not None:
            with pytest.raises(BadRequest) as refused:
                porter.port(module, receiver, rng(), inputs)
            assert str(refused.value) == one.refusal
        else:
            lacking = {"labels": "labels (--task TASK)"}
            lacking["anchors"] = "pairs of modules of other tasks on both hosts (--anchors FOLDER=FOLDER)"
            assert one.lacking == lacking[porter.needs], name


@pytest.mark.parametrize(
    ("to", "texts", "chosen"),
    [
        ("bert-updated", False, "copy"),
        ("bert-wide", False, "crosslora"),
        ("bert-wide", True, "regress"),
        ("bert-deep", False, "skip"),
    ],
)
def test_the_unmeasured_choice_goes_by_needs(to: str, texts: bool, chosen: str, folders: dict[str, Path]) -> None:
    found = checked(folders, "lora", to, TEXTS if texts else ())
    assert (found.choice.method, found.choice.word, found.choice.measured) == (chosen, "not enough evidence", False)
    assert "not measured" in found.choice.why
    assert (found.layers_note is None) == texts


def test_a_prefix_without_counterparts_is_to_be_trained_anew(folders: dict[str, Path]) -> None:
    found = checked(folders, "prefix", "t5")
    assert found.slots.count("no counterpart") > 0
    assert (found.choice.method, found.choice.word) == (None, "retrain")
    assert "--method distill" in found.choice.why


def test_an_origin_that_is_not_here_leaves_what_needs_it_open(folders: dict[str, Path]) -> None:
    origin, receiver = open_host(str(folders["bert"])), open_host(str(folders["bert-updated"]))
    module = module_on(origin, "lora")
    lost = find_origin(module, None, loaded=False)
    assert lost.host is None and "name it with --from HOST" in lost.note
    found = check_port(module, lost, receiver, texts=TEXTS, rng=rng())
    assert (
        not found.host_comparison.at_hand
        and found.host_comparison.distance is None
        and found.host_comparison.tokens is None
    )
    assert found.slots.count("fits") == 4 and {one.overlap for one in found.slots.slots} == {None}
    assert found.layers_note == f"not measured: {lost.note}"
    lacking = {one.name: one.lacking for one in found.methods if one.needs == "weights"}
    assert lacking and set(lacking.values()) == {"the origin (--from HOST)"}
    assert all(one.predicted.gain is None for one in found.methods)
    with pytest.raises(ModuleRefused, match="another fingerprint"):
        find_origin(module, str(folders["bert-updated"]), loaded=False)


# The rule alone


def interval(estimate: float, margin: float) -> Interval:
    return Interval(estimate, estimate - margin, estimate + margin, 0.8)


def method(name: str, gain: Interval | None = None, here: Interval | None = None, **changes: object) -> MethodCheck:
    told = Prediction(gain) if gain else Prediction(unknown="not on record")
    on_record = (OnRecord("s", "t", here, basis="3 seeds"),) if here else ()
    return replace(MethodCheck(name, "nothing", None, None, on_record, told), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "chosen", "word"),
    [
        # the first that gains, and a dearer one only where its whole interval lies above
        ([method("copy", interval(0.06, 0.03)), method("theseus", interval(0.08, 0.03))], "copy", "copy"),
        ([method("copy", interval(0.06, 0.01)), method("theseus", interval(0.09, 0.01))], "theseus", "align"),
        # nothing gains: train
        ([method("copy", interval(0.0, 0.04)), method("theseus", interval(FLOOR - 0.01, 0.04))], None, "retrain"),
        ([method("copy", interval(0.05, 0.09)), method("theseus")], "copy", "not enough evidence"),
        # what was recorded here counts before what others foretell
        ([method("copy", interval(0.06, 0.01), here=interval(-0.02, 0.01))], None, "retrain"),
        # methods that cannot, or lack something, do not count
        (
            [method("copy", interval(0.06, 0.01), refusal="widths"), method("resize")],
            "resize",
            "not enough evidence",
        ),
        (
            [method("copy", interval(0.0, 0.01)), method("regress", interval(0.1, 0.01), lacking="texts")],
            None,
            "retrain",
        ),
        # no porter can: distill where it may
        ([method("copy", refusal="widths"), method("distill")], "distill", "refresh"),
        ([method("copy", refusal="widths"), method("distill", lacking="labels")], None, "retrain"),
    ],
)
def test_the_rule(methods: list[MethodCheck], chosen: str | None, word: str) -> None:
    found = choose_method(methods, same_host=False)
    assert (found.method, found.word) == (chosen, word)


def test_retrain_names_what_is_left_without_labels() -> None:
    """Distilling, a task given or not, with what is on record of it; not where it gained nothing or is refused."""
    useless, left = [method("copy", interval(0.0, 0.01))], "Without labels, --method distill"
    assert left in choose_method([*useless, method("distill")], same_host=False).why
    found = choose_method([*useless, method("distill", interval(0.2, 0.05), lacking="a task")], same_host=False)
    assert left in found.why and "+0.200 [+0.150, +0.250]" in found.why and found.method is None
    for other in (method("distill", interval(0.0, 0.01)), method("distill", refusal="kinds")):
        assert left not in choose_method([*useless, other], same_host=False).why


def test_records_of_these_very_hosts_are_told_but_foretell_nothing(folders: dict[str, Path]) -> None:
    origin, receiver = open_host(str(folders["bert"])), open_host(str(folders["bert-updated"]))
    module = module_on(origin, "lora")
    hosts = compare_hosts(module, FoundOrigin(origin), receiver)
    marks = (origin.fingerprint.weights[:16], receiver.fingerprint.weights[:16])
    port = RecordedPort(
        study="s", origin="bert", receiver="bert-updated", marks=marks, origin_family="bert", receiver_family="bert",
        same_vocabulary=True, distance=hosts.distance, technique="lora", method="copy", task="t", seeds=3, items=100,
        base=0.6, ceiling=0.7, ported=0.65, sampled=None, gain_low=0.01, gain_high=0.09, origin_steps=40, home=0.1,
        home_low=0.05, lift_low=0.05,
    )  # fmt: skip
    basis = "3 seeds and 100 test items each, modules for t of 40 steps"
    for trained, alike in ((60, True), (90, False), (None, False)):
        module = told(module, trained)
        copy, *others = method_checks(module, hosts, receiver, AvailableInputs(), [port])
        assert copy.here == (OnRecord("s", "t", port.gain_interval, alike, basis),)
        assert copy.gain == (port.gain_interval if alike else None)
        assert copy.predicted.unknown == "not on record"
        assert not any(one.here for one in others)
    choice = choose_method(method_checks(told(module, 60), hosts, receiver, AvailableInputs(), [port]), same_host=False)
    assert choice.measured and f"(study s, {basis})" in choice.why
    module = module_on(receiver, "lora")
    hosts = compare_hosts(module, FoundOrigin(receiver), origin)
    back = method_checks(module, hosts, origin, AvailableInputs(), [port])
    assert not back[0].here


def told(module: Module, steps: int | None, task: str = "t", home: HomeTest | None = None) -> Module:
    """The module with the record of a task and of so many steps of training; without steps, with no record."""
    if steps is None:
        return replace(module, task=None, training=None)
    training = TrainingRecord(
        seed=0, steps=steps, batch_size=16, learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1.0, max_tokens=64,
        home=home,
    )  # fmt: skip
    record = TaskRecord(name=task, labels=("no", "yes"), digest="d", readout="prototype")
    return replace(module, task=record, training=training)


@pytest.mark.parametrize("technique", ["lora", "prefix"])
def test_strangers_of_which_no_slot_fits_are_distilled_or_trained_anew(
    technique: str, folders: dict[str, Path]
) -> None:
    """Between hosts of different families, where nothing fits and nothing is on record, no porter is named."""
    origin, receiver = open_host(str(folders["bert-wide"])), open_host(str(folders["distilbert"]))
    module = module_on(origin, technique)
    assert nothing_fits(module, receiver)
    found = check_port(module, FoundOrigin(origin), receiver, rng=rng())
    assert (found.choice.method, found.choice.word, found.choice.measured) == (None, "retrain", False)
    assert "the hosts are of different families (bert, distilbert), none of the module's slots fits" in found.choice.why
    assert "--method distill" in found.choice.why
    hosts = compare_hosts(module, FoundOrigin(origin), receiver)
    methods = method_checks(module, hosts, receiver, AvailableInputs(task=True), ())
    choice = choose_method(methods, same_host=False, strangers=hosts.strangers(nothing_fits=True))
    assert (choice.method, choice.word) == ("distill", "refresh")
    assert not hosts.strangers(nothing_fits=False)


# Real hosts


def real(technique: str, to: str, texts: tuple[str, ...] = (), trained: int | None = None) -> PortCheck:
    get = load_host if texts else open_host
    origin, receiver = get("all-MiniLM-L6-v2"), get(to)
    module = Module(make_spec(technique), origin.fingerprint, fresh_module(origin, make_spec(technique), 0).matrices)
    module = told(module, trained, "rotten_tomatoes")
    return check_port(module, FoundOrigin(origin), receiver, texts=texts, rng=rng())


@pytest.mark.real
def test_a_small_update_of_a_real_host_is_near_and_on_record() -> None:
    found = real("lora", "sre", trained=40)
    hosts = found.host_comparison
    assert hosts.distance == pytest.approx(0.0101, abs=1e-4) and hosts.tokens is not None and hosts.tokens.equal
    assert all(one.state == "fits" and one.overlap is not None and one.overlap > 0.95 for one in found.slots.slots)
    copy = found.methods[0]
    assert copy.name == "copy" and copy.here and copy.predicted.gain is not None and copy.predicted.pairs >= 3
    assert found.choice.measured


@pytest.mark.real
def test_half_the_layers_of_a_real_host() -> None:
    reviews = load_task("rotten_tomatoes").train.texts[:32]
    found = real("adapter", "paraphrase-MiniLM-L3-v2", reviews)
    assert (
        found.host_comparison.distance is None
        and found.host_comparison.tokens is not None
        and found.host_comparison.tokens.equal
    )
    assert found.slots.count("fits") == len(found.slots.slots) == len(found.slots.unused)
    assert [one.takes for one in found.layers] == [1, 3, 5]
    assert all(one.most_like_cka >= one.cka for one in found.layers)
    assert found.layers[0].cka > found.layers[2].cka  # the first layers are alike, the last are not
    refused = {one.name for one in found.methods if one.refusal is not None}
    assert refused == {"copy", "transfusion", "orthogonal_shift", "gradfix", "anchor_ridge", "anchor_mean"}
