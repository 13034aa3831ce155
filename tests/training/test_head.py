"""The host's own trained head: as transformers computes it alone and in a batch, with peft's LoRA, for its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import processors

from peftport.core.errors import BadRequest, HostRefused
from peftport.core.scale import Scale
from peftport.hosts.head import TrainedHead
from peftport.hosts.host import Host
from peftport.modules.folders import write_module
from peftport.modules.module import Module
from peftport.objectives import bind_objective, objective_for
from peftport.objectives.head import matched, usual
from peftport.tasks.columns import Wording
from peftport.tasks.kinds.classification import own_spec
from peftport.tasks.kinds.multi_label import MultiLabel
from peftport.tasks.kinds.regression import RegressionTask
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques.attach import attached
from peftport.techniques.lora import LoraSpec
from peftport.training.bound_task import BoundTask, Start
from peftport.training.loop import TrainSettings
from pico import WORDS, pico_host, pico_model, random_matrices

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
THREE = own_spec("moods", ("bad", "fine", "good"), Wording())
NAMES = {0: "GOOD", 1: "Bad", 2: "fine"}  # not in the task's order
IN_TASK_ORDER = [1, 2, 0]
POSITIONS: tuple[dict[str, int], ...] = ({"max_position_embeddings": 40}, {})  # T5 has no table of them
MODELS = (
    "bert",
    "electra",
    "distilbert",
    "roberta",
    "t5",
    "bart",
    "llama",
    "gpt2",
    "opt",
    "phi",
    "gemma3_text",
    "qwen3",
)


def host_of(model_type: str, seed: int = 0, **changes: Any) -> Host:
    changes = {"id2label": NAMES, **POSITIONS[model_type == "t5"], **changes}
    host = pico_host(model_type, seed, "sequence_classification", torch.float64, **changes)
    if host.kind == "encoder_decoder":  # as their tokenizers do, end each text
        host.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
        )
    return host


def equal_to(model_type: str) -> Any:
    """The model of `host_of`, made again."""
    model = pico_model(model_type, 0, "sequence_classification", id2label=NAMES, **POSITIONS[model_type == "t5"])
    return model.double()


def by_transformers(model: Any, host: Host, text: str) -> torch.Tensor:
    """The logits of one text, in the head's own order, (1, C)."""
    return model(**host.tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits  # type: ignore[no-any-return]


HOSTS = {model_type: host_of(model_type) for model_type in MODELS}
words = st.lists(st.sampled_from([*WORDS, "<pad>", "</s>"]), min_size=1, max_size=12).map(" ".join)


@given(st.lists(words, min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("model_type", MODELS)
@torch.no_grad()
def test_logits_are_those_of_transformers_alone_and_in_a_batch(model_type: str, texts: list[str]) -> None:
    """Whatever stands in a text, the padding and the end token too."""
    host = HOSTS[model_type]
    objective: Any = bind_objective("head", host, THREE, 64)
    rows = objective.encode(texts)
    together = objective.scores(rows, None, 0)
    for text, row, own in zip(texts, rows, together, strict=True):
        expected = by_transformers(host.model, host, text)[0, IN_TASK_ORDER]
        torch.testing.assert_close(objective.scores([row], None, 0)[0], expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("padding", [None, 1, 6])
@torch.no_grad()
def test_a_decoder_s_last_token_goes_by_its_own_padding(padding: int | None) -> None:
    """The padding of ``config.json``, whatever the tokenizer pads with; without one, the last token."""
    host = host_of("llama")
    before, host.config.pad_token_id = host.config.pad_token_id, padding
    try:
        objective: Any = bind_objective("head", host, THREE, 64)
        texts = ["good film </s>", "the plot was bad bad", "bad", "bad bad"]
        found = objective.scores(objective.encode(texts), None, 0)
        for text, own in zip(texts, found, strict=True):
            torch.testing.assert_close(
                own, by_transformers(host.model, host, text)[0, IN_TASK_ORDER], rtol=0, atol=1e-9
            )
    finally:
        host.config.pad_token_id = before


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "bart", "llama"])
@torch.no_grad()
def test_with_a_lora_logits_are_those_of_peft(model_type: str, tmp_path: Path) -> None:
    """Our file, loaded by peft on an equal classifier, and peft's own model of the task type SEQ_CLS."""
    spec = LoraSpec(rank=2, alpha=6.0, sites=("attn_q", "attn_v"))
    host = host_of(model_type)
    matrices = random_matrices(host, spec)
    write_module(Module(spec, host.fingerprint, matrices), host, tmp_path / "lora", "peft")
    loaded = PeftModel.from_pretrained(equal_to(model_type), tmp_path / "lora").double().eval()
    targets = loaded.peft_config["default"].target_modules
    config = LoraConfig(r=2, lora_alpha=6, target_modules=targets, task_type="SEQ_CLS")
    model = get_peft_model(equal_to(model_type), config).double().eval()
    for name, weight in loaded.state_dict().items():
        if "lora_" in name:
            model.get_parameter(name).data = weight
    objective: Any = bind_objective("head", host, THREE, 64)
    texts = ["good film", "the plot was bad and it is a dull film", "fine"]
    stacked = {slot: {name: t.double()[None] for name, t in own.items()} for slot, own in matrices.items()}
    bare = objective.scores(objective.encode(texts), None, 0)
    with attached(host, spec, stacked):
        found = objective.scores(objective.encode(texts), None, 0)
    assert (found - bare).abs().max() > 1e-3
    for text, own in zip(texts, found, strict=True):
        for theirs in (loaded, model):
            torch.testing.assert_close(own, by_transformers(theirs, host, text)[0, IN_TASK_ORDER], rtol=0, atol=1e-6)


HEAD = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "task", "outputs", "default"),
    [
        ({"id2label": {"0": "NEGATIVE", "1": "Positive"}}, ("positive", "negative"), (1, 0), True),
        ({"id2label": {"1": "not spam", "0": "spam"}}, ("not_spam", "spam"), (1, 0), True),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ("negative", "positive"), (0, 1), False),
        ({}, ("negative", "positive"), (0, 1), False),
        ({"num_labels": 3}, ("a", "b", "c"), (0, 1, 2), False),
        ({"id2label": {"0": "a", "1": "b"}}, ("0", "1"), (0, 1), False),
        ({"id2label": {"0": "a", "1": "b"}}, ("a", "c"), None, False),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, ("a", "b"), None, False),
        ({"problem_type": "multi_label_classification", "id2label": {"0": "a", "1": "b"}}, ("a", "b"), None, False),
    ],
)
def test_labels_stand_for_outputs_by_name_or_where_asked_in_order(
    config: dict[str, Any], task: tuple[str, ...], outputs: tuple[int, ...] | None, default: bool
) -> None:
    head = TrainedHead.of({**HEAD, **config}, "here")
    assert head is not None
    spec = own_spec("own", task, Wording())
    found = matched(head, spec)
    assert (found.outputs if found else None) == outputs
    assert usual(head, spec) == default
    assert (objective_for(None, "encoder", spec, head).name == "head") == default
    assert objective_for("prototype", "encoder", spec, head).name == "prototype"
    assert TrainedHead.of({**config, "architectures": ["BertModel"]}, "here") is None


