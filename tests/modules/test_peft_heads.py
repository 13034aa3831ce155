"""Heads that real `peft` saves with a LoRA: read, used, written and carried; logits as those of `peft`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from peftport.core.errors import ModuleRefused, SlotMismatch
from peftport.core.hashing import rng_for
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.hosts.loading import loading_of
from peftport.hosts.task_head import CLASSES, HeadKind
from peftport.modules.folders import read_module, write_module
from peftport.modules.module import HEAD, in_host_dtype, stack
from peftport.objectives import bind_objective
from peftport.porting import porter_named
from peftport.porting.base import PortInputs
from peftport.techniques.attach import attached
from pico import TOY, WORDS, pico_model, word_tokenizer

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

KINDS: dict[str, HeadKind] = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "QUESTION_ANS": "question"}
SAVED = {"t5": ["classification_head"], "bart": ["classification_head"]}
OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "distilbert": {"target_modules": ["q_lin", "v_lin"]}, "gpt2": {"fan_in_fan_out": True},
}  # fmt: skip
CASES = [
    ("bert", "SEQ_CLS"), ("roberta", "SEQ_CLS"), ("distilbert", "SEQ_CLS"), ("electra", "SEQ_CLS"),
    ("llama", "SEQ_CLS"), ("gpt2", "SEQ_CLS"), ("t5", "SEQ_CLS"),
    ("bert", "TOKEN_CLS"), ("llama", "TOKEN_CLS"), ("bert", "QUESTION_ANS"),
]  # fmt: skip
TEXTS = ["good film", "the plot was dull .", "a"]
LABELS = 2


def a_host(home: Path, model_type: str, **changes: Any) -> Path:
    folder = home / "-".join([model_type, *map(str, changes.values())])
    if not folder.exists():
        pico_model(model_type, view="body", **changes).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def a_model(host: Path, kind: HeadKind) -> Any:
    torch.manual_seed(5)
    return getattr(transformers, CLASSES[kind]).from_pretrained(host, num_labels=LABELS).eval()


def trained(host: Path, task_type: str, out: Path, **settings: Any) -> Any:
    """A LoRA that real peft made on a host, with random numbers in it and in its head."""
    model_type = json.loads((host / "config.json").read_text())["model_type"]
    if model_type in SAVED:
        settings.setdefault("modules_to_save", SAVED[model_type])
    settings = {**OWN_SETTINGS.get(model_type, {}), **settings}
    model = get_peft_model(a_model(host, KINDS[task_type]), LoraConfig(task_type=task_type, r=2, **settings))
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return model.eval()


@torch.no_grad()
def logits(model: Any, kind: HeadKind) -> Tensor:
    found = []
    for text in TEXTS:
        ids = torch.tensor([word_tokenizer()(text + " </s>")["input_ids"]])
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        found.append(torch.cat([out.start_logits, out.end_logits]) if kind == "question" else out.logits)
    return torch.cat([each.flatten() for each in found])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.mark.parametrize(("model_type", "task_type"), CASES)
def test_a_head_is_read_used_and_written(model_type: str, task_type: str, home: Path, tmp_path: Path) -> None:
    host, kind = a_host(home, model_type), KINDS[task_type]
    want = logits(trained(host, task_type, tmp_path / "peft"), kind)
    loaded = load_host(str(host))
    module = read_module(tmp_path / "peft", loaded)
    assert module.head is not None
    write_module(module, loaded, tmp_path / "written", "peft")
    again = logits(PeftModel.from_pretrained(a_model(host, kind), tmp_path / "written").eval(), kind)
    torch.testing.assert_close(again, want, rtol=0, atol=1e-6)
    assert settings(tmp_path / "written") == settings(tmp_path / "peft")
    write_module(module, loaded, tmp_path / "native")
    kept = read_module(tmp_path / "native")
    assert all(torch.equal(kept.matrices[HEAD][name], own) for name, own in module.head.items())
    if kind == "sequence":
        torch.testing.assert_close(ours(loaded, [module.matrices])[0].flatten(), want, rtol=0, atol=1e-5)


def settings(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return {key: sorted(value) if isinstance(value, list) else value for key, value in said.items()}


@torch.no_grad()
def ours(host: Host, modules: list[Any], spec: Any = None) -> Tensor:
    """Logits of K modules by our objective, (K, N, C)."""
    from peftport.techniques import make_spec

    sites = {host.slots[name].site for name in modules[0] if name != HEAD}
    spec = make_spec("lora", {"rank": 2, "alpha": 8.0, "sites": sorted(sites)})
    objective = bind_objective("classifier", host, TOY)
    rows = [tuple(word_tokenizer()(text + " </s>")["input_ids"]) for text in TEXTS]
    matrices = in_host_dtype(host, stack(modules))
    with attached(host, spec, matrices):
        found = objective.predict(rows * len(modules), matrices[HEAD], 0)
    return torch.from_numpy(np.asarray(found)).view(len(modules), len(rows), -1)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "llama"])
def test_stacked_heads_are_each_one_s_own(model_type: str, home: Path, tmp_path: Path) -> None:
    host = load_host(str(a_host(home, model_type)))
    trained(a_host(home, model_type), "SEQ_CLS", tmp_path / "peft")
    one = read_module(tmp_path / "peft", host).matrices
    other = copy.deepcopy(one)
    other[HEAD] = {name: tensor * 0.5 + 0.1 for name, tensor in one[HEAD].items()}
    both = ours(host, [one, other])
    torch.testing.assert_close(both, torch.cat([ours(host, [one]), ours(host, [other])]), rtol=0, atol=1e-6)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "llama"])
def test_a_head_is_carried_by_every_method(model_type: str, home: Path, tmp_path: Path) -> None:
    """On one and the same host a method that maps spaces changes nothing; to a wider one, `peft` loads what it made."""
    host = load_host(str(a_host(home, model_type)))
    want = logits(trained(a_host(home, model_type), "SEQ_CLS", tmp_path / "peft"), "sequence")
    module = read_module(tmp_path / "peft", host)
    texts = [" ".join(np.random.default_rng(seed).choice(WORDS, 12)) for seed in range(60)]
    for method in ("copy", "resize", "theseus"):
        same = porter_named(method).port(module, host, rng_for(0, "porting"), PortInputs(host, texts))
        torch.testing.assert_close(ours(host, [same.matrices])[0].flatten(), want, rtol=0, atol=1e-3)
    wide = a_host(home, model_type, hidden_size=32)
    receiver = load_host(str(wide))
    ported = porter_named("theseus").port(module, receiver, rng_for(0, "porting"), PortInputs(host, texts))
    assert "mapped" in ported.ports[-1].slots[HEAD]
    write_module(ported, receiver, tmp_path / "ported", "peft")
    again = PeftModel.from_pretrained(a_model(wide, "sequence"), tmp_path / "ported").eval()
    torch.testing.assert_close(
        logits(again, "sequence"), ours(receiver, [ported.matrices])[0].flatten(), rtol=0, atol=1e-5
    )


def test_a_head_that_cannot_be_carried_is_left_out_by_name(home: Path, tmp_path: Path) -> None:
    host, other = load_host(str(a_host(home, "bert"))), load_host(str(a_host(home, "roberta")))
    trained(a_host(home, "bert"), "SEQ_CLS", tmp_path / "peft")
    module = read_module(tmp_path / "peft", host)
    with pytest.raises(SlotMismatch, match=r"leave the head out \(--leave-out head\)"):
        porter_named("copy").port(module, other, rng_for(0, "porting"))
    rest = read_module(tmp_path / "peft", host, ("head",))
    ported = porter_named("copy").port(rest, other, rng_for(0, "porting"))
    write_module(ported, other, tmp_path / "rest", "peft")
    assert settings(tmp_path / "rest")["modules_to_save"] is None
    PeftModel.from_pretrained(a_model(a_host(home, "roberta"), "sequence"), tmp_path / "rest")
    with pytest.raises(ModuleRefused, match="--leave-out score: expected head or a module that the file has"):
        read_module(tmp_path / "peft", host, ("score",))


def test_a_layer_that_peft_did_not_save_is_lost(home: Path, tmp_path: Path) -> None:
    """PEFT saves what its settings name, and no pooler that was drawn anew."""
    model = transformers.AutoModel.from_pretrained(a_host(home, "bert"), add_pooling_layer=False)
    model.save_pretrained(home / "bare")
    word_tokenizer().save_pretrained(home / "bare")
    trained(home / "bare", "SEQ_CLS", tmp_path / "peft")
    with pytest.raises(ModuleRefused, match="drawn at random before the training and is lost.*'pooler'"):
        read_module(tmp_path / "peft", load_host(str(home / "bare")))
    want = logits(trained(home / "bare", "SEQ_CLS", tmp_path / "whole", modules_to_save=["pooler"]), "sequence")
    host = load_host(str(home / "bare"))
    module = read_module(tmp_path / "whole", host)
    torch.testing.assert_close(ours(host, [module.matrices])[0].flatten(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("load", [{"dtype": "mixed"}, {"dtype": "bfloat16"}, {"bits": 4}], ids=str)
def test_a_head_on_a_host_in_fewer_bits_is_exact_and_leaves_the_host_as_it_was(
    load: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    """Its pooler comes from the host's files, and the host's own pooler multiplies afterwards as before."""
    folder = a_host(home, "bert")
    trained(folder, "SEQ_CLS", tmp_path / "peft")
    wide, narrow = load_host(str(folder)), load_host(str(folder), "body", loading_of(load))
    exact, module = (read_module(tmp_path / "peft", host) for host in (wide, narrow))
    assert exact.head is not None and module.head is not None
    assert all(torch.equal(module.head[name], own) for name, own in exact.head.items())
    inputs = word_tokenizer()(TEXTS, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = narrow.base(input_ids=inputs).pooler_output
        near, apart = ours(narrow, [module.matrices]), ours(wide, [exact.matrices])
        assert torch.equal(narrow.base(input_ids=inputs).pooler_output, before)
    torch.testing.assert_close(near, apart, rtol=0, atol=0.1 * float(apart.abs().max()))
