"""Rows of a vocabulary in a PEFT file: they follow their token's spelling to a host with another tokenizer.

Trained tokens (``trainable_token_indices``) are named by their ids, so the ids are those of the same spellings on the
receiver. Whole embeddings and heads, and LoRAs on them, have a row for every token: between different tokenizers they
are refused. So is a vocabulary of another size than the host's, which its user made by adding tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftport.core.errors import ModuleRefused
from peftport.hosts.host import Host
from peftport.modules.formats.peft.heads import whole_weights
from peftport.modules.formats.tensors import printable
from peftport.modules.kept import Kept
from peftport.modules.module import Module

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARIES = ("embed_tokens", "word_embeddings", "wte", "embed_in", "shared", "lm_head")
TRAINED = "trainable_token_indices"


def check_vocabulary(tensors: Mapping[str, Tensor], host: Host, where: object) -> None:
    """Refuse whole weights for another number of tokens than the host has.

    Raises:
        ModuleRefused: there are some.

    """
    size = getattr(host.config, "vocab_size", None)
    for name, tensor in whole_weights(tensors).items():
        if size is not None and _of_vocabulary(name) and tensor.ndim == 2 and len(tensor) != size:
            raise ModuleRefused(
                f"{where}: {printable(name)}: expected a row for each of the {size} tokens of {host.name}, got "
                f"{len(tensor)}: tokens were added before the training; give that host (transformers' "
                "resize_token_embeddings, then save_pretrained of model and tokenizer), or leave it out (--leave-out "
                f"{printable(name.split('.')[-2])})"
            )


def other_ids(module: Module[Any], receiver: Host) -> bool:
    """Return whether a module has trained tokens whose ids are other ones on the receiver, as far as is known."""
    before, now = module.host, receiver.fingerprint
    return bool(module.kept and module.kept.config.get(TRAINED)) and "tokenizer" in before.differences(now)


def spelled_for(module: Module, kept: Kept, origin: Host | None, receiver: Host) -> Kept:
    """Return a file whose trained tokens are those of the same spelling on the receiver.

    Raises:
        ModuleRefused: the receiver has not such a token, or the file has rows for every token of another tokenizer.

    """
    if "tokenizer" not in module.host.differences(receiver.fingerprint):
        return kept
    whole = [name for name in kept.outside if _of_vocabulary(name)]
    asked = kept.config.get(TRAINED)
    if whole and (not asked or kept.config.get("modules_to_save")):
        raise ModuleRefused(
            f"copy: {printable(whole[0])}: expected hosts with one tokenizer, got {module.host.name} and "
            f"{receiver.name} with two, and the module has a row for every token; leave it out (--leave-out "
            f"{printable(whole[0].split('.')[-2])})"
        )
    if not asked:
        return kept
    assert origin is not None, "the method needs it (needs_for)"
    named = asked if isinstance(asked, dict) else {"": asked}
    moved = {name: [_moved(int(index), origin, receiver) for index in ids] for name, ids in named.items()}
    return replace(kept, config={**kept.config, TRAINED: moved if isinstance(asked, dict) else moved[""]})


def _moved(index: int, origin: Host, receiver: Host) -> int:
    token = origin.tokenizer.convert_ids_to_tokens(index)
    found: Any = receiver.tokenizer.get_vocab().get(token)
    if found is None:
        raise ModuleRefused(
            f"copy: {receiver.name}: expected the token {printable(str(token))!r}, which the module trained, found "
            "none in its vocabulary; add it to the receiver, or leave the trained tokens out (--leave-out embed_tokens)"
        )
    return int(found)


def _of_vocabulary(name: str) -> bool:
    return not set(VOCABULARIES).isdisjoint(name.split("."))
