"""Module folders gone wrong, and what must hold of each: it is refused by us, or it is a right module.

Whole folders of every format are the seeds. A spoiled folder has one to three things wrong: a JSON value changed, left
out or added anywhere in a file; bytes flipped, cut out or put in; another header before the tensors; tensors renamed,
left out, of other shapes, types or numbers, of which a native card may know.
"""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save

from modules.made import HOST, a_module
from peftport.core.errors import BadRequest
from peftport.modules.folders import read_module, write_module
from peftport.modules.formats.adapters.config import BOTTLENECK, HARMLESS, KRONECKER, READ
from peftport.modules.formats.peft.config import REFUSED, PeftConfig
from peftport.modules.module import check_fits

SECONDS_AN_INPUT = 30
SEEDS = (
    *(("native", technique) for technique in ("lora", "adapter", "compacter", "prefix")),
    ("peft", "lora"), ("peft", "lora"), *(("adapters", technique) for technique in ("adapter", "compacter", "prefix")),
)  # fmt: skip
Files = dict[str, bytes]
CHANGES = ("less", "rename", "twice", "shape", "numbers", "type")
WORDS = (
    *PeftConfig.model_fields, *REFUSED, *BOTTLENECK, *HARMLESS, *KRONECKER, *READ, "version", "name", "config", "ports",
    "technique", "tensors", "sha256", "file", "slots", "query", "value", "all-linear", ".*", "(", "(?:.|..|...)*[!?]",
    "../../etc/passwd", "/dev/zero", "\x00", "\ud800", "é" * 300, "lora", "float16", "relu", "seq_bn", "1e999", "-1",
    "layer",
)  # fmt: skip
ODD = (
    0,
    -1,
    1,
    2,
    4,
    16,
    2**31,
    2**63,
    2**64,
    10**400,
    0.5,
    1e300,
    float("inf"),
    float("nan"),
    True,
    False,
    None,
    "",
    [],
    {},
)


@cache
def whole(file_format: str, technique: str) -> Files:
    """The files of a folder that is right."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "module"
        write_module(a_module(technique), HOST, folder, file_format)  # type: ignore[arg-type]
        return {path.name: path.read_bytes() for path in folder.iterdir()}


scalars = st.one_of(
    st.sampled_from(ODD), st.sampled_from(WORDS), st.integers(-3, 40), st.floats(-10, 10), st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def spoiled(draw: st.DrawFn) -> Files:
    """A folder with one to three things wrong."""
    file_format, technique = draw(st.sampled_from(SEEDS))
    files = dict(whole(file_format, technique))
    if draw(st.booleans()):
        files.pop("peftport.json", None)  # else it refuses what is wrong with the tensors before they are looked at
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        kinds = (_json, _bytes) if name.endswith(".json") else (_bytes, _header, _tensors, _tensors)
        files[name] = draw(st.sampled_from(kinds))(draw, files[name])
    if "module.json" in files and draw(st.booleans()):
        _reseal(files)
    return files


def check(files: Files, home: Path) -> str:
    """Read a folder: "refused" in one line of ours, or "read", a module that fits and is the same when written again.

    Raises:
        AssertionError: anything else, a hang included.

    """
    folder = home / "module"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with _no_hang():
        try:
            module = read_module(folder, HOST)
            check_fits(module, HOST)
        except BadRequest as refusal:
            said = str(refusal)
            assert refusal.exit_code == 2 and len(said.splitlines()) == 1 and len(said) < 3000, said
            said.encode("utf-8")
            return "refused"
        assert all(bool(torch.isfinite(t).all()) for own in module.matrices.values() for t in own.values())
        write_module(module, HOST, home / "again")
        again = read_module(home / "again")
        assert (again.spec, again.host, again.file) == (module.spec, module.host, module.file)
        assert (again.task, again.training, again.ports) == (module.task, module.training, module.ports)
        assert again.matrices.keys() == module.matrices.keys()
        for slot, own in module.matrices.items():
            assert all(torch.equal(again.matrices[slot][name], tensor) for name, tensor in own.items())
    return "read"


@contextmanager
def _no_hang() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer within {SECONDS_AN_INPUT} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_AN_INPUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- one thing wrong -------------------------------------------------------------------------------------------------


def _json(draw: st.DrawFn, raw: bytes) -> bytes:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    if draw(st.integers(0, 200)) == 0:
        return b"[" * 100_000 + b"]" * 100_000
    return json.dumps(_changed(draw, document)).encode("utf-8")


def _changed(draw: st.DrawFn, document: Any) -> Any:
    """The document with one value, at any depth, changed, left out or added."""
    document = deepcopy(document)
    place, parents = document, []
    while isinstance(place, dict | list) and place and (not parents or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        parents.append((place, key))
        place = place[key]
    if not parents:
        return draw(values)
    holder, key = parents[-1]
    change = draw(st.sampled_from(("change", "change", "remove", "add")))
    if change == "remove":
        del holder[key]
    elif change == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(WORDS))] = draw(values)
    else:
        holder[key] = draw(values)
    return document


def _bytes(draw: st.DrawFn, raw: bytes) -> bytes:
    start = draw(st.integers(0, len(raw)) | st.integers(0, min(len(raw), 600)))
    length = draw(st.sampled_from((0, 1, 1, 4, 50, len(raw))))
    return raw[:start] + draw(st.binary(max_size=8)) + raw[start + length :]


def _header(draw: st.DrawFn, raw: bytes) -> bytes:
    """Another length, or another header of the right length."""
    if len(raw) < 8 or draw(st.integers(0, 3)) == 0:
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1) | st.sampled_from((0, 8, 2**40, 2**63)))) + raw[8:]
    length = struct.unpack("<Q", raw[:8])[0]
    try:
        header = json.dumps(_changed(draw, json.loads(raw[8 : 8 + length]))).encode("utf-8")
    except (ValueError, RecursionError):
        return raw
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def _tensors(draw: st.DrawFn, raw: bytes) -> bytes:
    try:
        flat = load(raw)
    except Exception:  # spoiled already
        return raw
    if not flat:
        return raw
    name = draw(st.sampled_from(sorted(flat)))
    tensor = flat.pop(name)
    kinds = ("less", "rename", "twice", "shape", "numbers") if tensor.is_complex() else CHANGES
    change = draw(st.sampled_from(kinds))
    if change in ("rename", "twice"):
        parts = name.split(".")
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from((*WORDS, "0", "1", "2", "9", "lora_B")))
        flat[".".join(parts).encode("utf-8", "ignore").decode()] = tensor.clone()
    if change == "twice":
        flat[name] = tensor
    if change == "shape":
        shape = draw(st.lists(st.integers(0, 20), max_size=4))
        flat[name] = torch.ones(shape) if draw(st.booleans()) else tensor.flatten()
    if change == "type":
        types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)
        flat[name] = tensor.to(draw(st.sampled_from((*types, torch.float8_e4m3fn))))
    if change == "numbers":
        flat[name] = torch.full(tensor.shape, draw(st.sampled_from((0.0, 1e38, float("nan"), float("inf"), -2.0))))
    return save(flat)


def _reseal(files: Files) -> None:
    """Let a native card agree with the tensors, so that what is wrong with them is found by looking at them."""
    try:
        card = json.loads(files["module.json"])
        flat = load(files["module.safetensors"])
        card["tensors"] = {name: list(tensor.shape) for name, tensor in flat.items()}
        card["sha256"] = hashlib.sha256(files["module.safetensors"]).hexdigest()
        files["module.json"] = json.dumps(card).encode("utf-8")
    except Exception:  # spoiled beyond that
        return
