"""Every technique on every host family: the equations, the stack of entries, and a host that is left as it was."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from peftport.core.errors import SlotMismatch
from peftport.hosts import prefixes
from peftport.hosts.host import Host
from peftport.hosts.weights import HostWeights
from peftport.modules.module import fresh_module, stack, unstack
from peftport.techniques import TECHNIQUES, make_spec, technique_named
from peftport.techniques.attach import attached, prefix_length
from peftport.techniques.base import SHARED, Parameters, TechniqueSpec
from peftport.techniques.compacter import expand
from peftport.techniques.roles import Inner, Writes
from pico import SMALL, SPECS, inputs_of, pico_host, pico_model, random_matrices

ROWS = ((9, 5, 20, 7, 11, 1), (6, 14, 10, 1), (8, 21, 10, 5, 1))
OTHER_ROWS = ((5, 12, 13, 24, 6, 1), (22, 7, 9, 1), (16, 15, 8, 6, 1))  # of the same lengths
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt2", "opt", "phi")
everywhere = pytest.mark.parametrize("model_type", SMALL)
by_technique = pytest.mark.parametrize("technique", TECHNIQUES)


@cache
def host_of(model_type: str, dtype: torch.dtype = torch.float64) -> Host:
    """A host that tests share: nothing may change it."""
    return pico_host(model_type, dtype=dtype)


def logits(host: Host, spec: TechniqueSpec | None, modules: list[Parameters], rows: Any = ROWS) -> Tensor:
    """The host's output with these modules, each on rows of its own."""
    inputs = inputs_of(host, rows, prefix_length(spec, host))
    with torch.no_grad(), attached(host, spec, stack(modules, host.dtype) if modules else {}):
        return host.model(**inputs).logits


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / other.abs().max())


def is_bare(host: Host) -> bool:
    hooks = [h for m in host.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return not hooks and not prefixes.prefixes


def linear_sites(host: Host) -> tuple[str, ...]:
    return tuple(dict.fromkeys(slot.site for slot in host.slots.values() if slot.kind == "linear"))


# --- how a module starts ---------------------------------------------------------------------------------------------


def test_every_technique_is_tested() -> None:
    assert SPECS.keys() == TECHNIQUES.keys()


@everywhere
def test_a_fresh_lora_leaves_its_host_unchanged(model_type: str) -> None:
    host = host_of(model_type, torch.float32)
    spec = make_spec("lora", {"sites": linear_sites(host)})
    module = fresh_module(host, spec, 0)
    assert all(bool(own["A"].any()) for own in module.matrices.values())
    assert torch.equal(logits(host, spec, [module.matrices]), logits(host, None, []))


@everywhere
@pytest.mark.parametrize(("technique", "bound"), [("compacter", 1e-6), ("adapter", 1e-1)])
def test_fresh_adapters_nearly_leave_their_host_unchanged(model_type: str, technique: str, bound: float) -> None:
    """Not exactly: their start is small, not zero. The bounds are relative to the largest logit, at width 16."""
    host, spec = host_of(model_type), SPECS[technique]
    assert 0 < gap(logits(host, spec, [fresh_module(host, spec, 0).matrices]), logits(host, None, [])) < bound


@everywhere
@by_technique
def test_fresh_matrices_have_the_promised_shapes(model_type: str, technique: str) -> None:
    host, spec, made = host_of(model_type), SPECS[technique], TECHNIQUES[technique]
    slots = made.slots(spec, host.slots)
    shared = {SHARED: dict(made.shared_shapes(spec))} if made.shared_shapes(spec) else {}
    expected = {name: dict(made.shapes(spec, slot)) for name, slot in slots.items()} | shared
    module = fresh_module(host, spec, 0)
    assert {slot: {n: tuple(t.shape) for n, t in own.items()} for slot, own in module.matrices.items()} == expected
    for name, slot in slots.items():
        plain = made.fresh(spec, slot, np.random.default_rng(0))
        assert {n: tuple(t.shape) for n, t in plain.items()} == expected[name]
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in plain.values())
    assert {slot.site for slot in slots.values()} <= set(made.sites(spec))


# --- what matrices have to do with their host ------------------------------------------------------------------------


