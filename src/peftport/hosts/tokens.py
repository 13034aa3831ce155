"""Compute digests of a tokenizer from its files: of what turns texts into ids, and of the chat template."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from peftport.core.hashing import digest

TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
# Files with settings, besides the vocabulary.
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# Settings that change no id: names, paths, versions, decoding, and length and padding, which the caller decides.
NO_IDS = re.compile(
    r"_.*|.*version.*|.*name_or_path|.*_file|processor_class|auto_map|backend|is_local|model_max_length|max_length"
    r"|padding.*|pad_to_multiple_of|pad_token_type_id|truncation.*|stride|clean_up_tokenization_spaces"
    r"|model_input_names|chat_template"
)


def vocabulary_digest(folder: Path) -> str:
    """Hash the bytes of the vocabulary files, which is all that fingerprints of version 1 record of a tokenizer."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return digest([[file.name, _sha256(file)] for file in files])


def tokenizer_digest(folder: Path) -> str:
    """Hash whatever affects ids, in any file of the tokenizer: vocabulary, normaliser, added and special tokens.

    Raises:
        ValueError: a file that should be JSON is not.

    """
    names = {file.name for file in folder.iterdir() if file.name in TOKENIZER_FILES or file.suffix == ".model"}
    parts: list[Any] = [
        [name, _sha256(folder / name)] for name in sorted(names - {"tokenizer.json"}) if (folder / name).is_file()
    ]
    parts.append(_fast_tokenizer(folder / "tokenizer.json"))
    parts += [_shaping(_read(folder / name)) for name in SETTINGS_FILES]
    return digest([parts, _chat_template(folder)])


def _fast_tokenizer(file: Path) -> str:
    """Return the sha256 of ``tokenizer.json`` without its beginning, which sets truncation and padding."""
    if not file.is_file():
        return ""
    raw = file.read_bytes()
    begin = max(0, raw.find(b'"added_tokens"'))
    try:
        before = json.loads(raw[:begin] + b'"added_tokens": []}')
    except ValueError:
        before = {}
    skipped = isinstance(before, dict) and before.keys() <= {"version", "truncation", "padding", "added_tokens"}
    return hashlib.sha256(raw[begin if before and skipped else 0 :]).hexdigest()


def _chat_template(folder: Path) -> Any:
    """Read the chat template; a separate file takes precedence over the one in the tokenizer's settings."""
    for name in TEMPLATE_FILES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            return json.loads(text).get("chat_template") if name.endswith(".json") else text
    return _read(folder / "tokenizer_config.json").get("chat_template")


def _shaping(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None and not NO_IDS.fullmatch(key)}


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file; return an empty one where there is no such file."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file.name}: expected a JSON object")
    return content


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
