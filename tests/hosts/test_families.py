"""Families as data: what their layouts say holds in transformers' own models, and other models are hosts for LoRA."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.pytorch_utils import Conv1D

from peftport.api.attached import attach
from peftport.cli import common_first
from peftport.core.errors import BadRequest, HostRefused, SlotMismatch, TaskRefused
from peftport.hosts.host import Host
from peftport.hosts.layouts import VARIABLE, Layout, layout_for, layouts, use_layout
from peftport.hosts.load import load_host, wrap_host
from peftport.hosts.loading import Loading, checkpoint_layers
from peftport.hosts.opening import open_host
from peftport.hosts.slots import find_slots, is_linear
from peftport.hosts.weights import HostWeights
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import Module, stack
from peftport.objectives import bind_objective
from peftport.porting import porter_named
from peftport.porting.base import PortInputs
from peftport.techniques import make_spec, technique_named
from peftport.techniques.attach import at_once, attached, prefix_length
from peftport.techniques.base import TechniqueSpec
from peftport.training.evaluation import predict_entries
from pico import CONFIGS, MORE, SPECS, TOY, inputs_of, pico_host, pico_model, random_matrices, word_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ROWS = ((9, 5, 20, 7, 11, 6, 8, 21, 10, 13, 1), (6, 14, 10, 1))
TEXTS = ("the film was good .", "a dull plot , it was bad", "great movie", "this is a fine review of the film")
quickly = settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def host_of(model_type: str, **changes: Any) -> Host:
    """A host in double precision that tests share: nothing may change it."""
    return pico_host(model_type, dtype=torch.float64, **changes)


def rows_of(host: Host) -> tuple[tuple[int, ...], ...]:
    """Rows of two lengths; of one for BLOOM, whose softmax turns a mask of float64 into nan in padded rows."""
    return ROWS if host.layout.family != "bloom" else (ROWS[0], ROWS[0][::-1])


@torch.no_grad()
def logits(host: Host, spec: TechniqueSpec | None = None, *modules: Any, rows: Any = None) -> Tensor:
    rows = rows or rows_of(host)
    inputs = inputs_of(host, rows, prefix_length(spec, host))
    with attached(host, spec, stack(list(modules), host.dtype) if modules else {}):
        out = host.model(**inputs).logits
    return out * inputs["attention_mask"][..., None] if host.kind != "encoder_decoder" else out


# --- what layouts say ------------------------------------------------------------------------------------------------


@quickly
@given(model_type=st.sampled_from(sorted(MORE)))
def test_a_host_of_a_drawn_family_answers_as_transformers_does(model_type: str) -> None:
    """And each technique that it takes is felt at every slot, by several modules at once as by one."""
    plain, single, host = pico_model(model_type), pico_host(model_type), host_of(model_type)
    plain.set_attn_implementation("eager")  # in float32, as its softmax is; in float64 it has nan where rows are padded
    with torch.no_grad():
        own = plain(**inputs_of(host, ROWS)).logits
    mask = inputs_of(host, ROWS)["attention_mask"][..., None] if host.kind != "encoder_decoder" else 1.0
    torch.testing.assert_close(logits(single, rows=ROWS), own * mask, rtol=1e-5, atol=1e-5)
    bare = logits(host)
    for name, spec in SPECS.items():
        technique, there = technique_named(name), host.slots.values()
        has_queries, takes_prefixes = (
            any(wanted in (s.site, s.kind) for s in there) for wanted in ("attn_q", "attention")
        )
        if name == "prefix" and not takes_prefixes or name == "lora" and not has_queries:
            with pytest.raises(SlotMismatch, match="choose a technique or sites that it has"):
                technique.slots(spec, host.slots)
            continue
        first, second = random_matrices(host, spec, 1), random_matrices(host, spec, 2)
        alone = [logits(host, spec, each) for each in (first, second)]
        assert all(float((each - bare).abs().max()) > 1e-4 for each in alone)
        if at_once(host, spec) is None:
            together = logits(host, spec, first, second, rows=rows_of(host) * 2)
            torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


@quickly
@given(model_type=st.sampled_from(sorted(MORE)))
def test_a_lora_on_every_linear_map_of_a_drawn_family_is_in_its_weights(model_type: str) -> None:
    """Whichever outputs of a fused matrix a slot has."""
    host, merged = host_of(model_type), pico_host(model_type, dtype=torch.float64)
    sites = sorted({slot.site for slot in host.slots.values() if slot.kind == "linear"})
    spec = make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": sites})
    matrices = random_matrices(host, spec, std=0.1)
    for name, own in matrices.items():
        weight, slot = merged.slot_module(merged.slots[name]).weight, merged.slots[name]
        full = weight.data if isinstance(merged.slot_module(slot), nn.Linear) else weight.data.T
        full[slot.rows] += 1.5 * own["B"].double() @ own["A"].double()
    changed = logits(host, spec, matrices)
    torch.testing.assert_close(changed, logits(merged), rtol=0, atol=1e-9)
    assert float((changed - logits(host)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("model_type", "changes", "split"),
    [
        ("bloom", {}, lambda block, whole: [part.transpose(1, 2) for part in block._reshape(whole)]),
        ("falcon", {}, lambda block, whole: block._split_heads(whole)),
        ("falcon", {"multi_query": False}, lambda block, whole: block._split_heads(whole)),
        (
            "falcon",
            {"new_decoder_architecture": True, "num_kv_heads": 2},
            lambda block, whole: block._split_heads(whole),
        ),
    ],
)
def test_queries_keys_and_values_lie_where_the_model_takes_them(model_type: str, changes: Any, split: Any) -> None:
    host = pico_host(model_type, **changes)
    whole, marker = host.slots["layers.1.attn_qkv"], host.slots["layers.1.attn"]
    numbers = torch.arange(whole.out_width).view(1, 1, -1)
    for letter, taken in zip("qkv", split(host.slot_module(marker), numbers), strict=True):
        rows = numbers.flatten()[host.slots[f"layers.1.attn_{letter}"].rows].view(-1, marker.out_width // marker.heads)
        found = taken.reshape(-1, rows.shape[1])
        # The new architecture repeats keys and values for each query of a group.
        assert torch.equal(found[:: len(found) // len(rows)], rows), letter


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [("gpt_neox", {}), ("gpt_bigcode", {}), ("gpt_bigcode", {"multi_query": False}), ("phi3", {}), ("modernbert", {})],
)
def test_a_part_of_a_fused_matrix_is_what_attention_gets(model_type: str, changes: Any) -> None:
    from peftport.hosts.prefixes import Watched, watchers

    host = pico_host(model_type, **changes)
    block = host.slot_module(host.slots["layers.0.attn"])

    def seen(letter: str) -> Watched:
        kept: list[Watched] = []
        spec = make_spec("lora", {"rank": 2, "sites": [f"attn_{letter}"]}) if letter else None
        watchers[block] = kept.append
        try:
            logits(host, spec, *([random_matrices(host, spec)] if spec else []))
        finally:
            del watchers[block]
        return kept[0]

    bare = seen("")
    for letter in "qkv":
        changed = seen(letter)
        moved = [not torch.equal(getattr(bare, part), getattr(changed, part)) for part in ("queries", "keys", "values")]
        assert moved == [letter == other for other in "qkv"]
        name = {"q": "queries", "k": "keys", "v": "values"}[letter]
        heads = zip(getattr(bare, name).unbind(1), getattr(changed, name).unbind(1), strict=True)
        assert not any(torch.equal(one, other) for one, other in heads)


def test_capped_scores_are_those_of_transformers_with_a_prefix_too() -> None:
    """A prefix of the host's own first keys and values is what it would see of its own first tokens."""
    host = host_of("gemma2")
    flat = pico_host("gemma2", dtype=torch.float64, attn_logit_softcapping=None)
    assert float((logits(host) - logits(flat)).abs().max()) > 1e-4
    spec = SPECS["prefix"]
    capped, uncapped = (logits(each, spec, random_matrices(host, spec)) for each in (host, flat))
    assert float((capped - uncapped).abs().max()) > 1e-4
    plain = pico_host("gemma2", dtype=torch.float64, attn_logit_softcapping=1e6)  # so high that nothing is capped
    torch.testing.assert_close(logits(plain, spec, random_matrices(host, spec)), uncapped, rtol=0, atol=1e-8)


