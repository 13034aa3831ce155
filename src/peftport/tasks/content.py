"""The bytes of a user's file: unpacked, told from what only bears the name of a data file, and decoded.

What is refused is named by its first bytes: a spreadsheet, a page, a pointer of Git LFS, an archive, another encoding.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from peftport.core.errors import TaskRefused

PACKED = (".gz", ".zst")

_AS_CSV = "open it and save it as CSV (UTF-8)"
_UNPACK = "unpack it and give a file or folder of what is in it"
_FIRST_BYTES = (
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls)", _AS_CSV),
    (b"version https://git-lfs.github.com", "a Git LFS pointer, not the data", "fetch the file with git lfs pull"),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"BZh", "packed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "packed with xz", "unpack it with unxz"),
    (b"\x1f\x8b", "packed with gzip", "add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "add .zst to its name"),
)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in one of PACKED.

    Raises:
        TaskRefused: it cannot be read or unpacked, or it is no file of texts at all (see the module).

    """
    data = _unpacked(path)
    refuse_other_kinds(path, data)
    return data


def _unpacked(path: Path) -> bytes:
    try:
        if path.suffix.lower() == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.suffix.lower() == ".zst":
            import pyarrow

            with pyarrow.input_stream(str(path), compression="zstd") as stream:
                unpacked: bytes = stream.read()
            return unpacked
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskRefused(
            f"{path}: cannot be read ({first}), expected a whole file; check its permissions, or fetch it anew"
        ) from error


def refuse_other_kinds(path: Path, data: bytes) -> None:
    """Refuse what is no file of texts, by its first bytes. Raises TaskRefused."""
    start = data[:512]
    for first, what, remedy in _FIRST_BYTES:
        if start.startswith(first):
            raise _other_kind(path, what, remedy)
    if start.startswith(b"PK\x03\x04"):
        excel = b"xl/" in data or b"[Content_Types].xml" in start
        raise _other_kind(path, *(("an Excel file (.xlsx)", _AS_CSV) if excel else ("a zip archive", _UNPACK)))
    if start[257:262] == b"ustar":
        raise _other_kind(path, "a tar archive", _UNPACK)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise _other_kind(path, "a web page (HTML)", "download the file itself, such as by its link to the raw file")


def _other_kind(path: Path, what: str, remedy: str) -> TaskRefused:
    return TaskRefused(f"{path}: {what}, expected the texts themselves; {remedy}")


def as_text(path: Path, data: bytes) -> str:
    """UTF-8 with or without a byte order mark, decoded. Raises TaskRefused that names the likely encoding."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        likely = _likely_encoding(data)
        looks = f"; it looks like {likely}" if likely else ""
        remedy = f"iconv -f {likely} -t UTF-8" if likely else "iconv"
        raise TaskRefused(
            f"{path}: byte {start} (0x{data[start]:02x}) is not UTF-8, expected UTF-8 throughout{looks}; "
            f"convert the file, for example with {remedy}"
        ) from error


def _likely_encoding(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return "WINDOWS-1252"