@everywhere
@by_technique
def test_roles_name_every_matrix_and_a_space_of_its_width(model_type: str, technique: str) -> None:
    host, spec, made = host_of(model_type), SPECS[technique], TECHNIQUES[technique]
    stacked = stack([random_matrices(host, spec)])
    for name, slot in made.slots(spec, host.slots).items():
        full = made.expanded(spec, stacked[name], stacked.get(SHARED, {}))
        assert full.keys() == made.roles.keys()
        for matrix, role in made.roles.items():
            shape = full[matrix].shape[1:]  # without K
            if isinstance(role, Inner):
                assert shape[0] != 0 and len(shape) == 1
            else:
                axis = 0 if isinstance(role, Writes) and not role.rows else -1
                assert shape[axis] == (slot.in_width if role.space == "in" else slot.out_width)


@everywhere
@by_technique
def test_matrices_that_may_be_left_out_change_nothing(model_type: str, technique: str) -> None:
    """Zero output matrices leave every slot as it is; a prefix of zeros does not, and says so."""
    host, spec, made, rng = host_of(model_type), SPECS[technique], TECHNIQUES[technique], np.random.default_rng(0)
    slots = made.slots(spec, host.slots)
    if not made.can_be_left_out:
        zeros = {name: {n: torch.zeros(shape) for n, shape in made.shapes(spec, slots[name]).items()} for name in slots}
        assert gap(logits(host, spec, [zeros]), logits(host, None, [])) > 1e-6
        with pytest.raises(SlotMismatch, match=f"a {technique} cannot be left out of a slot"):
            made.no_op(spec, next(iter(slots.values())), rng)
        return
    silent = {name: made.no_op(spec, slot, rng) for name, slot in slots.items()}
    silent |= {SHARED: made.fresh_shared(spec, rng)} if made.shared_shapes(spec) else {}
    assert torch.equal(logits(host, spec, [silent]), logits(host, None, []))


@everywhere
@by_technique
def test_a_seed_is_a_module(model_type: str, technique: str) -> None:
    host, spec = host_of(model_type), SPECS[technique]
    one, again, other = (fresh_module(host, spec, seed).matrices for seed in (5, 5, 6))
    drawn = 0
    for slot, own in one.items():
        for name, tensor in own.items():
            assert torch.equal(tensor, again[slot][name])
            if tensor.any():
                drawn += 1
                assert not torch.equal(tensor, other[slot][name]), f"{slot}.{name}"
    assert drawn >= len(one)


@by_technique
def test_slots_start_from_streams_of_their_own(technique: str) -> None:
    """No two slots start alike, and a slot starts the same whatever other slots there are."""
    host, made = host_of("bert"), technique_named(technique)
    spec = make_spec(technique, {"hidden": 0} if technique == "prefix" else {})
    slots = made.slots(spec, host.slots)
    whole = made.start(spec, slots, 0)
    for name, slot in slots.items():
        alone = made.start(spec, {name: slot}, 0)[name]
        assert all(torch.equal(alone[n], t) for n, t in whole[name].items())
    for matrix in ("A", "down", "down_left", "keys"):
        drawn = [own[matrix] for own in whole.values() if matrix in own]
        assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if a.shape == b.shape)


# --- entries in one stack --------------------------------------------------------------------------------------------


@everywhere
@by_technique
def test_stacked_entries_answer_as_each_alone(model_type: str, technique: str) -> None:
    host, spec = host_of(model_type), SPECS[technique]
    one, other = random_matrices(host, spec, 1), random_matrices(host, spec, 2)
    together = logits(host, spec, [one, other], ROWS + OTHER_ROWS)
    first, second = logits(host, spec, [one], ROWS), logits(host, spec, [other], OTHER_ROWS)
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=0, atol=1e-10)
    assert gap(first, logits(host, None, [])) > 1e-4
    assert gap(second, logits(host, spec, [one], OTHER_ROWS)) > 1e-4


@by_technique
def test_unstacking_undoes_stacking(technique: str) -> None:
    host = host_of("t5")
    modules = [random_matrices(host, SPECS[technique], seed) for seed in (1, 2, 3)]
    for index, module in enumerate(modules):
        again = unstack(stack(modules), index)
        assert again.keys() == module.keys()
        assert all(torch.equal(again[slot][name], t) for slot, own in module.items() for name, t in own.items())


# --- LoRA ------------------------------------------------------------------------------------------------------------