def test_modules_that_share_a_table_of_positions_are_tested_one_at_a_time() -> None:
    host, spec = host_of("deberta-v2"), SPECS["lora"]
    assert at_once(host, spec) == 1 and at_once(host, SPECS["adapter"]) is None
    modules = [random_matrices(host, spec, seed) for seed in (1, 2)]
    bound = bind_objective("prototype", host, TOY, 16)
    both = predict_entries(host, bound, spec, modules, ROWS)
    for own, scores in zip(modules, both, strict=True):
        np.testing.assert_array_equal(predict_entries(host, bound, spec, [own], ROWS)[0], scores)
    assert not np.allclose(*both)
    with pytest.raises(
        SlotMismatch, match=r"`theseus` cannot carry the lora at this slot of .*text by text; use a method"
    ):
        porter_named("theseus").port(Module(spec, host.fingerprint, modules[0]), host, np.random.default_rng(0))


def test_padding_of_a_window_does_not_move_the_rows_of_words() -> None:
    """LED pads texts to its window, so that a text's tokens lie further apart than the batch is long."""
    host = pico_host("led")
    spec = make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": ["ffn_in", "ffn_out", "attn_o", "cross_q"]})
    module = Module(spec, host.fingerprint, random_matrices(host, spec))
    ported = porter_named("theseus").port(module, host, np.random.default_rng(0), PortInputs(host, TEXTS * 3))
    for name, own in module.matrices.items():
        update, again = (m["B"].double() @ m["A"].double() for m in (own, ported.matrices[name]))
        torch.testing.assert_close(again, update, rtol=0, atol=1e-4)


