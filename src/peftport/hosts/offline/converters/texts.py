"""Copy the files of labelled texts byte for byte from the package."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

from peftport.core.errors import PeftportError
from peftport.hosts.offline.catalogue import FilesText, TarMembersText
from peftport.hosts.offline.converters.packages import Artifact


def convert(spec: FilesText | TarMembersText, artifact: Artifact, out: Path) -> None:
    """Write the text's files into `out`, without the folders they had, or with those below the one that is named."""
    if isinstance(spec, FilesText):
        for path in map(PurePosixPath, spec.files):
            to = out / (path.relative_to(spec.below) if spec.below else path.name)
            to.parent.mkdir(parents=True, exist_ok=True)
            artifact.unpack(str(path), to)
        return
    count = 0
    with tarfile.open(fileobj=io.BytesIO(artifact.read(spec.archive))) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            # macOS tars hold a "._NAME" twin beside each file: resource forks, not text
            if member.isfile() and name.endswith(spec.suffix) and not name.startswith("._"):
                stream = tar.extractfile(member)
                assert stream is not None
                (out / name).write_bytes(stream.read())
                count += 1
    if count != spec.count:
        raise PeftportError(f"{spec.archive}: expected {spec.count} files *{spec.suffix}, got {count}")
