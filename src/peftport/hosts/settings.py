"""The settings of a host's ``config.json`` that change its outputs, as transformers understands them.

Names, paths, versions, labels, dropout and settings for generating text change no output and are left out. Settings
that equal the family's default are left out too, so that it makes no difference whether a file spells a default out,
or whether a newer version of transformers knows another setting.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from peftport.core.errors import HostRefused, first_line
from peftport.core.hashing import digest
from peftport.core.libraries import transformers
from peftport.hosts.remembered import remembered

# Settings that do not affect a forward pass without dropout. Keys that start with "_" are notes of transformers.
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
# Settings that older versions of transformers knew; with these values they have no effect.
FORMER_DEFAULTS: dict[str, Any] = {"position_embedding_type": "absolute"}
# A setting of peftport, not of transformers: the text that is put before every input.
OWN = ("peftport_text_prefix",)

Settings = dict[str, Any]
SETTINGS = TypeAdapter(Settings)


def settings_in(folder: Path) -> Settings:
    """Read the settings of the host in ``folder``, parsed by transformers.

    Raises:
        HostRefused: transformers cannot parse them.

    """
    raw = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    return remembered("settings", raw, SETTINGS, lambda: _settings_in(folder))


def _settings_in(folder: Path) -> Settings:
    try:
        return settings_of(transformers.AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # a broken file can make transformers raise any exception
        raise HostRefused(
            f"{folder.resolve().name}: expected config.json as transformers writes it, got: {first_line(error)}; "
            "fetch the host again"
        ) from error


def settings_of(config: Any) -> Settings:
    """Return the settings of a transformers config that change outputs and are not the family's defaults."""
    values = _plain(config.to_dict())
    return _unlike(values, _defaults(type(config)))


def raw_settings(config: Mapping[str, Any]) -> str:
    """Hash the same settings as the file writes them, so that the digest does not depend on transformers' version."""
    return digest(_without_names(_plain(dict(config))))


def unlike(left: Settings, right: Settings) -> list[str]:
    """List the settings in which two hosts differ, nested ones with dots, each with both values."""
    differing = []
    for key in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(key), right.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            differing += [f"{key}.{inner}" for inner in unlike(mine, theirs)]
        elif mine != theirs:
            differing.append(f"{key} {_shown(left, key)} and {_shown(right, key)}")
    return differing


def _shown(settings: Settings, key: str) -> str:
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "by default"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _defaults(config_class: Any) -> Settings:
    try:
        return _plain(config_class().to_dict())
    except Exception:  # a class that cannot be made without settings has no defaults
        return {}


def _unlike(settings: Settings, defaults: Settings) -> Settings:
    """Drop names and values that equal ``defaults``. Values are compared as a whole, except nested configs."""
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
    """Convert to JSON values: tuples become lists; keys and unknown types become text."""
    plain: Settings = json.loads(json.dumps(values, default=str))
    return plain
