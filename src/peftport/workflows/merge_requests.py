"""The inputs of the commands that make a module ready for use after a port.

Nothing here imports a model library, so that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from peftport.core.request import Place, Request, option
from peftport.workflows.options import HOST_ARGUMENT, MODULE_ARGUMENT


@dataclass(frozen=True, eq=False)
class MergeRequest(Request):
    """Fold a module into the weights of its host, and write the result as a whole model.

    The new folder has what the host's folder has: weights in as many files, tokenizer, generation
    settings and chat template. transformers, vLLM and others load it like any model. Modules that
    are no change of weights (bottleneck adapters, Compacters, prefixes) are refused.

    Example: peftport merge sre modules/lora-on-sre --out models/sre-reviews
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    module: Place = field(metadata=MODULE_ARGUMENT)
    _: KW_ONLY
    out: Place = field(metadata=option("The new model's folder.", path=True, writes="new folder"))
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None,
        metadata=option(
            "The number format of the new weights. Default: that of the host's files. In a narrow format a part of a "
            "small update is lost by rounding, and the result says how much.",
            choices=("float32", "bfloat16", "float16"),
        ),
    )


@dataclass(frozen=True, eq=False)
class GgufRequest(Request):
    """Write a LoRA as a GGUF file, which llama.cpp puts beside the same model by its option lora.

    The model itself is converted by llama.cpp's own convert_hf_to_gguf.py. Hosts whose names in
    llama.cpp are not known are refused. Needs the library gguf: pip install gguf

    Example: peftport gguf SmolLM2-135M modules/lora --out lora.gguf
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    module: Place = field(metadata=MODULE_ARGUMENT)
    _: KW_ONLY
    out: Place = field(metadata=option("The new file.", path=True, writes="new file"))
