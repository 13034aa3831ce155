"""What every model type can do as a host, measured on tiny random hosts: the table in docs/families.md.

python benchmarks/families.py [TYPE ...]

Without types it measures those that are not on file yet, then writes the table; with types it measures these again.
The columns:

    shown       `hosts show` works
    q, v        a LoRA that peft made on the queries and values is copied to the same host; peft loads the copy, and its
                logits and those of the module attached by peftport equal peft's own
    all-linear  the same on all linear maps but the scores of tokens
    wider       the first LoRA goes to a wider and deeper host by an aligned method, and peft loads the result
    trained     the techniques that a few steps of training change, and leave finite
    identity    the largest error of any method that needs no labels, from the host to itself, over the module's effect
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from machine import machine_facts
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import Tensor, nn

import peftport
from peftport.api.attached import attach
from peftport.core.errors import PeftportError
from peftport.hosts.host import Host, View
from peftport.hosts.layouts import Layout, layout_for
from peftport.hosts.load import load_host
from peftport.hosts.views import auto_class, has_class
from peftport.modules.folders import read_module
from peftport.modules.module import Module, stack
from peftport.porting import PORTERS
from peftport.porting.base import PortInputs
from peftport.techniques.attach import attached, prefix_length

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pico import CONFIGS, SPECIAL, SPECS, WORDS, inputs_of, random_matrices, word_tokenizer  # noqa: E402

OUT = Path(__file__).parent / "results" / "families.json"
PAGE = Path(__file__).parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- measured by benchmarks/families.py -->", "<!-- end -->"
COLUMNS = ("shown", "q, v", "all-linear", "wider", "trained", "identity")
TOLERANCE, BOUND = 1e-5, 1e-4
WIDTHS = (
    "hidden_size", "d_model", "n_embd", "dim", "intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim",
    "decoder_ffn_dim", "hidden_dim", "word_embed_proj_dim",
)  # fmt: skip
DEPTHS = (
    "num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"
)  # fmt: skip
VISION = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8)
WHISPER = {**CONFIGS["bart"], "num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 32}
TEXT_PART = dict(vocab_size=25, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
BESIDE: dict[str, dict[str, Any]] = {  # what reads no texts, or not alone
    "clip": dict(text_config={**TEXT_PART, "max_position_embeddings": 16}, vision_config={**VISION, "patch_size": 4}),
    "vit": {**VISION, "patch_size": 4},
    "whisper": {**WHISPER, "suppress_tokens": None, "begin_suppress_tokens": None},
}
LATENT_QV = {"deepseek_v3": ("q_b_proj", "kv_b_proj")}  # the maps that make queries, keys and values of latent vectors
TYPES = tuple(sorted([*CONFIGS, *BESIDE]))
ROWS = ((5, 6, 7, 8, 9, 10, 11), (12, 13, 14, 15))
TEXTS = tuple(" ".join(np.random.default_rng(i).choice(WORDS, 9)) for i in range(40))


def main() -> None:
    """Measure what is asked for, type after type, and write the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("types", nargs="*", choices=[*TYPES, []])
    found = json.loads(OUT.read_text()) if OUT.is_file() else {"types": {}}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    for name in asked.parse_args().types or [name for name in TYPES if name not in found["types"]]:
        found["types"][name] = measured(name)
        print(name, found["types"][name], flush=True)
        found["types"] = dict(sorted(found["types"].items()))
        OUT.write_text(json.dumps({**found, "machine": machine_facts()}, indent=1) + "\n")
        write_page(found["types"])
    write_page(found["types"])


def write_page(types: Mapping[str, Mapping[str, str]]) -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(types)}{END}{rest.partition(END)[2]}", encoding="utf-8")


