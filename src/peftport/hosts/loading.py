"""How a host is loaded: device, dtype, several devices, quantisation, gradient checkpointing.

    checkpointing    activations inside a layer are recomputed instead of kept, Chen et al. 2016, arXiv 1604.06174
    bits             frozen weights in 8 bits, Dettmers et al. 2022, arXiv 2208.07339
                     or in 4-bit NormalFloat, Dettmers et al. 2023 (QLoRA), arXiv 2305.14314

Trained parameters stay in float32 whatever the host computes in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from peftport.core.errors import BadRequest, HostRefused
from peftport.core.libraries import torch
from peftport.hosts.layouts import Layout
from peftport.hosts.slots import layer_paths

if TYPE_CHECKING:
    from torch import nn

# Mixed hosts are loaded in float32, and their frozen matrices then packed (hosts.mixed).
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "mixed": "float32"}
BITSANDBYTES = (0, 50)  # with older versions, transformers 5 cannot load 4-bit hosts on the processor


class Loading(BaseModel):
    """How to load a host.

    ``dtype`` auto is settled before a host is loaded (`settled`); mixed keeps frozen matrices in bfloat16 and computes
    all but their products in float32 (hosts.mixed). ``device`` auto means the accelerator if there is one. ``spread``
    distributes the layers over all devices and then memory, by accelerate's device_map. ``bits`` quantises the frozen
    weights by bitsandbytes. ``checkpointing`` needs less memory and a second forward pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "mixed"] = "float32"
    spread: bool = False
    bits: Literal[8, 4] | None = None
    checkpointing: bool = False

    @property
    def numbers(self) -> str:
        """The number format in words, such as ``bfloat16`` or ``float32, their matrices packed in 8 bits``."""
        if self.dtype == "mixed":
            return "float32, the products of their matrices in bfloat16"
        return self.dtype + (f", their matrices packed in {self.bits} bits" if self.bits else "")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.spread and self.device == "cpu":
            raise ValueError("spread: expected device auto or cuda, got cpu; a host on the processor is in one place")
        if self.dtype == "mixed" and self.bits is not None:
            raise ValueError(
                f"dtype: expected float32 or bfloat16 with bits={self.bits}, got mixed; leave one of them out"
            )
        return self


def loading_of(values: Mapping[str, Any] | None) -> Loading | None:
    """Make a `Loading` of settings by name, its number format settled; without settings, return None.

    Raises:
        BadRequest: a key is unknown, a value is invalid, or two settings contradict each other.

    """
    return settled(check_loading(values)) if values else None


def check_loading(values: Mapping[str, Any]) -> Loading:
    """Make a `Loading` of settings by name, whose number format is as asked for.

    Raises:
        BadRequest: as `loading_of`.

    """
    try:
        return Loading(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "together"
        known = ", ".join(Loading.model_fields)
        told = " ".join(f"{key}={value}" for key, value in values.items())
        raise BadRequest(f"--load {told}: {where}: {first['msg']}; the keys are {known}") from error


def settled(loading: Loading) -> Loading:
    """Return the loading with ``dtype`` auto replaced by what is fastest here; packed matrices stay in float32."""
    if loading.dtype != "auto":
        return loading
    from peftport.hosts.calibration import chosen_format  # imported here: a plan is read without timing anything

    dtype = chosen_format(chosen_device(loading)).dtype if loading.bits is None else "float32"
    return loading.model_copy(update={"dtype": dtype})


def loading_remarks(values: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return what ``dtype=auto`` became, in a line, where it was asked for."""
    if (values or {}).get("dtype") != "auto" or (values or {}).get("bits") is not None:
        return ()
    from peftport.hosts.calibration import chosen_format

    return (str(chosen_format(chosen_device(Loading(**(values or {}))))),)


def placement(loading: Loading) -> dict[str, Any]:
    """Return the arguments of from_pretrained that load a host as asked for.

    Raises:
        HostRefused: there is no such device, or a library that is needed is not installed.

    """
    options: dict[str, Any] = {"dtype": getattr(torch, DTYPES[loading.dtype])}
    device = chosen_device(loading)
    if loading.bits is not None:
        _check_installed("bitsandbytes", f"hosts in {loading.bits} bits", BITSANDBYTES)
        options["quantization_config"] = _quantization(loading.bits, options["dtype"])
    if loading.spread:
        _check_installed("accelerate", "hosts on several devices")
        options["device_map"] = "auto"
    elif device != "cpu" or loading.bits is not None:
        _check_installed("accelerate", f"hosts on {device}" if loading.bits is None else "hosts in fewer bits")
        options["device_map"] = {"": device}
    return options


def chosen_device(loading: Loading) -> str:
    """Return the device to use, ``cpu`` or ``cuda``.

    Raises:
        HostRefused: cuda is asked for and there is none.

    """
    if loading.device == "cpu":
        return "cpu"
    there = torch.cuda.is_available()
    if loading.device == "cuda" and not there:
        raise HostRefused("device: expected a CUDA device, torch sees none here; use auto or cpu")
    return "cuda" if there else "cpu"


def checkpoint_layers(base: nn.Module, layout: Layout) -> None:
    """Make every layer of a frozen host recompute its inner activations in the backward pass.

    Raises:
        HostRefused: no layout says which modules the layers are.

    """
    if not layout.stacks:
        raise HostRefused(
            f"checkpointing: expected a model whose layers a layout names, got {layout.family}, of which only "
            "linear maps are known; leave checkpointing out"
        )
    for stack in layout.stacks:
        for layer in map(base.get_submodule, layer_paths(base, stack)):
            again = partial(
                torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )  # no dropout
            layer.forward = again


def _quantization(bits: int, dtype: torch.dtype) -> Any:
    """Configure int8 with separate outliers, or 4-bit NormalFloat; silences bitsandbytes' warning at each product."""
    import transformers  # imported here because a study's plan is read without it

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _check_installed(library: str, what: str, at_least: tuple[int, int] | None = None) -> None:
    """Refuse a request that needs a library which is not installed, or is older than the version ``at_least``."""
    wanted = f">={'.'.join(map(str, at_least))}" if at_least else ""
    if find_spec(library) is None:
        fault = "it is not installed"
    elif at_least and tuple(map(int, version(library).split(".")[:2])) < at_least:
        fault = f"got version {version(library)}"
    else:
        return
    raise HostRefused(f"{library}: expected {library}{wanted} for {what}, {fault}; pip install '{library}{wanted}'")
