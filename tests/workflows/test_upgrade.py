"""Many modules at once: each as its own `port` and tests make it, whatever happens to the others or to the process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub.repocard import metadata_load

import peftport as pp
from peftport.core.errors import BadRequest, OutputRefused, PushFailed
from peftport.hosts.opening import open_host
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module
from peftport.porting import porter_named
from peftport.workflows import upgrade as job
from peftport.workflows.upgrading.candidates import output_names
from peftport.workflows.upgrading.ledger import UpgradeFolder, UpgradeRecord
from pico import SPECS, random_matrices
from pico import WORDS as ALL_WORDS
from pico_folders import cut_off, in_process, process_environment, save_hosts, save_reviews
from workflows.hub_server import TOKEN, local_hub

FORMATS = {"lora": ("native", "peft"), "adapter": ("native", "adapters"), "compacter": ("native", "adapters"),
           "prefix": ("native", "adapters")}  # fmt: skip
Folders = dict[str, Path]
PEFT_CARD = "---\nlicense: cc-by-4.0\nbase_model: org/pico-bert\ndatasets: [imdb]\n---\n# Mine\n"
Run = Any
WORDS = ("name", "module", "content", "outcome", "technique", "format", "parameters", "method", "out", "items")
KILLED = """
import os, signal
from peftport.workflows.upgrading.ledger import UpgradeFolder
import peftport
keep, kept = UpgradeFolder.keep, []
def then_killed(folder, record):
    kept.append(keep(folder, record))
    if len(kept) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept[-1]