def measured(name: str) -> dict[str, str]:
    """One row: in every column what came out, or the refusal."""
    with tempfile.TemporaryDirectory() as scratch:
        small, large = (made_host(name, Path(scratch) / side, side == "large") for side in ("small", "large"))
        measures: dict[str, Callable[[], str]] = {
            "shown": lambda: shown(small),
            "q, v": lambda: copied(small, Path(scratch) / "qv", names_of_qv(small)),
            "all-linear": lambda: copied(small, Path(scratch) / "all", "all-linear"),
            "wider": lambda: carried(Path(scratch) / "qv", small, large, Path(scratch) / "wider"),
            "trained": lambda: trained(small, Path(scratch)),
            "identity": lambda: unchanged(small, Path(scratch) / "qv"),
        }
        return {column: or_refusal(measure) for column, measure in measures.items()}


class Reasons(dict[str, list[str]]):
    """Who was refused, by the reason."""

    def add(self, who: str, reason: str) -> None:
        """One that was refused."""
        self.setdefault(reason, []).append(who)

    def said(self) -> str:
        """All of them, behind the text of a cell."""
        told = [f"{', '.join(who)}: {reason}" for reason, who in self.items()]
        return f" (refused: {'; '.join(told)})" if told else ""


def or_refusal(measure: Callable[[], str]) -> str:
    """What a measure finds, or the refusal."""
    try:
        return measure()
    except PeftportError as error:
        return f"refused: {error}"
    except Exception as error:  # what is no refusal is a fault, and the table says so
        return f"fault: {type(error).__name__}: {str(error)[:200]}"


def made_host(name: str, folder: Path, large: bool) -> Path:
    """A random model of the type with a small tokenizer, saved as transformers saves it."""
    config, tokenizer = CONFIGS.get(name) or BESIDE[name], letter_tokenizer() if name == "qwen2" else word_tokenizer()
    tokens = {} if name in ("clip", "vit") else dict(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=4, decoder_start_token_id=0
    )  # fmt: skip
    settings = transformers.AutoConfig.for_model(name, **{**tokens, **(widened(config) if large else config)})
    torch.manual_seed(int(large))
    model = classes_of(settings).from_config(settings)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def letter_tokenizer() -> Any:
    """The tokenizer that transformers makes of any file in a folder of Qwen2, with a token for every letter."""
    letters = ["Ġ", *sorted(set("".join(WORDS)))]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], **named)