@everywhere
def test_lora_equals_its_merged_weights(model_type: str) -> None:
    """On all linear slots at once, cross attention, gates and fused parts included."""
    host, merged = host_of(model_type), pico_host(model_type, dtype=torch.float64)
    spec = make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": linear_sites(host)})
    matrices = random_matrices(host, spec, std=0.1)
    for name, own in matrices.items():
        update = 1.5 * own["B"].double() @ own["A"].double()
        HostWeights(merged).matrix(merged.slots[name]).add_(update)
    attached_out, merged_out = logits(host, spec, [matrices]), logits(merged, None, [])
    torch.testing.assert_close(attached_out, merged_out, rtol=0, atol=1e-10)
    assert gap(merged_out, logits(host, None, [])) > 1e-3


@by_technique
def test_effective_is_what_the_files_of_lora_stand_for(technique: str) -> None:
    """LoRA: alpha/r B A. Adapters: W_up W_down. Prefixes: keys beside values. Linear in the output matrices."""
    host, spec, made = host_of("bert"), SPECS[technique], TECHNIQUES[technique]
    stacked = stack([random_matrices(host, spec)], torch.float64)
    shared = stacked.get(SHARED, {})
    for name, slot in made.slots(spec, host.slots).items():
        own = stacked[name]
        update = made.effective(spec, slot, own, shared)
        tripled = {n: 3 * t if n in made.output_matrices else t for n, t in own.items()}
        torch.testing.assert_close(made.effective(spec, slot, tripled, shared), 3 * update)
        if technique == "lora":
            torch.testing.assert_close(update[0], 1.5 * own["B"][0] @ own["A"][0])


def test_gpt2_lora_on_parts_is_an_update_of_c_attn_s_columns() -> None:
    host, merged = host_of("gpt2"), pico_host("gpt2", dtype=torch.float64)
    spec = make_spec("lora", {"rank": 2, "alpha": 3.0, "sites": ("attn_q", "attn_v")})
    matrices = random_matrices(host, spec)
    for layer in range(2):
        weight = merged.model.transformer.h[layer].attn.c_attn.weight  # (D_in, 3 D): q, k and v side by side
        assert weight.shape == (16, 48)
        for site, columns in (("attn_q", slice(0, 16)), ("attn_v", slice(32, 48))):
            own = matrices[f"layers.{layer}.{site}"]
            weight[:, columns] += 1.5 * (own["B"].double() @ own["A"].double()).T
    torch.testing.assert_close(logits(host, spec, [matrices]), logits(merged, None, []), rtol=0, atol=1e-10)


# --- adapters --------------------------------------------------------------------------------------------------------

NONLINEAR = {
    "relu": lambda x: np.maximum(x, 0),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
}


def captured(host: Host, spec: TechniqueSpec, matrices: Parameters, slot_name: str) -> tuple[Any, Any, Any]:
    """What came out of (or, at a norm, went into) a slot's module before and after the technique, as (N, D)."""
    slot, seen = host.slots[slot_name], []
    module = host.slot_module(slot)

    def note(value: Any) -> None:
        first = value[0] if isinstance(value, tuple) else value
        seen.append(first.detach().reshape(-1, first.shape[-1]).numpy().copy())

    def watch() -> Any:
        if slot.kind == "sum_into":
            return module.register_forward_pre_hook(lambda _, args: note(args))
        return module.register_forward_hook(lambda _, args, out: note(out))

    inputs = inputs_of(host, ROWS)
    before = watch()  # hooks run in the order of their registration
    with torch.no_grad(), attached(host, spec, stack([matrices], host.dtype)):
        after = watch()
        host.model(**inputs)
    before.remove(), after.remove()
    assert len(seen) == 2
    return seen[0], seen[1], module


