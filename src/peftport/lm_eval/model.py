"""A host with a module on it, as lm-evaluation-harness calls a model.

The harness's own class for transformers models (`HFLM`) makes batches, likelihoods and texts; the module is on the host
while the object lives.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM

from peftport.api.attached import attach
from peftport.core.errors import BadRequest
from peftport.hosts.layouts import layout_for
from peftport.hosts.load import load_host
from peftport.hosts.loading import loading_of
from peftport.hosts.sources import find_host, read_config


class PortedLM(HFLM):  # type: ignore[misc]
    """A decoder or an encoder-decoder, with a module or alone, as a model of lm-evaluation-harness."""

    def __init__(
        self,
        host: str,
        module: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        bits: int | None = None,
        **options: Any,
    ) -> None:
        """Load a host and put a module on it.

        Args:
            host: a host as the command line takes it.
            module: a module folder for this host (native, PEFT or adapters); None: the host alone.
            device: ``cpu``, or ``auto`` or ``cuda:0`` for the accelerator if there is one.
            dtype: ``float32`` or ``bfloat16``.
            bits: 8 or 4 for weights in fewer bits; else None.
            options: those of `HFLM`, such as ``batch_size``, ``max_length`` and ``add_bos_token``.

        Raises:
            BadRequest: the host has no language-model head that generates, or the module was trained without it.
            SlotMismatch: the module is for another host, or does not fit.

        """
        if (other := sorted({"pretrained", "peft", "delta", "tokenizer"} & options.keys())) != []:
            raise BadRequest(f"--model_args {other[0]}: expected host=HOST and module=FOLDER; leave {other[0]} out")
        source = find_host(str(host))
        kind = layout_for(read_config(source.folder), source.name).kind
        if kind == "encoder":
            raise BadRequest(
                f"--model_args host={host}: expected a decoder or an encoder-decoder, got an encoder, which gives no "
                "likelihood of a text; test it with peftport evaluate"
            )
        device = "auto" if device in ("cuda", "cuda:0") else device  # the harness's own default, GPU or not
        load = {"device": device, "dtype": dtype, "bits": bits}
        if module is None:
            on: Any = load_host(str(host), "language_model", loading_of(load))
        else:
            on = attach(str(host), str(module), load)
        if on.model.get_output_embeddings() is None:
            raise BadRequest(
                f"{module}: expected a module that was trained with the host's language-model head, got one of readout "
                f"{on.module.task.readout}; test it with peftport evaluate"
            )
        self._on = on  # keeps the module on the host
        super().__init__(pretrained=on.model, tokenizer=on.tokenizer, **options)

    @property
    def max_length(self) -> int:
        """The tokens of prompt and answer together, at most: a prefix takes positions of its own."""
        return int(super().max_length) - int(getattr(self._on, "shift", 0))