UpgradeFolder.keep = then_killed
peftport.upgrade(*{asked!r}, task={reviews!r}, out={out!r})
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cut_off(monkeypatch, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def peftport(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(monkeypatch, capfd)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upgrade")


@pytest.fixture(scope="module")
def hosts(home: Path) -> Folders:
    return save_hosts(home / "hosts", ("bert", "bert-updated", "bert-wide"))


@pytest.fixture(scope="module")
def reviews(home: Path) -> Path:
    return save_reviews(home / "reviews.csv")


@pytest.fixture(scope="module")
def modules(home: Path, hosts: Folders) -> list[Path]:
    """Twenty: four techniques in two formats each, several of a kind, one truncated, one of another host."""
    old, found = open_host(str(hosts["bert"])), []
    for technique, formats in FORMATS.items():
        for number in range(3 if technique == "lora" else 2):
            for file_format in formats:
                out = home / "modules" / f"{technique}-{file_format}-{number}"
                matrices = random_matrices(old, SPECS[technique], seed=len(found), std=0.2)
                write_module(Module(SPECS[technique], old.fingerprint, matrices), old, out, file_format)
                found.append(out)
    (found[1] / "README.md").write_text(PEFT_CARD, encoding="utf-8")
    broken = home / "modules" / "broken"
    shutil.copytree(found[0], broken)
    (broken / "module.safetensors").write_bytes((broken / "module.safetensors").read_bytes()[:300])
    wide = open_host(str(hosts["bert-wide"]))
    other = home / "modules" / "other"
    write_module(Module(SPECS["lora"], wide.fingerprint, random_matrices(wide, SPECS["lora"])), wide, other)
    return [*found[:5], broken, *found[5:], other]


def as_records(upgraded: pp.Upgraded) -> list[dict[str, Any]]:
    return [record.model_dump() for record in upgraded.records]


def numbers(record: dict[str, Any]) -> list[float]:
    spans = [list((record[key] or {}).values()) for key in ("gain", "change")]
    return [
        value for value in (*(record[key] for key in ("home", "bare", "ported")), *sum(spans, [])) if value is not None
    ]


def marks(out: Path) -> dict[str, tuple[int, int]]:
    """Which files there are, and whether they were written again."""
    return {str(p.relative_to(out)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}


def test_twenty_modules_of_which_a_process_is_killed(
    modules: list[Path], hosts: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(modules) == 20
    old, new = hosts["bert"], hosts["bert-updated"]

    def upgraded(out: str) -> pp.Upgraded:
        return pp.upgrade(old, new, modules, task=reviews, out=tmp_path / out)

    whole = upgraded("whole")
    names = [record.name for record in whole.records]
    assert names == [path.name for path in modules]
    refused = {record.name: record.why for record in whole.records if record.outcome == "refused"}
    assert refused.keys() == {"broken", "other"} and whole.exit_code == 1
    assert "truncated or corrupt" in refused["broken"] and "another fingerprint" in refused["other"]

    asked = (str(old), str(new), [str(path) for path in modules])
    script = KILLED.format(asked=asked, reviews=str(reviews), out=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", script], env=process_environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    before = marks(tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "records").iterdir())) == 9
    resumed = upgraded("killed")
    after = marks(tmp_path / "killed")
    assert {path: after[path] for path in before if path != ".lock"} == {
        path: mark for path, mark in before.items() if path != ".lock"
    }
    assert resumed.found.done_before == 9 and "9 modules were done before" in resumed.remarks()[-1]
    for one, other in zip(as_records(whole), as_records(resumed), strict=True):  # stacks of other sizes may round apart
        assert {key: one[key] for key in WORDS} == {key: other[key] for key in WORDS}
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-6)
    again = upgraded("killed")
    assert again.found.done_before == 20 and as_records(again) == as_records(resumed)

    for record in whole.records:
        if record.out:
            check_one(tmp_path / "whole", record, modules[names.index(record.name)], old, new, reviews)
    check_files(tmp_path / "whole", whole)


def check_one(out: Path, record: UpgradeRecord, module: Path, old: Path, new: Path, reviews: Path) -> None:
    """A module in the upgrade is what port and evaluate make of it alone."""
    folder, name = out / "modules" / record.name, record.name
    assert record.format == name.split("-")[1] and record.method == "copy"
    alone = pp.port(module, new, from_=old, method=str(record.method))
    ported = read_module(folder, open_host(str(new)))
    assert all(
        np.array_equal(tensor, ported.matrices[slot][matrix])
        for slot, own in alone.module.matrices.items()
        for matrix, tensor in own.items()
    )
    if name.endswith("-0"):
        tests = [pp.evaluate(new, reviews, module=folder), pp.evaluate(new, reviews)]
        assert (record.ported, record.bare) == tuple(test.accuracy for test in tests)
        assert record.home == pp.evaluate(old, reviews, module=module).accuracy
        assert record.gain is not None and record.change is not None
        assert record.gain.estimate == pytest.approx(record.ported - record.bare)
        assert record.change.estimate == pytest.approx(record.ported - record.home)
        assert record.gain.low <= record.gain.estimate <= record.gain.high


def check_files(out: Path, upgraded: pp.Upgraded) -> None:
    said = json.loads((out / "upgrade.json").read_text(encoding="utf-8"))
    assert said == upgraded.as_json() and len(said["modules"]) == 20
    table = upgraded.tables()[0]
    assert [row[0] for row in table.rows] == [record.name for record in upgraded.records]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(f">{record.name}</td>" in page for record in upgraded.records) and "<script" not in page
    assert upgraded.to_polars().height == 20 and "2 could not be read or ported" in str(upgraded)
    card = metadata_load(out / "modules" / "lora-peft-0" / "README.md")
    assert card["license"] == "cc-by-4.0" and card["datasets"] == ["imdb"] and card["library_name"] == "peft"
    assert card["ported_from"]["base_model"] == ["org/pico-bert"]
    assert card["ported_to"] == "bert-updated" and "base_model" not in card  # which the hub would look for
    text = (out / "modules" / "lora-peft-0" / "README.md").read_text(encoding="utf-8")
    record = next(record for record in upgraded.records if record.name == "lora-peft-0")
    assert str(record.gain) in text and record.why in text


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own requests
def test_what_can_be_used_is_pushed_once(
    modules: list[Path], hosts: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a local server: the files arrive as they are, each module in one commit; what failed is pushed by a rerun."""
    some = [path for path in modules if path.name in ("lora-peft-0", "adapter-adapters-0", "broken")]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the server speaks LFS
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    same, out = hosts["bert"], tmp_path / "out"  # ports to the same host can be used without tests
    with local_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        hub.refuse_after = 1
        with pytest.raises(PushFailed, match="storage limit.*nothing is ported twice"):
            pp.upgrade(same, same, some, out=out, push="org/mine")
        hub.refuse_after = None
        done = pp.upgrade(same, same, some, out=out, push="org/mine")
        pp.upgrade(same, same, some, out=out, push="org/mine")
        assert done.found.done_before == 3
        assert sorted(name for name, _ in hub.commits) == ["org/mine-adapter-adapters-0", "org/mine-lora-peft-0"]
        for name, files in hub.files.items():
            folder = out / "modules" / name.removeprefix("org/mine-")
            assert files == {path.name: path.read_bytes() for path in folder.iterdir()} and "README.md" in files
            assert hub.private[name]
        assert {record.pushed for record in done.records if record.out} == {
            f"{hub.address}/{name}" for name in hub.files
        }
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(PushFailed, match="log in"):
            pp.upgrade(same, same, some[:1], out=tmp_path / "one", push="org/one")
    with pytest.raises(PushFailed, match="--push org/one"):  # nobody listens there any more
        pp.upgrade(same, same, some[:1], out=tmp_path / "one", push="org/one")


def test_only_check_ports_nothing_and_says_it_by_its_exit_code(
    modules: list[Path], hosts: Folders, peftport: Run, tmp_path: Path
) -> None:
    sound = [path for path in modules if path.name not in ("broken", "other")][:3]
    done = peftport("upgrade", hosts["bert"], hosts["bert-updated"], *sound, "--only-check", "--json")
    assert done.code == 3 and done.json["exit_code"] == 3
    assert {module["outcome"] for module in done.json["modules"]} == {"not enough evidence"}
    same = peftport("upgrade", hosts["bert"], hosts["bert"], *sound, "--only-check")
    assert same.code == 0 and "3 of 3 modules can be used" in same.out
    assert not list(tmp_path.iterdir())


def test_what_check_says_must_be_trained_again_has_its_own_exit_code(
    modules: list[Path], hosts: Folders, peftport: Run, tmp_path: Path
) -> None:
    """Without a task no method carries a prefix to a wider host unless it knows weights; a Compacter is carried."""
    prefix = next(path for path in modules if path.name == "prefix-native-0")
    done = peftport("upgrade", hosts["bert"], hosts["bert-wide"], prefix, "--out", tmp_path / "out", "--json")
    [record] = done.json["modules"]
    assert done.code == {"retrain": 4, "not enough evidence": 3}[record["outcome"]]
    assert record["method"] == pp.check(prefix, hosts["bert-wide"], from_=hosts["bert"]).choice.method


@pytest.mark.parametrize("outcomes", [
    (("copy", "align", "refresh"), 0), (("copy", "not enough evidence"), 3), (("not enough evidence", "retrain"), 4),
    (("retrain", "refused", "copy"), 1),
])  # fmt: skip
def test_exit_codes(outcomes: tuple[tuple[Any, ...], int]) -> None:
    words, code = outcomes
    records = tuple(UpgradeRecord(name=w, module=w, content="", outcome=w, why="") for w in words)
    assert job.Upgrade("old", "new", None, records).exit_code == code


def test_training_budgets_compare_with_scratch_as_compare_does(
    modules: list[Path], hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """The verdict and the gain are those of `peftport compare` with the same arms."""
    lora = modules[0]
    asked = {"budgets": (0, 2), "seeds": 2, "batch_size": 4}
    old, new = hosts["bert"], hosts["bert-updated"]
    [record] = pp.upgrade(old, new, [lora], task=reviews, out=tmp_path / "out", **asked).records
    alone = pp.compare(lora, new, reviews, arms=("ported", "scratch"), **asked)
    assert alone.verdict is not None
    assert (record.outcome, record.why) == (alone.verdict["verdict"], alone.verdict["sentence"])
    gain = alone.difference("ported", "bare host", 0)
    assert record.gain is not None and record.gain.model_dump() == pytest.approx(gain)


def test_a_changed_module_is_done_again_and_another_upgrade_refused(
    modules: list[Path], hosts: Folders, tmp_path: Path
) -> None:
    old, new = hosts["bert"], hosts["bert-updated"]
    module = tmp_path / "mine"
    shutil.copytree(modules[0], module)
    out = tmp_path / "out"
    first = pp.upgrade(old, new, [module], out=out)
    shutil.rmtree(module)
    shutil.copytree(modules[2], module)
    second = pp.upgrade(old, new, [module], out=out)
    assert second.found.done_before == 0 and as_records(first) != as_records(second)
    with pytest.raises(OutputRefused, match="one of this upgrade, got one of bert to bert-updated"):
        pp.upgrade(old, hosts["bert-wide"], [module], out=out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(OutputRefused, match="not empty"):
        pp.upgrade(old, new, [module], out=tmp_path / "full")
    with pytest.raises(BadRequest, match="expected each module once"):
        pp.upgrade(old, new, [module, module], out=out)


def test_a_record_is_believed_of_the_module_beside_it_alone(
    modules: list[Path], hosts: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between another module and its record, and the first one put back: its old record is of no use."""
    old, new, module, out = hosts["bert"], hosts["bert-updated"], tmp_path / "mine", tmp_path / "out"

    def upgraded(source: Path) -> pp.Upgraded:
        shutil.rmtree(module, ignore_errors=True)
        shutil.copytree(source, module)
        return pp.upgrade(old, new, [module], out=out)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    first = upgraded(modules[0])
    whole = marks(out / "modules")
    assert upgraded(modules[0]).found.done_before == 1 and marks(out / "modules") == whole
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(UpgradeFolder, "keep", killed)
        upgraded(modules[2])
    again = upgraded(modules[0])
    assert again.found.done_before == 0 and as_records(again) == as_records(first)
    wanted, found = pp.port(modules[0], new, from_=old).module, read_module(out / "modules" / "mine")
    for slot, own in wanted.matrices.items():
        assert all(np.array_equal(array, found.matrices[slot][name]) for name, array in own.items())


@pytest.mark.parametrize("number", [0, 1, 7])
def test_what_was_done_to_a_ported_module_is_undone_but_not_to_its_card(
    number: int, modules: list[Path], hosts: Folders, tmp_path: Path
) -> None:
    """Whichever of its files was altered, taken away or added, in whichever format."""
    old, new, out = hosts["bert"], hosts["bert-updated"], tmp_path / "out"
    folder = out / "modules" / modules[number].name

    def upgraded() -> int:
        return pp.upgrade(old, new, [modules[number]], out=out).found.done_before

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert upgraded() == 0
    whole = contents()
    for name in whole.keys() - {"README.md"}:
        (folder / name).write_bytes(whole[name][:-1] + b" ")
        assert upgraded() == 0 and contents() == whole, name
        (folder / name).unlink()
        assert upgraded() == 0 and contents() == whole, name
    (folder / "more.txt").write_text("mine")
    assert upgraded() == 0 and contents() == whole
    (folder / "README.md").write_text("my own words")
    assert upgraded() == 1 and contents() == whole | {"README.md": b"my own words"}


def test_names_of_output_folders_are_different(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "lora", tmp_path / "b" / "lora", tmp_path / "a-lora", tmp_path / "b" / "one"]
    names = output_names(paths)
    assert list(names.values()) == paths and len(names) == 4
    assert list(names) == ["a-lora-2", "b-lora", "a-lora", "one"]


def test_wrong_requests_are_refused(peftport: Run, modules: list[Path], hosts: Folders) -> None:
    for options, says in (
        ((), "--out"), (("--push", "nobody", "--out", "x"), "--push"),
        (("--only-check", "--push", "a/b"), "--push"), (("--only-check", "--budgets", "-1"), "--budgets"),
    ):  # fmt: skip
        done = peftport("upgrade", hosts["bert"], hosts["bert-updated"], modules[0], *options)
        assert done.code == 2 and says in done.err and len(done.err.splitlines()) == 1, done


def test_texts_are_cut_where_the_request_says_and_it_is_told(
    hosts: Folders, modules: list[Path], tmp_path: Path
) -> None:
    """Those of the task, on both hosts, and those of which a method compares activations, as `port` has it."""
    rng, texts = np.random.default_rng(3), tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(rng.choice(ALL_WORDS, 120)) for _ in range(30)) + "\n", encoding="utf-8")
    reviews = save_reviews(tmp_path / "reviews.csv")
    old, new = hosts["bert"], hosts["bert-wide"]
    for limit in (6, 110):
        done = pp.upgrade(
            old, new, [modules[0]], task=reviews, texts=texts, max_tokens=limit, out=tmp_path / f"up-{limit}"
        )
        [record] = done.records
        assert record.method is not None and porter_named(record.method).needs == "texts", record
        alone = pp.port(modules[0], new, from_=old, method=record.method, texts=texts, max_tokens=limit)
        ported = read_module(tmp_path / f"up-{limit}" / "modules" / record.name)
        for slot, own in alone.module.matrices.items():
            for name, tensor in own.items():
                assert np.array_equal(ported.matrices[slot][name], tensor)
        said = [remark for remark in done.remarks() if f"were cut at --max-tokens {limit}" in remark]
        assert sum("where activations are compared" in remark for remark in said) == 2
        assert len(said) == (4 if limit == 6 else 2)