# --- folders ---------------------------------------------------------------------------------------------------------


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "deepseek_v3"])
def test_experts_that_lie_apart_in_the_files_are_found(model_type: str, tmp_path: Path) -> None:
    opened, loaded = (make(str(saved(pico_model(model_type), tmp_path))) for make in (open_host, load_host))
    assert opened.slots == loaded.slots
    files, memory = HostWeights(opened), HostWeights(loaded)
    for slot in loaded.slots.values():
        if slot.kind == "linear":
            assert torch.equal(files.matrix(slot), memory.matrix(slot))


def test_the_encoder_of_an_encoder_decoder_alone_is_an_encoder(tmp_path: Path) -> None:
    config = pico_model("t5").config
    model = transformers.T5EncoderModel(config).eval()
    host = load_host(str(saved(model, tmp_path)))
    assert (host.kind, host.layout.family) == ("encoder", "t5_encoder")
    assert {name.split(".")[0] for name in host.slots} == {"layers"} and open_host(str(tmp_path)).slots == host.slots
    inputs = inputs_of(host, ROWS)
    with torch.no_grad():
        own = model(**inputs).last_hidden_state
        torch.testing.assert_close(host.model(**inputs).last_hidden_state, own)
    with pytest.raises(HostRefused, match="expected a language-model head, transformers has none for t5_encoder"):
        load_host(str(tmp_path), "language_model")


