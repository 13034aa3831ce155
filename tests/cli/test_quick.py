"""Commands that answer at once: in a process of their own they import neither torch nor transformers.

All refusals run one after the other in one process, which tells after each what is imported by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

Words = Sequence[object]
Tell = Callable[..., list[dict[str, object]]]
Folders = dict[str, Path]


def test_lists_and_help_import_no_model_library(tell: Tell) -> None:
    lists = (("methods",), ("techniques",), ("hosts", "list"), ("tasks", "list"))
    helps = (("--help",), ("train", "--help"), ("study", "run", "--help"), ("hosts", "--help"))
    for told in tell(*lists, *((*words, "--json") for words in lists), *helps):
        assert (told["code"], told["heavy"]) == (0, []), told
        assert told["out"] and not told["err"], told


def test_refusals_import_no_model_library(tell: Tell, hosts: Folders, modules: Folders, reviews: Path) -> None:
    """A slip in any name or path of a command, with everything else as it should be."""
    bert, other, lora, new = hosts["bert"], hosts["bert-updated"], modules["lora"], "new"
    train, port, to = ("train", bert, reviews, "-t", "lora", "--out", new), ("port", lora), ("--to", other)
    task, update = ("--task", reviews), ("hosts", "update", bert, "--steps", 1)
    wrong: dict[str, tuple[Words, ...]] = {
        "unknown host": (
            ("train", "bret", reviews, "-t", "lora", "--out", new), ("evaluate", "bret", reviews),
            ("check", lora, "--to", "bret"), ("check", lora, *to, "--from", "bret"),
            (*port, "--to", "bret", "--out", new), (*port, *to, "--from", "bret", "--out", new),
            (*port, *to, "--trust-origin", "bret", "--out", new),
            ("compare", lora, "--to", "bret", *task), ("merge", "bret", lora, "--out", new),
            ("gguf", "bret", lora, "--out", "new.gguf"), ("hosts", "show", "bret"),
            ("hosts", "update", "bret", "--text", reviews, "--steps", 1, "--out", new),
        ),
        "unknown task": (
            ("train", bert, "reviws", "-t", "lora", "--out", new), ("evaluate", bert, "reviws"),
            ("tasks", "show", "reviws"), ("compare", lora, *to, "--task", "reviws"),
            (*port, *to, "--texts", "reviws", "--out", new),
            (*port, *to, "--task", "reviws", "--out", new), ("check", lora, *to, "--texts", "reviws"),
        ),
        "no such file": (("train", bert, "reviws.csv", "-t", "lora", "--out", new), ("tasks", "show", "reviws.csv")),
        "--texts nothing.txt": (
            ("check", lora, *to, "--texts", "nothing.txt"), ("compare", lora, *to, *task, "--texts", "nothing.txt"),
            (*port, *to, "--method", "theseus", "--texts", "nothing.txt", "--out", new),
        ),
        "nothing.txt: cannot be read": ((*update, "--text", "nothing.txt", "--out", new),),
        "expected a module folder, found nothing": (
            ("check", "lara", *to), ("port", "lara", *to, "--out", new), ("compare", "lara", *to, *task),
            ("evaluate", bert, reviews, "--module", "lara"), ("merge", bert, "lara", "--out", new),
            ("gguf", bert, "lara", "--out", "new.gguf"),
        ),
        "unknown technique": (("train", bert, reviews, "-t", "lara", "--out", new),),
        "lora.rank": ((*train, "--set", "rank=0"),),
        "--steps": ((*train, "--steps", 0),),
        "--load dtype=float8": (
            (*train, "--load", "dtype=float8"), ("evaluate", bert, reviews, "--load", "dtype=float8"),
        ),
        "unknown metric": (
            (*train, "--metric", "acuracy"), ("evaluate", bert, reviews, "--metric", "acuracy"),
            ("compare", lora, *to, *task, "--metric", "acuracy"), ("demo", "--metric", "acuracy", "--out", new),
        ),
        "unknown readout": ((*train, "--readout", "lineal"), ("evaluate", bert, reviews, "--readout", "lineal")),
        "unknown method": (
            (*port, *to, "--method", "copi", "--out", new), (*port, *to, "--method", "copy,copi", *task, "--out", new),
            ("compare", lora, *to, *task, "--method", "copi"),
        ),
        "unknown arm": (("compare", lora, *to, *task, "--arms", "portd"),),
        "unknown sampler": (("compare", lora, *to, *task, "--sampler", "gausian"),),
        "expected native, peft or adapters": ((*port, *to, "--format", "pfet", "--out", new),),
        "expected a new or empty folder": (
            ("train", bert, reviews, "-t", "lora", "--out", lora), (*port, *to, "--out", lora),
            ("merge", bert, lora, "--out", lora), (*update, "--text", reviews, "--out", lora),
        ),
        "expected a folder, got a file": (("demo", "--out", reviews),),
        "expected a study file": (("study", "plan", "nothing.toml"), ("study", "run", "nothing.toml")),
    }  # fmt: skip
    commands = [(says, words) for says, all_words in wrong.items() for words in all_words]
    for (says, _), told in zip(commands, tell(*(words for _, words in commands)), strict=True):
        assert told["code"] == 2 and not told["out"], told
        assert says in str(told["err"]) and "\n" not in str(told["err"]), told
        assert told["heavy"] == [], told


def test_a_host_that_was_opened_before_is_shown_and_ported_to_at_once(
    tell: Tell, hosts: Folders, modules: Folders, peftport: Callable[..., object], tmp_path: Path
) -> None:
    """The first command reads the host as transformers does; those that follow take what is remembered of it."""
    for host in ("bert-updated", "bert-deep"):
        peftport("hosts", "show", hosts[host])
    ports = [
        ("port", modules[name], "--to", hosts[to], "--method", method, "--out", f"{name}-{method}")
        for name in ("lora", "adapter", "compacter", "linear")
        for to, method in (("bert-updated", "copy"), ("bert-deep", "resize"))
    ]
    for told in tell(("hosts", "show", hosts["bert-updated"]), ("hosts", "show", hosts["bert-deep"], "--json"), *ports):
        assert (told["code"], told["heavy"]) == (0, []), told