def layer_norm(norm: Any, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.numpy() + norm.bias.numpy()


@everywhere
@pytest.mark.parametrize("activation", NONLINEAR)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_adapters_compute_their_equation(model_type: str, placement: str, activation: str) -> None:
    """y + W_up f(W_down h + b_down) + b_up, in numpy, at the last slot of each site."""
    host = host_of(model_type)
    spec = make_spec("adapter", {"reduction_factor": 4, "placement": placement, "activation": activation})
    matrices = random_matrices(host, spec)
    last = {name.rpartition(".")[2]: name for name in matrices}
    assert set(last) == ({"attn_o", "ffn_out"} if placement == "houlsby" else {"ffn_sum"})
    for name in last.values():
        y, changed, module = captured(host, spec, matrices, name)
        h = layer_norm(module, y) if host.slots[name].kind == "sum_into" else y
        own = {n: t.double().numpy() for n, t in matrices[name].items()}
        low = NONLINEAR[activation](h @ own["down"].T + own["down_bias"])
        np.testing.assert_allclose(changed, y + low @ own["up"].T + own["up_bias"], rtol=0, atol=1e-10)
        assert np.abs(changed - y).max() > 1e-2


def kronecker(rule: Any, left: Any, right: Any) -> Any:
    return sum(np.kron(a, s @ t) for a, s, t in zip(rule, left, right, strict=True))


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 3), (4, 1)])
def test_compacter_expands_to_sums_of_kronecker_products(n: int, rank: int) -> None:
    host = host_of("t5")
    spec = make_spec("compacter", {"phm_dim": n, "phm_rank": rank, "reduction_factor": 2})
    entries = [random_matrices(host, spec, seed, std=1) for seed in (1, 2)]
    stacked = stack(entries, torch.float64)
    for name in (name for name in stacked if name != SHARED):
        full = expand(stacked[name], stacked[SHARED]["rule"])
        for k, entry in enumerate(entries):
            rule = entry[SHARED]["rule"].double().numpy()
            own = {m: t.double().numpy() for m, t in entry[name].items()}
            for side, shape in (("down", (8, 16)), ("up", (16, 8))):
                expected = kronecker(rule, own[f"{side}_left"], own[f"{side}_right"]).T
                assert expected.shape == shape
                np.testing.assert_allclose(full[side][k].numpy(), expected, rtol=0, atol=1e-12)


@everywhere
def test_compacter_computes_its_equation(model_type: str) -> None:
    host, spec = host_of(model_type), SPECS["compacter"]
    matrices = random_matrices(host, spec, std=1)
    name = [name for name in matrices if name.endswith("ffn_out")][-1]
    y, changed, _ = captured(host, spec, matrices, name)
    own = {n: t.double().numpy() for n, t in matrices[name].items()}
    rule = matrices[SHARED]["rule"].double().numpy()
    down, up = (kronecker(rule, own[f"{side}_left"], own[f"{side}_right"]) for side in ("down", "up"))
    low = NONLINEAR["gelu"](y @ down + own["down_bias"])
    np.testing.assert_allclose(changed, y + low @ up + own["up_bias"], rtol=0, atol=1e-9)
    assert np.abs(changed - y).max() > 1e-2


# --- prefix tuning ---------------------------------------------------------------------------------------------------