def test_the_text_tower_of_a_wrapper_has_the_slots_of_the_text_model() -> None:
    text = {**CONFIGS["gemma3_text"], "vocab_size": 25, "pad_token_id": 0}
    vision = dict(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    one, mark = pico_host("gemma3_text"), pico_host("gemma3_text").fingerprint
    layout = layout_for(config.to_dict(), "wrapper")
    host = wrap_host("wrapper", model, word_tokenizer(), layout, mark, None, "")
    assert host.width == one.width and host.positions is None
    theirs = {name: slot for name, slot in host.slots.items() if name.startswith("layers.")}
    assert theirs.keys() == one.slots.keys()
    for name, slot in one.slots.items():
        assert (theirs[name].in_width, theirs[name].out_width) == (slot.in_width, slot.out_width)
        assert theirs[name].path == f"language_model.{slot.path}"
    assert any(name.startswith("vision_tower.") for name in host.slots)


# --- models that no family lists -------------------------------------------------------------------------------------

UNLISTED = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24)


@pytest.fixture(scope="module")
def stablelm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.AutoConfig.for_model("stablelm", vocab_size=25, pad_token_id=0, **UNLISTED)
    torch.manual_seed(0)
    return saved(transformers.AutoModelForCausalLM.from_config(config), tmp_path_factory.mktemp("hosts") / "stablelm")


def test_peft_s_lora_on_a_model_that_no_family_lists(stablelm: Path, tmp_path: Path) -> None:
    """Copied to the bit, carried by the weights; refused where nobody says what a map reads and writes."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(stablelm).eval()
    made = get_peft_model(plain, LoraConfig(r=2, lora_alpha=3, target_modules="all-linear")).eval()
    for name, parameter in made.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape) * 0.1
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        expected = made(**inputs).logits
    made.save_pretrained(tmp_path / "made")
    host = open_host(str(stablelm))
    assert not host.layout.known and host.kind == "decoder" and host.layout.reads_texts
    module = read_module(tmp_path / "made", host)
    assert len(module.matrices) == 14 and "layers.1.linear:mlp/down_proj" in module.matrices
    for method in ("copy", "resize", "subspace", "crosslora"):
        ported = porter_named(method).port(module, host, np.random.default_rng(0), PortInputs(host))
        (tmp_path / method).mkdir()
        write_module(ported, host, tmp_path / method, "peft")
        again = PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(stablelm).eval(), tmp_path / method
        )
        with torch.no_grad():
            torch.testing.assert_close(again(**inputs).logits, expected, rtol=0, atol=1e-5)
    bare = transformers.AutoModelForCausalLM.from_pretrained(stablelm).eval()
    with attach(bare, tmp_path / "copy"), torch.no_grad():
        torch.testing.assert_close(bare(**inputs).logits, expected, rtol=0, atol=1e-5)
    for method, reason in (
        ("transfusion", "no layout says"),
        ("lorasuite", "no layout says"),
        ("regress", "text by text"),
    ):
        with pytest.raises(
            SlotMismatch, match=rf"linear:.*`{method}` cannot carry the lora.*{reason}.*; use a method that can"
        ):
            porter_named(method).port(module, host, np.random.default_rng(0), PortInputs(host, TEXTS))


def test_what_needs_layers_is_refused_where_nobody_names_them(stablelm: Path) -> None:
    host = load_host(str(stablelm))
    for name in ("lora", "adapter", "compacter", "prefix"):
        with pytest.raises(SlotMismatch, match="choose a technique or sites that it has"):
            technique_named(name).slots(SPECS[name], host.slots)
    with pytest.raises(HostRefused, match="checkpointing: expected a model whose layers a layout names.*leave check"):
        checkpoint_layers(host.base, host.layout)
    with pytest.raises(HostRefused, match="checkpointing: expected a model whose layers a layout names"):
        load_host(str(stablelm), loading=Loading(checkpointing=True))


# --- the user's own layouts ------------------------------------------------------------------------------------------


def page_s_layout() -> str:
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    return page.partition("```toml\n")[2].partition("```")[0]


@pytest.fixture
def no_layouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.usefixtures("no_layouts")
def test_a_layout_of_one_s_own_makes_a_family(stablelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option or in the user's folder; the page's own example."""
    file = tmp_path / "stable.toml"
    file.write_text(page_s_layout(), encoding="utf-8")
    use_layout(file)
    host = load_host(str(stablelm))
    assert host.layout.family == host.fingerprint.family == "stable" and host.layout.known
    for name, spec in SPECS.items():
        assert technique_named(name).slots(spec, host.slots)
    assert not [name for name in host.slots if "linear:" in name]
    folder = tmp_path / "config" / "peftport" / "layouts"
    folder.mkdir(parents=True)
    file.rename(folder / "mine.toml")
    monkeypatch.setenv(VARIABLE, "")
    assert load_host(str(stablelm)).layout.family == "mine"


