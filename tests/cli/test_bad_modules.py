"""Modules that are broken, unsafe or of another host: exit 2, one line, no file touched, nothing unpickled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Refused = Callable[..., str]
Function = Callable[..., Any]
Folders = dict[str, Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def refused_module(refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path) -> Callable[..., None]:
    """The module is refused by port, evaluate and compare."""

    def check(module: Path, *says: str) -> None:
        refused("port", module, "--to", hosts["bert-updated"], "--out", tmp_path / "out", says=says)
        refused("evaluate", hosts["bert"], reviews, "--module", module, says=says)
        refused("compare", module, "--to", hosts["bert-updated"], "--task", reviews, says=says)

    return check


FIRST = "layers.0.attn_q/A"


@pytest.mark.parametrize("technique", ["lora", "adapter", "compacter", "prefix"])
@pytest.mark.parametrize(
    ("receiver", "says"),
    [
        ("bert-wide", ("16", "32", "`copy` needs equal widths")),
        ("bert-deep", ("layers.2", "2 layers", "3", "`copy` needs equal slots")),
        ("llama", ("llama",)),
        ("t5", ("bert", "t5", "`copy` needs equal slots")),
    ],
)
def test_port_to_another_shape(
    technique: str, receiver: str, says: tuple[str, ...], refused: Refused, hosts: Folders,
    modules: Folders, tmp_path: Path,
) -> None:  # fmt: skip
    refused("port", modules[technique], "--to", hosts[receiver], "--out", tmp_path / "out", says=says)


def test_compare_with_another_shape(refused: Refused, hosts: Folders, modules: Folders, reviews: Path) -> None:
    for receiver, says in (("bert-wide", "`copy` needs equal widths"), ("bert-deep", "`copy` needs equal slots")):
        refused("compare", modules["lora"], "--to", hosts[receiver], "--task", reviews, says=(says,))


def test_evaluate_on_another_host(refused: Refused, hosts: Folders, modules: Folders, reviews: Path) -> None:
    says = ("this module is for host bert, got bert-updated", "fingerprint differs", "port it first: peftport port")
    refused("evaluate", hosts["bert-updated"], reviews, "--module", modules["lora"], says=says)


def test_from_another_host(refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> None:
    ends = ("--from", hosts["bert-updated"], "--to", hosts["bert-updated"])
    says = (
        "expected a module of bert-updated (--from)",
        "records host bert",
        "leave --from out, or name the right host",
    )
    refused("port", modules["lora"], *ends, "--out", tmp_path / "out", says=says)
    refused("compare", modules["lora"], *ends, "--task", reviews, says=says)


@pytest.mark.parametrize("reseal", [False, True])
def test_missing_tensor(reseal: bool, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: tensors.pop(FIRST), reseal=reseal)
    refused_module(module, "layers.0.attn_q", "A", "expected")


@pytest.mark.parametrize("reseal", [False, True])
def test_missing_slot(reseal: bool, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: (tensors.pop(FIRST), tensors.pop("layers.0.attn_q/B")), reseal=reseal)
    refused_module(module, "layers.0.attn_q")


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize(
    "name", ["layers.0.attn_q/C", "layers.0.ffn_in/A", "layers.7.attn_q/A", "shared/rule", "loose"]
)
def test_extra_tensor(name: str, reseal: bool, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: tensors.update({name: torch.zeros(2, 16)}), reseal=reseal)
    refused_module(module, name.split("/")[0])


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("shape", [(3, 16), (2, 17), (16,), (2, 16, 1), ()])
def test_wrong_shape(shape: tuple[int, ...], reseal: bool, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: tensors.update({FIRST: torch.zeros(shape)}), reseal=reseal)
    refused_module(module, "layers.0.attn_q", "A", str(shape), "(2, 16)")


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("name", ["shared/rule_down", "layers.1.ffn_out/up_left"])
def test_compacter_without_a_tensor(name: str, reseal: bool, refused_module: Refused, broken: Function) -> None:
    def drop(tensors: Tensors) -> None:
        slot = name.split("/")[0]
        del tensors[next(key for key in sorted(tensors) if key.startswith(slot))]

    refused_module(broken("compacter", drop, reseal=reseal), name.split("/")[0], "expected")


@pytest.mark.parametrize("reseal", [False, True])
def test_wrong_head(reseal: bool, refused_module: Refused, broken: Function) -> None:
    for change in (lambda t: t.update({"readout/weight": torch.zeros(3, 16)}), lambda t: t.pop("readout/bias")):
        module = broken("linear", change, reseal=reseal)
        refused_module(module, "readout")
        shutil.rmtree(module)


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_not_finite(number: float, reseal: bool, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: tensors[FIRST][0].fill_(number), reseal=reseal)
    refused_module(
        module, "module.safetensors", FIRST, "expected finite numbers, got NaN or infinity", "train it again"
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_tensors_of_integers(dtype: torch.dtype, refused_module: Refused, broken: Function) -> None:
    module = broken("lora", lambda tensors: tensors.update({FIRST: tensors[FIRST].to(dtype)}), reseal=True)
    refused_module(module, FIRST, "expected numbers in float16", str(dtype).removeprefix("torch."))


def test_altered_numbers(refused_module: Refused, broken: Function) -> None:
    refused_module(
        broken("lora", lambda tensors: tensors[FIRST].add_(1)), "module.safetensors", "sha256", "save it again"
    )


def test_no_card(refused_module: Refused, broken: Function) -> None:
    module = broken("lora")
    (module / "module.json").unlink()
    refused_module(module, f"{module}: expected module.json (native) or adapter_config.json (PEFT, adapters)")


def test_no_tensors(refused_module: Refused, broken: Function) -> None:
    module = broken("lora")
    (module / "module.safetensors").unlink()
    refused_module(module, f"{module}: expected module.safetensors, found none", "give a module folder")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_module(size: int, refused_module: Refused, broken: Function, cut: Function) -> None:
    module = broken("lora")
    cut(module / "module.safetensors", size)
    refused_module(
        module, "module.safetensors: expected a whole safetensors file, got one truncated or corrupt", "again"
    )


def test_corrupt_module(refused_module: Refused, broken: Function) -> None:
    module = broken("lora")
    path = module / "module.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    refused_module(
        module, "module.safetensors: expected a whole safetensors file, got one truncated or corrupt", "again"
    )


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"", b"\xff\xfe"])
def test_broken_card(content: bytes, refused_module: Refused, broken: Function) -> None:
    module = broken("lora")
    (module / "module.json").write_bytes(content)
    refused_module(module, str(module / "module.json"), "expected")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"surprise": 1}, ("surprise", "Extra inputs")),
        ({"version": 99}, ("version", "1")),
        ({"format": "other"}, ("format", "peftport-module")),
        ({"host": None}, ("host", "required")),
        ({"technique": {"kind": "lora", "rank": 2, "rnak": 3}}, ("technique.lora.rnak", "Extra inputs")),
        ({"technique": {"kind": "ia3"}}, ("technique", "'ia3'")),
        ({"technique": {"kind": "lora", "rank": 3}}, ("layers.0.attn_q", "(2, 16)", "(3, 16)")),
        ({"technique": {"kind": "adapter"}}, ("layers.0.a",)),
        ({"tensors": {}}, ("is not listed in module.json",)),
    ],
)
def test_wrong_card(
    changes: dict[str, Any], says: tuple[str, ...], refused_module: Refused, broken: Function, edit: Function
) -> None:
    module = broken("lora")
    edit(module / "module.json", **changes)
    refused_module(module, *says)


@pytest.mark.parametrize("name", ["adapter_model.bin", "module.pt", "module.safetensors.bin"])
def test_pickled_module_is_never_loaded(name: str, refused_module: Refused, tmp_path: Path, bomb: Function) -> None:
    module = tmp_path / "module"
    module.mkdir()
    bomb(module / name)
    refused_module(
        module, name, "expected safetensors, got pickled weights, which are never loaded", "save as safetensors"
    )


def test_pickle_under_a_safe_name_is_never_loaded(refused_module: Refused, broken: Function, bomb: Function) -> None:
    module = broken("lora")
    bomb(module / "module.safetensors")
    refused_module(module, "module.safetensors: expected a whole safetensors file")


@pytest.mark.parametrize("kind", ["nowhere", "a file"])
def test_module_that_is_no_folder(kind: str, refused_module: Refused, tmp_path: Path) -> None:
    path = tmp_path / "module"
    if kind == "a file":
        path.write_text("", encoding="utf-8")
    refused_module(path, f"{path}: expected a module folder, found {'a file' if path.is_file() else 'nothing'}")


def test_labels_in_another_order(refused: Refused, hosts: Folders, modules: Folders, reviews: Path) -> None:
    says = (
        "reviews",
        "trained for the labels",
        "('negative', 'positive')",
        "('positive', 'negative')",
        "same order (--labels)",
    )
    turned = ("--labels", "positive,negative")
    refused("evaluate", hosts["bert"], reviews, "--module", modules["lora"], *turned, says=says)


def test_head_for_another_number_of_labels(
    refused: Refused, hosts: Folders, broken: Function, reviews: Path, tmp_path: Path, edit: Function
) -> None:
    """The labels are not on record, so that only the head's shape tells."""
    module, task = broken("linear"), tmp_path / "three.csv"
    edit(module / "module.json", task=None)
    texts = [line.rsplit(",", 1)[0] for line in reviews.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [f"{text},{'abc'[i % 3]}" for i, text in enumerate(texts)]
    task.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    says = ("readout", "(2, 16)", "(3, 16)", "train another")
    refused("evaluate", hosts["bert"], task, "--module", module, "--readout", "linear", says=says)
    refused("compare", module, "--to", hosts["bert"], "--task", task, "--readout", "linear", says=says)


def test_a_readout_on_record_that_is_none_is_told_as_the_module_s(
    refused: Refused, broken: Function, hosts: Folders, reviews: Path
) -> None:
    """One letter of module.json altered: nobody asked for that readout, so the line must not read as if they had."""

    module = broken("lora")
    path = module / "module.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"prototype"', '"proTotype"'), encoding="utf-8")
    says = ("this module's record of its task", "'proTotype'", "fetch the module again")
    refused("evaluate", hosts["bert"], reviews, "--module", module, says=says)
    refused("compare", module, "--to", hosts["bert-updated"], "--task", reviews, says=says)
