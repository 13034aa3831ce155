"""Read and write the ``adapter_config.json`` of the `adapters` library (1.x) for the techniques it shares with us.

    {"config": {...}, "model_type": ..., "hidden_size": ..., "name": ..., "version": "adapters.1.3.0", ...}

Every key inside ``config`` is supported, or must have the one value that peftport computes with, or is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.formats.tensors import printable
from peftport.modules.record import AdaptersRecord
from peftport.techniques.adapter import Activation, AdapterSpec
from peftport.techniques.base import TechniqueSpec
from peftport.techniques.compacter import Compacter, CompacterSpec
from peftport.techniques.prefix import PrefixSpec

CONFIG = "adapter_config.json"
Placement = Literal["houlsby", "pfeiffer"]
VERSION = "adapters.1.3.0"
# The settings with which a bottleneck computes the same as here: the library's defaults, and the two placements.
BOTTLENECK: dict[str, Any] = {
    "ln_before": False, "ln_after": False, "is_parallel": False, "scaling": 1.0, "use_gating": False,
    "residual_before_ln": True, "adapter_residual_before_ln": False, "original_ln_after": True, "inv_adapter": None,
    "cross_adapter": False, "leave_out": [], "output_adapter": True,
}  # fmt: skip
PLACED: dict[Placement, dict[str, bool]] = {
    "houlsby": {"mh_adapter": True, "original_ln_before": False},
    "pfeiffer": {"mh_adapter": False, "original_ln_before": True},
}
KRONECKER: dict[str, Any] = {
    "shared_phm_rule": True, "factorized_phm_rule": False, "factorized_phm_W": True, "shared_W_phm": False,
    "phm_bias": True,
}  # fmt: skip
PREFIX: dict[str, Any] = {
    "encoder_prefix": True, "cross_prefix": True, "leave_out": [], "use_gating": False, "non_linearity": "tanh",
}  # fmt: skip
READ = ("architecture", "mh_adapter", "original_ln_before", "reduction_factor", "phm_layer", "phm_dim", "phm_rank",
        "flat", "prefix_length", "bottleneck_size", "non_linearity")  # fmt: skip
# Settings for the initialisation and training of a module.
HARMLESS: dict[str, Any] = {
    "init_weights": "bert", "init_weights_seed": None, "dropout": 0.0, "stochastic_depth": 0.0,
    "inv_adapter_reduction_factor": None, "phm_c_init": "normal", "phm_init_range": 0.0001, "learn_phm": True,
    "hypercomplex_nonlinearity": "glorot-uniform",
}  # fmt: skip
UNUSED_WITHOUT_GATES = "shared_gating"


class AdaptersConfig(BaseModel):
    """The part of a configuration that affects outputs: the spec, the adapter's name, the MLP of a prefix (0: none)."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    spec: TechniqueSpec
    name: str
    mlp: int = 0