def test_a_prefixed_bert_block_is_attention_over_prefix_and_text() -> None:
    """Two entries and unequal rows: written out query by query, head by head, padding left out of every sum."""
    host, spec = host_of("bert"), SPECS["prefix"]
    entries = [random_matrices(host, spec, seed, std=1) for seed in (1, 2)]
    inputs = inputs_of(host, ROWS + OTHER_ROWS)
    block: Any = host.slot_module(host.slots["layers.1.attn"])
    seen: list[tuple[Tensor, Tensor]] = []
    handle = block.register_forward_hook(
        lambda _, args, options, out: seen.append((args[0] if args else options["hidden_states"], out[0])),
        with_kwargs=True,
    )
    with torch.no_grad(), attached(host, spec, stack(entries, host.dtype)):
        host.model(**inputs)
    handle.remove()
    [(hidden, out)] = seen
    query, key, value = (
        m(hidden).detach().view(*hidden.shape[:2], 2, 8).numpy() for m in (block.query, block.key, block.value)
    )
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        own = entries[row // len(ROWS)]["layers.1.attn"]
        prefix_keys, prefix_values = (own[n].double().numpy().reshape(3, 2, 8) for n in ("keys", "values"))
        for head in range(2):
            keys = np.concatenate([prefix_keys[:, head], key[row, :length, head]])
            values = np.concatenate([prefix_values[:, head], value[row, :length, head]])
            for place in range(length):
                weights = np.exp(keys @ query[row, place, head] / np.sqrt(8))
                expected = weights @ values / weights.sum()
                got = out[row, place].view(2, 8)[head].numpy()
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("slot", ["encoder.layers.1.attn", "decoder.layers.1.attn", "decoder.layers.1.cross"])
def test_a_prefixed_t5_block_is_attention_over_prefix_and_text(slot: str) -> None:
    """Unscaled, with the relative position bias on the text and none on the prefix; causal in the decoder's own."""
    host, spec = host_of("t5"), SPECS["prefix"]
    entries = [random_matrices(host, spec, seed) for seed in (1, 2)]
    inputs = inputs_of(host, ROWS + OTHER_ROWS)
    block: Any = host.slot_module(host.slots[slot])
    seen: list[tuple[Tensor, dict[str, Any], Tensor]] = []
    handle = block.register_forward_hook(
        lambda _, args, options, out: seen.append((args[0], options, out[0])), with_kwargs=True
    )
    with torch.no_grad(), attached(host, spec, stack(entries, host.dtype)):
        host.model(**inputs)
    handle.remove()
    [(hidden, options, out)] = seen
    source = options["key_value_states"] if slot.endswith("cross") else hidden
    query = block.q(hidden).detach().view(*hidden.shape[:2], 3, 4).numpy()
    key, value = (m(source).detach().view(*source.shape[:2], 3, 4).numpy() for m in (block.k, block.v))
    bias = options["position_bias"].expand(1, 3, hidden.shape[1], source.shape[1])[0].detach().numpy()
    assert bias.any() == (not slot.endswith("cross"))
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        own = entries[row // len(ROWS)][slot]
        prefix_keys, prefix_values = (own[n].double().numpy().reshape(3, 3, 4) for n in ("keys", "values"))
        for place in range(length if slot.startswith("encoder") else 4):
            last = place + 1 if slot == "decoder.layers.1.attn" else length
            heads = []
            for head in range(3):
                text = key[row, :last, head] @ query[row, place, head] + bias[head, place, :last]
                weights = np.exp(np.concatenate([prefix_keys[:, head] @ query[row, place, head], text]))
                values = np.concatenate([prefix_values[:, head], value[row, :last, head]])
                heads.append(weights @ values / weights.sum())
            expected = np.concatenate(heads) @ block.o.weight.numpy().T
            np.testing.assert_allclose(out[row, place].numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("rows", [ROWS[:1], ROWS], ids=["one-row", "left-padded"])
def test_a_decoder_s_prefix_is_a_past_of_keys_and_values(model_type: str, rows: Any) -> None:
    """The same numbers as transformers' own cache, filled with the prefix, on a model that was never wrapped."""
    host, spec = host_of(model_type), SPECS["prefix"]
    matrices = random_matrices(host, spec)
    model = pico_model(model_type).double()
    inputs = inputs_of(host, rows, shift=3)
    cache_ = DynamicCache(config=model.config)
    for layer in range(2):
        own = matrices[f"layers.{layer}.attn"]
        heads = host.slots[f"layers.{layer}.attn"].heads
        keys, values = (
            own[n].double().view(1, 3, heads, -1).transpose(1, 2).expand(len(rows), -1, -1, -1)
            for n in ("keys", "values")
        )
        cache_.update(keys, values, layer)
    mask = torch.cat([torch.ones(len(rows), 3, dtype=torch.long), inputs["attention_mask"]], dim=1)
    options = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"], "attention_mask": mask}
    with torch.no_grad():
        expected = model(**options, past_key_values=cache_, use_cache=True).logits
    ours = logits(host, spec, [matrices], rows)
    text = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[text], expected[text], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS], ids=["one-row", "left-padded"])
@pytest.mark.parametrize("window", [1, 2, 4, 8])
def test_a_prefix_stays_in_sight_of_windowed_layers(window: int, rows: Any) -> None:
    """Text sees the window's tokens and the whole prefix, however far away that is: transformers told so by a mask.

    A cache of transformers, and so `peft`, moves a prefix out of the window like any other token.
    """
    host, spec = pico_host("gemma3_text", dtype=torch.float64, sliding_window=window), SPECS["prefix"]
    matrices = random_matrices(host, spec)
    model = pico_model("gemma3_text", sliding_window=window).double()
    inputs = inputs_of(host, rows, shift=3)
    text, count = inputs["attention_mask"].bool(), inputs["input_ids"].shape[1]
    place = torch.arange(count)
    near = (place[:, None] - place).clamp(min=-1)  # how far a key lies behind its query; -1 before it
    past, masks = DynamicCache(), {}
    for kind, reach in (("sliding_attention", window), ("full_attention", count)):
        seen = ((near >= 0) & (near < reach))[None] & text[:, None]
        masks[kind] = torch.cat([torch.ones(len(rows), count, 3, dtype=torch.bool), seen], dim=2)[:, None]
    for layer in range(2):
        own = matrices[f"layers.{layer}.attn"]
        keys, values = (own[n].double().view(1, 1, 3, -1).expand(len(rows), -1, -1, -1) for n in ("keys", "values"))
        past.update(keys, values, layer)
    options = {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"]}
    with torch.no_grad():
        expected = model(**options, attention_mask=masks, past_key_values=past, use_cache=True).logits
    ours = logits(host, spec, [matrices], rows)
    torch.testing.assert_close(ours[text], expected[text], rtol=0, atol=1e-10)
    wide = logits(pico_host("gemma3_text", dtype=torch.float64), spec, [matrices], rows)
    assert torch.allclose(ours[text], wide[text], atol=1e-6) == (window >= count)


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_s_prefix_is_seen_everywhere_and_the_future_nowhere(model_type: str) -> None:
    host, spec = host_of(model_type), SPECS["prefix"]
    one, other = random_matrices(host, spec, 1), random_matrices(host, spec, 2)
    [row] = ROWS[:1]
    before = logits(host, spec, [one], [row])[0]
    assert bool(((before - logits(host, spec, [other], [row])[0]).abs().amax(-1) > 1e-4).all())
    for place in range(len(row)):
        changed = (*row[:place], row[place] + 1, *row[place + 1 :])
        after = logits(host, spec, [one], [changed])[0]
        torch.testing.assert_close(after[:place], before[:place], rtol=0, atol=1e-12)
        assert float((after[place] - before[place]).abs().max()) > 1e-6


@pytest.mark.parametrize("model_type", ["t5", "mt5", "bart"])
def test_encoder_decoders_have_three_kinds_of_prefix(model_type: str) -> None:
    """Encoder self-, decoder self- and cross-attention: each alone changes what is said, and causality is kept."""
    host, spec = host_of(model_type), SPECS["prefix"]
    base, other = random_matrices(host, spec, 1), random_matrices(host, spec, 2)
    before = logits(host, spec, [base])
    for place in ("encoder.layers.1.attn", "decoder.layers.1.attn", "decoder.layers.1.cross"):
        after = logits(host, spec, [{**base, place: other[place]}])
        assert bool(((after - before).abs().amax(-1) > 1e-6).all()), place
    inputs = inputs_of(host, ROWS)
    inputs["decoder_input_ids"][:, 2] += 1
    with torch.no_grad(), attached(host, spec, stack([base], host.dtype)):
        after = host.model(**inputs).logits
    torch.testing.assert_close(after[:, :2], before[:, :2], rtol=0, atol=1e-12)
    assert float((after[:, 2:] - before[:, 2:]).abs().amax(-1).min()) > 1e-6


@everywhere
def test_padding_stays_invisible_beside_a_prefix(model_type: str) -> None:
    """A row answers the same whether longer rows stand beside it or not: the widened mask still hides its padding."""
    host, spec = host_of(model_type), SPECS["prefix"]
    matrices = random_matrices(host, spec)
    alone = logits(host, spec, [matrices], ROWS[1:2])
    padded = logits(host, spec, [matrices], ROWS)[1:2]
    length = alone.shape[1]
    own = padded[:, -length:] if host.kind == "decoder" else padded[:, :length]
    torch.testing.assert_close(own, alone, rtol=0, atol=1e-10)


# --- a host is left as it was ----------------------------------------------------------------------------------------


@everywhere
@by_technique
def test_nothing_of_a_module_stays_on_its_host(model_type: str, technique: str) -> None:
    host, spec = host_of(model_type, torch.float32), SPECS[technique]
    matrices = random_matrices(host, spec)
    bare = logits(host, None, [])
    assert not torch.equal(logits(host, spec, [matrices]), bare)
    assert is_bare(host)
    assert torch.equal(logits(host, None, []), bare)
    with pytest.raises(ZeroDivisionError), attached(host, spec, stack([matrices])):
        assert not is_bare(host)
        raise ZeroDivisionError
    assert is_bare(host)
    last = [name for name in matrices if name != SHARED][-1]
    with pytest.raises(KeyError), attached(host, spec, stack([{n: m for n, m in matrices.items() if n != last}])):
        pass
    assert is_bare(host)
    assert torch.equal(logits(host, None, []), bare)


@by_technique
def test_a_host_that_fails_midway_is_left_as_it_was(technique: str) -> None:
    """Also when the failure is in the forward pass itself: an entry too many for the batch."""
    host, spec = host_of("bert"), SPECS[technique]
    entries = stack([random_matrices(host, spec, seed) for seed in range(5)], host.dtype)
    with pytest.raises(RuntimeError), attached(host, spec, entries), torch.no_grad():
        host.model(**inputs_of(host, [(5, 6, 7, 1)] * 3))
    assert is_bare(host)
    assert isinstance(host.model, nn.Module) and not any(p.requires_grad for p in host.model.parameters())