@pytest.mark.usefixtures("no_layouts")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.toml", "kind = ", "expected a layout as in docs/families.md, got: .*; correct the file"),
        ("mine.toml", 'kind = "decoder"\nmodel_types = ["x"]\nstack = 1', "stacks: Field required"),
        (
            "mine.toml",
            'kind = "decoder"\nmodel_types = ["x"]\nstacks = [{name = "layers", layers = "h", sites = {attn_q = {}}}]',
            "sites.attn_q: .*expected exactly one of linear, attention, heads",
        ),
        ("llama.toml", "", "expected a new name, got that of a family of peftport; rename the file"),
        ("nothing", None, "expected a TOML file, found none; give its path"),
    ],
)
def test_a_file_that_is_no_layout_is_refused(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadRequest, match=message) as refusal:
        use_layout(tmp_path / name)
    assert "\n" not in str(refusal.value) and name in str(refusal.value) and refusal.value.exit_code == 2


def test_a_layout_may_stand_before_or_after_the_command() -> None:
    words, verbose = common_first(["port", "m", "--layout", "a.toml", "--to", "h", "--layout=b.toml"])
    assert words == ["--layout", "a.toml", "--layout=b.toml", "port", "m", "--to", "h"] and not verbose
    plain = ["hosts", "show", "--", "--layout", "--verbose"]
    assert common_first(plain) == (plain, False)


def test_a_layout_that_does_not_describe_the_model_says_where(stablelm: Path) -> None:
    wrong = page_s_layout().replace("mlp.gate_proj", "mlp.gates")
    layout = Layout(family="mine", **tomllib.loads(wrong))
    host = load_host(str(stablelm))
    with pytest.raises(
        HostRefused, match=r"layers.0.ffn_gate: expected a module at layers.0.mlp.gates, found none;.*--lay"
    ):
        find_slots(host.base, layout, "host")


def test_every_family_is_drawn_from() -> None:
    """Each model type of a layout has a tiny config; wrappers and lone encoders have tests of their own."""
    listed = {name for layout in layouts().values() for name in layout.model_types}
    assert listed - CONFIGS.keys() == {"gemma3", "deepseek_v2"}
    assert CONFIGS.keys() <= listed


def test_a_router_that_returns_a_choice_is_no_linear_map() -> None:
    """Though transformers makes it a Linear."""
    config = transformers.Llama4TextConfig(hidden_size=16, num_local_experts=2, num_experts_per_tok=1)
    router = Llama4Router(config)
    assert isinstance(router, nn.Linear)
    assert [is_linear(each) for each in (router, nn.Linear(2, 2), Conv1D(2, 2))] == [False, True, True]


def test_a_text_without_a_token_is_refused_before_anything_is_computed() -> None:
    """A decoder puts no token around it, and a mean over no tokens is no number."""
    bound = bind_objective("linear", host_of("llama"), TOY, 16)
    with pytest.raises(TaskRefused, match=r"its tokenizer makes none of ' '; take such texts out"):
        bound.encode(["a good film", " "])