class _Settings(BaseModel):
    """The numeric settings in ``config``."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    reduction_factor: float = 16.0
    phm_dim: PositiveInt = 4
    phm_rank: PositiveInt = 1
    prefix_length: PositiveInt = 30
    bottleneck_size: PositiveInt = 512
    flat: bool = False
    phm_layer: bool = False


def parse_adapters_config(read: dict[str, Any], path: Path, host: Host) -> AdaptersConfig:
    """Parse the configuration of a bottleneck adapter, Compacter or prefix on this host; ``path`` is its JSON file.

    Raises:
        ModuleRefused: it is not a configuration, has another technique or host, or a setting that would be lost.

    """
    config, name = read.get("config"), read.get("name")
    if not isinstance(config, dict) or not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise ModuleRefused(
            f"{path}: expected a configuration of the adapters library with its settings in full and a name, got "
            f"name {printable(repr(name))}; save the adapter again"
        )
    _check_host(path, read, host)
    old = "version" not in read  # before version 2 of the library, gelu was a different function
    try:
        settings = _Settings.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModuleRefused(
            f"{path}: config.{'.'.join(map(str, first['loc']))}: expected what this version of peftport reads, got "
            f"{printable(repr(first['input']))}: {first['msg']}; train it again"
        ) from error
    architecture = config.get("architecture")
    if architecture == "prefix_tuning":
        _check(path, config, PREFIX, known=(*READ, UNUSED_WITHOUT_GATES))
        spec: TechniqueSpec = PrefixSpec(length=settings.prefix_length, hidden=0)
        return AdaptersConfig(spec=spec, name=name, mlp=0 if settings.flat else settings.bottleneck_size)
    if architecture is not None:
        raise ModuleRefused(
            f"{path}: expected a bottleneck adapter, a Compacter or a prefix, got architecture "
            f"{printable(repr(architecture))}; a LoRA is read from PEFT's format"
        )
    return AdaptersConfig(spec=_bottleneck(path, config, settings, host, old), name=name)


def written_config(spec: TechniqueSpec, host: Host, record: AdaptersRecord) -> dict[str, Any]:
    """Return the ``adapter_config.json`` for a spec: as it was read, except for what a port changed."""
    fresh, said = _fresh(spec, host, record.name), dict(record.config)
    if not said:
        return fresh
    before, now = record.host, host.fingerprint
    if before is None or not before.same_host(now):
        same_type = before is not None and before.model_type == now.model_type
        of_the_host = ("hidden_size", "model_name", *(() if same_type else ("model_class", "model_type")))
        said |= {key: fresh[key] for key in of_the_host}
    try:
        meant = parse_adapters_config(said, Path(CONFIG), host)
    except ModuleRefused:  # the origin's reduction factor gives no bottleneck on this host
        meant = None
    if meant is None or meant.spec != spec:
        return said | {"config": said["config"] | fresh["config"], "version": VERSION}
    if meant.mlp:  # the module holds the outputs of the MLP, not the MLP
        return said | {"config": said["config"] | {"flat": True}}
    return said


def _fresh(spec: TechniqueSpec, host: Host, name: str) -> dict[str, Any]:
    """Make the configuration of a module that was not read from a file of the library."""
    if isinstance(spec, PrefixSpec):
        config = {
            **PREFIX, "architecture": "prefix_tuning", "flat": True, "prefix_length": spec.length,
            "bottleneck_size": 512, "dropout": 0.0, "init_weights_seed": None, UNUSED_WITHOUT_GATES: True,
        }  # fmt: skip
    else:
        assert isinstance(spec, AdapterSpec | CompacterSpec)
        compacter = isinstance(spec, CompacterSpec)
        placement: Placement = spec.placement if isinstance(spec, AdapterSpec) else "houlsby"
        config = {
            **BOTTLENECK, **PLACED[placement], **KRONECKER, **HARMLESS, "architecture": None,
            "non_linearity": spec.activation, "phm_layer": compacter, "reduction_factor": _written_factor(spec, host),
            "phm_dim": spec.phm_dim if isinstance(spec, CompacterSpec) else 4,
            "phm_rank": spec.phm_rank if isinstance(spec, CompacterSpec) else 1,
        }  # fmt: skip
    return {
        "config": config, "hidden_size": host.width, "model_class": type(host.model).__name__,
        "model_name": host.name, "model_type": host.fingerprint.model_type, "name": name, "version": VERSION,
    }  # fmt: skip


def _check_host(path: Path, read: dict[str, Any], host: Host) -> None:
    for key, expected in (("model_type", host.fingerprint.model_type), ("hidden_size", host.width)):
        if read.get(key) not in (None, expected):
            raise ModuleRefused(
                f"{path}: {key}: expected {expected} as {host.name} has, got {printable(repr(read[key]))}; give the "
                "host it was trained on (--from)"
            )


def _check(path: Path, config: dict[str, Any], required: dict[str, Any], known: tuple[str, ...]) -> None:
    for key, value in config.items():
        if key in required:
            if value != required[key]:
                raise _lost(path, key, value, f"peftport computes with {required[key]!r} only")
        elif key not in known and key not in HARMLESS and value not in (None, False, "", [], {}):
            raise _lost(path, key, value, "peftport does not know it")


def _lost(path: Path, key: str, value: Any, why: str) -> ModuleRefused:
    return ModuleRefused(
        f"{path}: {printable(key)} = {printable(repr(value))} is not supported ({why}), and dropping it would change "
        "the module; train it without"
    )


def _bottleneck(path: Path, config: dict[str, Any], settings: _Settings, host: Host, old: bool) -> TechniqueSpec:
    required = {**BOTTLENECK, **(KRONECKER if settings.phm_layer else {})}
    _check(path, config, required, known=(*READ, *KRONECKER))
    placement = _placement(path, config)
    activation = _activation(path, config.get("non_linearity"), old)
    asked = settings.reduction_factor
    if not 1 <= asked < 1e9:
        raise _lost(path, "reduction_factor", asked, "peftport computes with factors of at least 1")
    width = library_width(asked, host)
    for factor in (int(asked), max(1, host.width // width)):  # integers that may give the same bottleneck
        if not settings.phm_layer and max(1, host.width // factor) == width:
            return AdapterSpec(placement=placement, reduction_factor=factor, activation=activation)
        spec = CompacterSpec(
            phm_dim=settings.phm_dim, phm_rank=settings.phm_rank, reduction_factor=factor, activation=activation
        )
        if settings.phm_layer and Compacter().bottleneck_width(spec, host.width) == width:
            if placement != "houlsby":
                raise _lost(path, "mh_adapter", False, "peftport has Compacters after attention and after the FFN only")
            return spec
    raise _lost(path, "reduction_factor", asked, "no whole factor gives that bottleneck")


def _placement(path: Path, config: dict[str, Any]) -> Placement:
    said = {key: bool(config.get(key)) for key in PLACED["houlsby"]}
    for placement, keys in PLACED.items():
        if keys == said:
            return placement
    raise _lost(
        path, "mh_adapter", config.get("mh_adapter"), f"with original_ln_before = {config.get('original_ln_before')}"
    )


def library_width(factor: float, host: Host) -> int:
    """Return the bottleneck width that the library computes from a reduction factor."""
    return max(1, int(host.width // factor))


def _written_factor(spec: AdapterSpec | CompacterSpec, host: Host) -> float:
    if isinstance(spec, AdapterSpec):
        return float(spec.reduction_factor)
    width = Compacter().bottleneck_width(spec, host.width)
    factors = (float(spec.reduction_factor), host.width / width)
    return next((f for f in factors if library_width(f, host) == width), factors[0])


def _activation(path: Path, name: Any, old: bool) -> Activation:
    gelu = "gelu_orig" if old else "gelu"
    known: dict[str, Activation] = {"relu": "relu", "swish": "swish", "silu": "swish", gelu: "gelu"}
    activation = known.get(name.lower()) if isinstance(name, str) else None
    if activation is None:
        raise _lost(path, "non_linearity", name, f"peftport has {', '.join(get_args(Activation))}")
    return activation