def widened(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config, twice as wide and one layer deeper."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            made[key] = widened(value)
        elif key in ("layer_types", "attention_window"):
            made[key] = [*value, value[-1]]
        else:
            made[key] = value * 2 if key in WIDTHS else value + 1 if key in DEPTHS else value
    return made


def classes_of(settings: Any) -> Any:
    """The Auto class of a decoder's or encoder-decoder's language model; of other models, the body's."""
    return auto_class(_layout(settings), _view(settings))


def _view(settings: Any) -> View:
    layout = _layout(settings)
    return "language_model" if layout.kind != "encoder" and has_class(layout, "language_model", settings) else "body"


def _layout(settings: Any) -> Layout:
    return layout_for(settings.to_dict(), str(settings.model_type))


def plain(folder: Path) -> Any:
    """The model by transformers alone, as users load it."""
    settings = transformers.AutoConfig.from_pretrained(folder)
    return classes_of(settings).from_pretrained(folder).eval()


def inputs(model: Any) -> dict[str, Tensor]:
    """A batch that the model reads: texts, and images or sound where it reads these."""
    generator, kind = torch.Generator().manual_seed(1), model.config.model_type
    ids = torch.randint(5, 25, (2, 9), generator=generator)
    if kind in ("vit", "clip"):
        images = {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}
        return images if kind == "vit" else {"input_ids": ids, **images}
    read = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "whisper":
        read = {"input_features": torch.randn(2, 4, 16, generator=generator)}
    return {**read, "decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else read


@torch.no_grad()
def answers(model: Any) -> Tensor:
    """Its logits, or its last hidden states."""
    out = model(**inputs(model))
    if hasattr(out, "pooler_output") and out.pooler_output is not None:  # a LoRA may be on the pooler alone
        return torch.cat([out.last_hidden_state.flatten(), out.pooler_output.flatten()])
    names = ("logits", "logits_per_text", "last_hidden_state")
    return next(value for name in names if (value := getattr(out, name, None)) is not None)


def shown(folder: Path) -> str:
    """`hosts show`, as the command line calls it."""
    from typer.testing import CliRunner

    from peftport.cli import app

    done = CliRunner().invoke(app, ["hosts", "show", str(folder), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return f"{len(json.loads(done.stdout)['slots'])} slots"


def names_of_qv(folder: Path) -> list[str]:
    """The names that peft takes by default or, where these are not there, those of the queries and values."""
    model = plain(folder)
    if model.config.model_type in LATENT_QV:
        return list(LATENT_QV[model.config.model_type])
    there = {path.rpartition(".")[2] for path, each in model.named_modules() if isinstance(each, nn.Linear)}
    default = PEFT_TARGETS.get(model.config.model_type, ["q_proj", "v_proj"])
    if there.issuperset(default) or not there:
        return list(default)
    host = load_host(str(folder))
    paths = {slot.path for slot in host.slots.values() if slot.site in ("attn_q", "attn_v")}
    return sorted({path.rpartition(".")[2] for path in paths})


def copied(folder: Path, scratch: Path, targets: list[str] | str) -> str:
    """Make a LoRA with peft, copy it to its own host, and compare: in peft, and attached."""
    model = plain(folder)
    bare = answers(model)
    made = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=targets)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    expected = answers(made.get_base_model())
    made.save_pretrained(scratch)
    out = scratch / "copied"
    peftport.port(scratch, folder, from_=folder, out=out)
    again = answers(PeftModel.from_pretrained(plain(folder), out).get_base_model())
    error = max(float((each - expected).abs().max()) for each in (again, attached_answers(folder, out)))
    effect = float((expected - bare).abs().max())
    if not error <= TOLERANCE or effect < 100 * TOLERANCE:
        raise AssertionError(f"error {error:.1e}, effect {effect:.1e}")
    return f"{len(read_module(out, load_host(str(folder))).matrices)} maps"


def attached_answers(folder: Path, module: Path) -> Tensor:
    """What the model answers with the module attached by peftport."""
    model = plain(folder)
    with attach(model, module):
        return answers(model)


def carried(module: Path, folder: Path, wider: Path, scratch: Path) -> str:
    """Port the LoRA on queries and values to the wider and deeper host by the first aligned method that can."""
    texts = scratch.with_suffix(".txt")
    texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    refusals: list[str] = []
    for method in ("theseus", "crosslora"):
        out = scratch / method
        try:
            peftport.port(module / "copied", wider, from_=folder, method=method, texts=texts, out=out)
        except PeftportError as error:
            refusals.append(str(error))
            continue
        loaded = answers(PeftModel.from_pretrained(plain(wider), out).get_base_model())
        error = float((loaded - attached_answers(wider, out)).abs().max())
        if not error <= TOLERANCE:
            raise AssertionError(f"{method}: error {error:.1e}")
        return method
    return f"refused: {refusals[-1]}"


def trained(folder: Path, scratch: Path) -> str:
    """The techniques that two steps of training change and leave finite, and the reason against each other."""
    data = scratch / "toy.csv"
    rows = [f"{text} {word},{word}" for text in TEXTS for word in ("good", "bad")]
    data.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    host, done, reasons = load_host(str(folder)), [], Reasons()
    for technique in SPECS:
        settings = _settings(technique, host)
        try:
            peftport.train(folder, data, technique, set=settings, steps=2, test_items=4, readout="linear")
            done.append(technique)
        except PeftportError as error:
            reasons.add(technique, str(error).removeprefix(f"{technique}: "))
    return ", ".join(done) + reasons.said()


def _settings(technique: str, host: Host) -> dict[str, Any]:
    """Small settings; a LoRA on the named queries and values or, where there are none, on every linear map."""
    small = {"lora": {"rank": 2}, "adapter": {"reduction_factor": 4}, "prefix": {"length": 3, "hidden": 6}}
    if technique == "compacter":
        return {"phm_dim": 4, "reduction_factor": 2}
    if technique == "lora" and not any(slot.site == "attn_q" for slot in host.slots.values()):
        return {"rank": 2, "sites": sorted({slot.site for slot in host.slots.values() if slot.kind == "linear"})}
    return small[technique]


def unchanged(folder: Path, module: Path) -> str:
    """The largest error of a port from the host to itself, over all methods and techniques; and who cannot."""
    host = load_host(str(folder), _view(transformers.AutoConfig.from_pretrained(folder)))
    worst, reasons, reads = 0.0, Reasons(), host.layout.reads_texts
    for technique, spec in SPECS.items():
        try:
            own = read_module(module / "copied", host) if technique == "lora" else _random(host, spec)
        except PeftportError:
            continue  # the column of trained techniques has the reason
        for name, porter in PORTERS.items():
            if porter.needs in ("labels", "training"):
                continue
            try:
                ported = porter.port(own, host, np.random.default_rng(0), PortInputs(host, TEXTS if reads else ()))
            except PeftportError as error:
                told = str(error).replace(name, "METHOD").replace(f"the {technique}", "the module")
                reasons.add(f"{name} ({technique})", re.sub(r"\S+\.\d+\.\S+: ", "", told))
                continue
            worst = max(worst, _error(host, own, ported))
    if not worst <= BOUND:
        raise AssertionError(f"error {worst:.1e} of the effect")
    return f"{worst:.0e}{reasons.said()}"


def _random(host: Host, spec: Any) -> Module:
    return Module(spec, host.fingerprint, random_matrices(host, spec))


@torch.no_grad()
def _error(host: Host, own: Module, ported: Module) -> float:
    outputs = []
    for module in (None, own, ported):
        spec = module.spec if module else None
        with attached(host, spec, stack([module.matrices]) if module else {}):
            if host.layout.reads_texts and host.kind != "encoder":
                read = inputs_of(host, ROWS, prefix_length(spec, host))
                out = host.model(**read)
                outputs.append(getattr(out, "logits", out[0]))
            else:
                outputs.append(answers(host.model))
    bare, with_own, with_ported = outputs
    return float((with_ported - with_own).abs().max() / (with_own - bare).abs().max())


def table(types: Mapping[str, Mapping[str, str]]) -> str:
    """The table and the reasons below it, as Markdown."""
    reasons: dict[str, int] = {}
    lines = [f"| type | {' | '.join(COLUMNS)} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
    for name, row in types.items():
        lines.append(f"| {name} | {' | '.join(_cell(row[column], name, reasons) for column in COLUMNS)} |")
    able = sum(all(not failed(row[column]) for column in COLUMNS[:3]) for row in types.values())
    told = [f"{number}. {reason}" for reason, number in reasons.items()]
    summary = (
        f"{able} of {len(types)} types are shown and copied with equal logits, on queries and values and on all maps."
    )
    waiting = [name for name in TYPES if name not in types]
    summary += f" Not measured yet: {', '.join(waiting)}." if waiting else ""
    return "\n".join([*lines, "", summary, "", *told]) + "\n"


def failed(text: str) -> bool:
    """Whether a cell says that something is refused or at fault."""
    return text.startswith(("refused:", "fault:"))


def _cell(text: str, name: str, reasons: dict[str, int]) -> str:
    short, _, reason = text.partition(" (refused: ")
    if failed(text):
        short, reason = "no", text
    reason = reason.removesuffix(")").removeprefix("refused: ").replace(name, "TYPE").replace("|", "or")
    if not reason:
        return short
    number = reasons.setdefault(" ".join(reason.split()), len(reasons) + 1)
    return f"{short} [{number}]"


if __name__ == "__main__":
    main()
