"""Files of strangers: too large, too deep, with paths in them, or written half when the power goes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.made import HOST, a_module, files_of, refused
from peftport.core.errors import PeftportError
from peftport.modules.folders import FOREIGN, read_module, write_module
from peftport.modules.formats import tensors
from peftport.modules.formats.native import CARD, TENSORS

FORMATS = {"native": TENSORS, "peft": FOREIGN["peft"].tensors, "adapters": FOREIGN["adapters"].tensors}
CONFIGS = {"native": CARD, "peft": "adapter_config.json", "adapters": "adapter_config.json"}
everywhere = pytest.mark.parametrize("file_format", FORMATS)


@pytest.fixture
def module(file_format: str, tmp_path: Path) -> Path:
    technique = "adapter" if file_format == "adapters" else "lora"
    write_module(a_module(technique), HOST, tmp_path / "module", file_format)  # type: ignore[arg-type]
    (tmp_path / "module" / "peftport.json").unlink(missing_ok=True)
    return tmp_path / "module"


def header(claim: dict[str, Any]) -> bytes:
    raw = json.dumps(claim).encode()
    return struct.pack("<Q", len(raw)) + raw


LARGE = 2**44
CLAIMS: dict[str, bytes] = {
    "a header of exabytes": struct.pack("<Q", 2**63) + b"{}",
    "a header beyond the file": struct.pack("<Q", 10_000) + b"{}",
    "a tensor of terabytes": header({"A": {"dtype": "F32", "shape": [LARGE], "data_offsets": [0, 4 * LARGE]}}),
    "a shape that overflows": header({"A": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}),
    "a shape of nothing times much": header({"A": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "tensors that overlap": header({
        "A": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "B": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "a header nested deeply": struct.pack("<Q", 20_000) + b"[" * 20_000,
}  # fmt: skip


@everywhere
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_header_is_not_believed(claim: str, file_format: str, module: Path) -> None:
    (module / FORMATS[file_format]).write_bytes(CLAIMS[claim])
    assert FORMATS[file_format] in refused(module, PeftportError, HOST)  # type: ignore[type-var]


@everywhere
def test_a_file_larger_than_any_module_is_not_read(file_format: str, module: Path) -> None:
    """A file of a terabyte, without its blocks: reading it would end the test run."""
    with (module / FORMATS[file_format]).open("r+b") as file:
        file.truncate(2**40)
    assert f"expected at most {tensors.MOST_BYTES} bytes, got {2**40}" in refused(module, origin=HOST)


@everywhere
def test_a_configuration_larger_than_any_is_not_read(file_format: str, module: Path) -> None:
    with (module / CONFIGS[file_format]).open("r+b") as file:
        file.truncate(2**40)
    assert f"{2**40} bytes, expected at most" in refused(module, origin=HOST)


@everywhere
def test_a_configuration_nested_deeply_is_refused(file_format: str, module: Path) -> None:
    (module / CONFIGS[file_format]).write_bytes(b'{"a":' * 100_000)
    assert CONFIGS[file_format] in refused(module, origin=HOST)


@pytest.mark.parametrize("place", ["../secret", "/dev/zero", "module.safetensors/../../secret"])
@pytest.mark.parametrize("file_format", ["peft", "adapters"])
def test_no_path_in_a_configuration_is_followed(
    place: str, file_format: str, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a configuration names, only the module's own files are opened."""
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    config = module / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    keys = {"peft": ("base_model_name_or_path", "revision", "auto_mapping"), "adapters": ("model_name", "model_class")}
    config.write_text(json.dumps({**said, **dict.fromkeys(keys[file_format], place)}), encoding="utf-8")
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self), real(self, *a, **k))[1])
    assert read_module(module, HOST).parameters
    assert opened and {path.parent for path in opened} == {module}


@pytest.mark.parametrize("at", range(4))
@everywhere
def test_a_crash_at_any_file_leaves_nothing(
    at: int, file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes at the first, second, ... file: after half of it is written."""
    technique = "adapter" if file_format == "adapters" else "lora"
    write_module(a_module(technique), HOST, tmp_path / "whole", file_format)  # type: ignore[arg-type]
    before = files_of(tmp_path)
    files = len(list((tmp_path / "whole").iterdir()))
    written = 0

    def failing(real: Callable[..., int]) -> Callable[..., int]:
        def write(self: Path, content: Any, **options: Any) -> int:
            nonlocal written
            written += 1
            if written == at + 1:
                real(self, content[: len(content) // 2], **options)
                raise KeyboardInterrupt
            return real(self, content, **options)

        return write

    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    monkeypatch.setattr(Path, "write_text", failing(Path.write_text))
    try:
        write_module(a_module(technique), HOST, tmp_path / "out", file_format)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        assert files_of(tmp_path) == before
    else:
        assert at >= files and len(list((tmp_path / "out").iterdir())) == files
