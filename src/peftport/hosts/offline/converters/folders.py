"""Make transformers folders: copy one, cut one to its first layers, write its parts, and refuse incomplete ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from peftport.core.errors import PeftportError
from peftport.hosts.offline.catalogue import DerivedHost, FolderHost, TokenizerFile
from peftport.hosts.offline.converters.packages import Artifact

State = dict[str, np.ndarray]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
SAMPLE = "The film's 2nd half is Übersüß — a moving, UNFORGETTABLE experience!"


def convert(spec: FolderHost, artifact: Artifact, out: Path) -> None:
    """Copy the package's transformers folder: configuration, safetensors and tokenizer, nothing else."""
    present = set(artifact.names())
    for name in ("config.json", "model.safetensors", *TOKENIZER_FILES):
        if f"{spec.folder}/{name}" in present:
            artifact.unpack(f"{spec.folder}/{name}", out / name)
    forget_lengths(out / "tokenizer.json")


def convert_first_layers(spec: DerivedHost, source: Path, out: Path) -> None:
    """Keep the embeddings and the first `spec.layers` layers of the BERT host in the folder `source`."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_config(out, {**config, "num_hidden_layers": spec.layers})
    copy_tokenizer(source, out)
    write_weights(out, first_layers(load_file(source / "model.safetensors"), spec.layers))


def first_layers(state: Mapping[str, np.ndarray], layers: int) -> State:
    """Drop the tensors of layer `layers` and above; keep all that belong to no layer."""
    layer_of = re.compile(r"encoder\.layer\.(\d+)\.")
    matches = {name: layer_of.match(name) for name in state}
    return {name: state[name] for name, layer in matches.items() if layer is None or int(layer[1]) < layers}


def write_config(out: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration as config.json into the folder."""
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_weights(out: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write model.safetensors in float32."""
    tensors = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in state.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(out: Path, spec: TokenizerFile, artifact: Artifact) -> None:
    """Write the package's tokenizer.json and a tokenizer_config.json that names its special tokens."""
    artifact.unpack(spec.file, out / "tokenizer.json")
    forget_lengths(out / "tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **spec.model_dump(exclude={"file"}, exclude_none=True)}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer of another host's folder."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def forget_lengths(path: Path) -> None:
    """Remove the packager's truncation and padding (48 or 128 tokens): the caller decides about lengths."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"truncation": None, "padding": None}
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def quiet_transformers() -> None:
    """Silence transformers' progress bars and warnings; what they would say is checked by `refuse_incomplete`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def refuse_incomplete(folder: Path) -> None:
    """Load the host as a user would; PeftportError unless all tensors and the tokenizer arrive as written."""
    import transformers
    from tokenizers import Tokenizer

    quiet_transformers()
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    _, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    wrong = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if wrong:
        raise PeftportError(f"converted {architecture} does not match transformers {transformers.__version__}: {wrong}")
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SAMPLE).ids
    actual = transformers.AutoTokenizer.from_pretrained(folder)(SAMPLE)["input_ids"]
    if actual != expected:
        raise PeftportError(f"AutoTokenizer changes the converted tokenizer: expected {expected}, got {actual}")