@pytest.mark.parametrize("names", [{"x": "a"}, {"0": "a", "2": "b"}, {}, ["a"], 3])
def test_names_of_labels_that_are_none(names: object) -> None:
    with pytest.raises(HostRefused, match="here: config.json: id2label: expected a name for each output"):
        TrainedHead.of({**HEAD, "id2label": names}, "here")


def test_a_head_for_other_labels_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"expected a head for classification of the labels no, yes, got one for GOOD"):
        bind_objective("head", host_of("bert"), own_spec("own", ("no", "yes"), Wording()))
    with pytest.raises(BadRequest, match="pico-bert: expected a head .* got no head; use --readout linear"):
        bind_objective("head", pico_host("bert", view="body"), THREE)


def numbers(unit: float) -> RegressionTask:
    spec = RegressionTask.worded(name="stars", prompt="{text}", causal_prompt="{text}", domain="stars")
    return spec.model_copy(update={"scale": Scale.of([unit, 3 * unit, 7 * unit])})


def test_a_number_in_the_head_s_own_unit() -> None:
    host = host_of("bert", id2label={0: "LABEL_0"}, problem_type="regression")
    head = TrainedHead(("LABEL_0",), None)
    assert objective_for(None, "encoder", numbers(1), head).name == "head"
    objective = bind_objective("head", host, numbers(10))
    rows = objective.encode(["good film", "bad"])
    expected = torch.cat([by_transformers(host.model, host, text)[0] for text in ("good film", "bad")])
    np.testing.assert_allclose(objective.predict(rows, None, 0), expected.numpy(), atol=1e-9)
    targets = torch.tensor([10.0, 30.0])
    deviation = np.std([10, 30, 70])
    torch.testing.assert_close(objective.loss(rows, targets, None, 0), ((expected - targets) / deviation) ** 2)


def test_labels_by_a_head_that_was_trained_for_sets_of_them() -> None:
    host = host_of("bert", problem_type="multi_label_classification")
    spec = MultiLabel.worded(
        name="tags", labels=("bad", "fine", "good"), prompt="{text}", causal_prompt="{text}", domain="t"
    )
    assert usual(TrainedHead(("good", "bad", "fine"), "multi_label_classification"), spec)
    assert not usual(TrainedHead(("good", "bad", "fine"), None), spec)
    objective = bind_objective("head", host, spec)
    rows = objective.encode(["good film", "bad"])
    expected = torch.cat([by_transformers(host.model, host, text) for text in ("good film", "bad")])[:, IN_TASK_ORDER]
    np.testing.assert_allclose(objective.predict(rows, None, 0), expected.float().numpy(), atol=1e-6)
    targets = torch.tensor([[0, 1, 1], [1, 0, 0]])
    loss = torch.nn.BCEWithLogitsLoss(reduction="none")(expected, targets.double()).mean(1)
    torch.testing.assert_close(objective.loss(rows, targets, None, 0), loss)


def test_what_is_trained_is_the_module_alone_and_stacked_as_alone() -> None:
    host, spec = host_of("bert"), LoraSpec(rank=2)
    split = Split(
        tuple("012345"), ("good", "bad", "fine film", "good plot", "dull", "it is fine"), np.array([2, 0, 1, 2, 0, 1])
    )
    bench = BoundTask(
        host,
        Task(THREE, split, split, split, Dropped()),
        bind_objective("head", host, THREE),
        TrainSettings(batch_size=3),
    )
    before = {name: p.clone() for name, p in host.model.named_parameters()}
    starts = [Start(bench.fresh(spec, seed), seed) for seed in (0, 1)]
    assert all("readout" not in start.parameters for start in starts)
    together = bench.train(spec, starts, [4], 1e-2)
    for start, kept in zip(starts, together, strict=True):
        [alone] = bench.train(spec, [start], [4], 1e-2)
        assert alone[4].loss == pytest.approx(kept[4].loss, rel=1e-9)
    assert all(torch.equal(before[name], p) for name, p in host.model.named_parameters())
    assert bench.record.readout == "head"
    assert bench.remarks == ("pico-bert: readout head is the host's own trained head, for GOOD, Bad, fine",)
