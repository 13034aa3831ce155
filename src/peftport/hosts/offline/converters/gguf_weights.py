"""Convert GGUF to a transformers folder. Transformers reads and dequantises it, but refuses to save the result.

So the weights go into a fresh model made from the configuration without its `quantization_config`, and that is saved.
Dequantised values are float32 (float16 scale times a 4-bit integer plus float16 offset) and stay so.
"""

from __future__ import annotations

from pathlib import Path

from peftport.hosts.offline.catalogue import GgufHost
from peftport.hosts.offline.converters.folders import forget_lengths, quiet_transformers
from peftport.hosts.offline.converters.packages import Artifact
from peftport.store.held import HeldFolder


def convert(spec: GgufHost, artifact: Artifact, out: Path) -> None:
    """Write the causal language model and the tokenizer that the GGUF file holds."""
    import torch
    import transformers

    quiet_transformers()
    with HeldFolder("gguf") as folder:
        file = artifact.unpack(spec.file, Path(folder) / Path(spec.file).name).name
        read = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    fresh = type(read)(type(read.config).from_dict(settings))
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)
    forget_lengths(out / "tokenizer.json")
