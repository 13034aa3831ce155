"""The settings of a host's ``config.json`` that change numbers, as transformers understands them.

Names, paths, versions, labels, dropout and what is for generating text change none and are left out. So is what equals
the family's default: a file that spells a default out, one that does not, and a version of transformers that knows
another setting with a default all agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftport.core.errors import HostRefused
from peftport.core.hashing import digest

# Settings with no part in a forward pass without dropout. "_..." are transformers' own remarks.
NO_NUMBERS = re.compile(
    r"_.*|.*dropout.*|.*pdrop|layerdrop|.*layerdrop|.*version.*|.*name_or_path|name|path"
    r"|architectures|auto_map|dtype|torch_dtype|torchscript|tokenizer_class|processor_class|finetuning_task"
    r"|task_specific_params|id2label|label2id|num_labels|problem_type|classifier_.*|summary_.*|initializer_.*|init_std"
    r"|use_cache|output_attentions|output_hidden_states|return_dict|use_return_dict|gradient_checkpointing"
    r"|pretraining_tp|(bos|eos|sep|cls|unk|mask)_token_id|forced_.*|quantization_config|compression_config"
    r"|attn_implementation|experts_implementation|transformers_weights"
    r"|(max|min)_length|max_new_tokens|do_sample|early_stopping|num_beams|num_beam_groups|num_return_sequences"
    r"|temperature|top_k|top_p|typical_p|(repetition|length|diversity)_penalty|(encoder_)?no_repeat_ngram_size"
    r"|bad_words_ids|remove_invalid_values|exponential_decay_length_penalty|(begin_)?suppress_tokens|prefix"
)
# Settings that transformers knew once; a file that has them with these values says nothing.
FORMER_DEFAULTS: dict[str, Any] = {"position_embedding_type": "absolute"}
# Not transformers' settings but ours: the text that is put before every text.
OWN = ("peftport_text_prefix",)

Settings = dict[str, Any]


def settings_in(folder: Path) -> Settings:
    """The settings of the host in ``folder``, parsed by transformers.

    Raises:
        HostRefused: transformers cannot make sense of them.

    """
    import transformers

    try:
        return settings_of(transformers.AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # a broken file makes transformers raise anything at all
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HostRefused(
            f"{folder.resolve().name}: expected config.json as transformers writes it, got: {first}; "
            "fetch the host again"
        ) from error


def settings_of(config: Any) -> Settings:
    """The settings of a transformers config that change numbers and are not the family's defaults."""
    found = _plain(config.to_dict())
    return _unlike(found, _defaults(type(config)))


def raw_settings(config: Mapping[str, Any]) -> str:
    """Digest of the same settings as the file writes them: equal files are equal to every version of transformers."""
    return digest(_without_names(_plain(dict(config))))


def unlike(one: Settings, other: Settings) -> list[str]:
    """The settings in which two hosts differ, nested ones with dots, each with both values."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += [f"{key}.{inner}" for inner in unlike(mine, theirs)]
        elif mine != theirs:
            found.append(f"{key} {_shown(one, key)} and {_shown(other, key)}")
    return found


def _shown(settings: Settings, key: str) -> str:
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "by default"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _defaults(config_class: Any) -> Settings:
    try:
        return _plain(config_class().to_dict())
    except Exception:  # a class that cannot be made without settings has no defaults
        return {}


def _unlike(settings: Settings, defaults: Settings) -> Settings:
    """Without names and without what is as in ``defaults``, whole values at a time but for nested configs."""
    kept: Settings = {}
    for key, value in _without_names(settings).items():
        default = defaults.get(key, FORMER_DEFAULTS.get(key))
        if isinstance(value, dict) and "model_type" in value:  # a config inside a config
            value = _unlike(value, default if isinstance(default, dict) else {})
            if value:
                kept[key] = value
        elif value != default:
            kept[key] = value
    return kept


def _without_names(settings: Settings) -> Settings:
    return {
        key: _without_names(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key in OWN or not NO_NUMBERS.fullmatch(key)
    }


def _plain(values: Settings) -> Settings:
    """As JSON has it: lists for tuples, text for keys and for what is neither number, text nor truth."""
    plain: Settings = json.loads(json.dumps(values, default=str))
    return plain
