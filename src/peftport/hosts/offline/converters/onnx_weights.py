"""Convert ONNX graphs, float32 or int8, back to named weights.

Biases, norms and embeddings are initialisers under their own names. A Linear weight is the second input of a MatMul
node that is named after its module, and is stored (in, out):

    /encoder/layer.0/attention/self/query/MatMul  ->  encoder.layer.0.attention.self.query.weight = W.T

Quantised tensors are triples NAME_quantized, NAME_scale, NAME_zero_point:  W = (q - zero_point) * scale
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftport.core.errors import PeftportError
from peftport.hosts.offline.catalogue import OnnxGraph, OnnxHost, TokenizerFile
from peftport.hosts.offline.converters.folders import State, write_config, write_tokenizer, write_weights
from peftport.hosts.offline.converters.packages import Artifact

if TYPE_CHECKING:
    import onnx

QUANTISED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"
UNNAMED = "onnx::"


def convert(spec: OnnxHost, artifact: Artifact, out: Path) -> None:
    """Write a transformers folder from the package's graphs and the configuration in catalogue.toml.

    A tokenizer of another host is left to the caller, who knows where that host is.
    """
    import onnx

    state: State = {}
    for graph in spec.graphs:
        state |= renamed(named_weights(onnx.load_from_string(artifact.read(graph.file))), graph)
    for twin, name in spec.same_as.items():
        if not np.array_equal(state.pop(twin), state[name]):
            raise PeftportError(f"{spec.package}: expected {twin} to equal {name}, got another matrix")
    state |= {name: np.zeros(shape) for name, shape in spec.zeros.items()}
    write_weights(out, state)
    write_config(out, {**spec.config, "dtype": "float32"})
    if isinstance(spec.tokenizer, TokenizerFile):
        write_tokenizer(out, spec.tokenizer, artifact)


def named_weights(model: onnx.ModelProto) -> State:
    """Return every weight of a graph under its module's name, dequantised and in torch's (out, in) layout."""
    stored = _initialisers(model)
    tensors = _dequantised(stored)
    named = {name: array for name, array in tensors.items() if not name.startswith(("/", UNNAMED))}
    for node in model.graph.node:
        if not node.op_type.startswith("MatMul"):
            continue
        weight = node.input[1].removesuffix("_DequantizeLinear_Output").removesuffix(QUANTISED)
        if weight in tensors:
            module = node.name.rsplit("/", 1)[0].removeprefix("/").replace("/", ".")
            named[f"{module}.weight"] = tensors[weight].T
    return named


def renamed(weights: State, graph: OnnxGraph) -> State:
    """Replace everything up to `graph.strip` by `graph.put`; drop weights without it (heads, buffers)."""
    kept = {}
    for name, array in weights.items():
        # A node's path may repeat the root module before the prefix (model.model.0.auto_model.).
        before, prefix, after = name.partition(graph.strip)
        if prefix and (not before or before.endswith(".")):
            kept[graph.put + after] = array
    return kept


def dequantise(quantised: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """W = (q - zero_point) * scale, in float32, with one scale for the tensor."""
    if scale.size != 1:
        raise PeftportError(f"expected one scale per tensor, got {scale.shape} for a weight of shape {quantised.shape}")
    return (quantised.astype(np.float32) - zero_point.astype(np.float32)) * scale.astype(np.float32)


def _initialisers(model: onnx.ModelProto) -> State:
    from onnx.numpy_helper import to_array

    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def _dequantised(stored: State) -> State:
    """Replace each quantised triple by one float32 tensor under its plain name."""
    tensors = {}
    for name, array in stored.items():
        if name.endswith(QUANTISED):
            base = name.removesuffix(QUANTISED)
            tensors[base] = dequantise(array, stored[base + SCALE], stored[base + ZERO_POINT])
        elif not name.endswith((SCALE, ZERO_POINT)):
            tensors[name] = array
    return tensors
