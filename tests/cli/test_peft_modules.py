"""PEFT's classifiers and other types on the command line: ported, tested and compared with what the folder has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from peftport.workflows.port_inputs import TaskLosses
from pico_folders import Run

# peft 0.21 asks transformers 5.23 for this under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Folders = dict[str, Path]


def made(host: Path, auto: str, out: Path, **settings: Any) -> Path:
    """A folder that real peft made, every trained number random."""
    torch.manual_seed(3)
    options = {"num_labels": 2} if "For" in auto and "LM" not in auto else {}
    base = getattr(transformers, auto).from_pretrained(host, **options)
    model = get_peft_model(base, LoraConfig(r=2, **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return out


def test_a_classifier_of_peft_is_ported_with_its_head_and_compared(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    module = made(hosts["bert"], "AutoModelForSequenceClassification", tmp_path / "made", task_type="SEQ_CLS")
    here = peftport("evaluate", hosts["bert"], reviews, "--module", module, "--json")
    assert here.code == 0, here.err
    assert "head are taken for the labels in order: negative is output 0, positive is output 1" in here.err
    there = ("--from", hosts["bert"], "--to", hosts["bert-updated"])
    ported, rest = tmp_path / "ported", tmp_path / "rest"
    assert peftport("port", module, *there, "--out", ported).code == 0
    tested = peftport("evaluate", hosts["bert-updated"], reviews, "--module", ported, "--json")
    assert tested.code == 0 and tested.json.keys() == here.json.keys()
    compared = peftport(
        "compare", module, *there, "--task", reviews, "--budgets", "0,2", "--seeds", 1, "--method", "resize"
    )
    assert compared.code == 0, compared.err
    assert peftport("port", module, *there, "--leave-out", "head", "--out", rest).code == 0
    linear = peftport("evaluate", hosts["bert-updated"], reviews, "--module", rest, "--readout", "prototype")
    assert linear.code == 0
    wrong = peftport("port", module, *there, "--leave-out", "scor", "--out", tmp_path / "no")
    assert wrong.code == 2 and "--leave-out scor: expected head or a module that the file has" in wrong.err
    assert not (tmp_path / "no").exists()


def test_a_head_for_tokens_is_ported_but_there_is_no_task_for_it(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    module = made(hosts["bert"], "AutoModelForTokenClassification", tmp_path / "made", task_type="TOKEN_CLS")
    there = ("--from", hosts["bert"], "--to", hosts["bert-updated"])
    assert peftport("port", module, *there, "--out", tmp_path / "ported").code == 0
    for command in (
        ("evaluate", hosts["bert"], reviews, "--module", module),
        ("compare", module, *there, "--task", reviews),
    ):
        tested = peftport(*command)
        assert tested.code == 2 and tested.err.count("\n") == 1
        assert "expected a head for whole texts (SEQ_CLS), got one for tokens" in tested.err


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # of peft, as it saves
def test_a_dora_is_tested_with_its_error_said_and_a_head_s_lora_by_evaluate_alone(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    on = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    dora = made(hosts["llama"], "AutoModelForCausalLM", tmp_path / "dora", use_dora=True, **on)
    tested = peftport("evaluate", hosts["llama"], reviews, "--module", dora)
    assert tested.code == 0 and "folded from DoRA into a LoRA of rank" in tested.err
    on["target_modules"] = ["q_proj", "lm_head"]
    wide = made(hosts["llama"], "AutoModelForCausalLM", tmp_path / "wide", **on)
    there = ("--from", hosts["llama"], "--to", hosts["llama-updated"])
    whole = peftport("evaluate", hosts["llama"], reviews, "--module", wide, "--json")
    part = peftport("evaluate", hosts["llama"], reviews, "--module", wide, "--leave-out", "lm_head", "--json")
    assert whole.code == part.code == 0 and whole.json != part.json
    refused = peftport("compare", wide, *there, "--task", reviews)
    assert refused.code == 2 and "changes lm_head too; leave them out (--leave-out lm_head)" in refused.err
    assert peftport("port", wide, *there, "--out", tmp_path / "copied").code == 0


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")  # of peft, as it saves
def test_what_serving_and_upgrading_lose_of_a_folder_is_said_or_refused(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path
) -> None:
    """A head lies beside merged weights, a folded DoRA has an error, and what no matrix has is never dropped."""
    llama, bert, on = hosts["llama"], hosts["bert"], {"task_type": "CAUSAL_LM"}
    dora = made(llama, "AutoModelForCausalLM", tmp_path / "dora", use_dora=True, target_modules=["q_proj"], **on)
    wide = made(llama, "AutoModelForCausalLM", tmp_path / "wide", target_modules=["q_proj", "lm_head"], **on)
    headed = made(bert, "AutoModelForSequenceClassification", tmp_path / "headed", task_type="SEQ_CLS")
    merged = peftport("merge", llama, dora, "--out", tmp_path / "merged")
    assert merged.code == 0 and "folded from DoRA into a LoRA of rank" in merged.err
    with_head = peftport("merge", bert, headed, "--out", tmp_path / "classifier")
    assert with_head.code == 0 and "head (bert.pooler.dense, classifier)" in with_head.err
    for command in (
        ("merge", llama, wide, "--out", tmp_path / "no"),
        ("gguf", llama, wide, "--out", tmp_path / "no"),
    ):
        refused = peftport(*command)
        assert refused.code == 2 and "changes lm_head too" in refused.err
        assert not (tmp_path / "no").exists()
    upgrade = ("upgrade", llama, llama, wide, "--only-check", "--json")
    assert peftport(*upgrade).json["modules"][0]["outcome"] == "copy"
    [tested] = peftport(*upgrade, "--task", reviews).json["modules"]
    assert tested["outcome"] == "refused" and "changes lm_head too" in tested["why"]


def test_bico_reads_both_hosts_by_the_readout_that_is_given(
    peftport: Run, hosts: Folders, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PEFT folder does not say how its module was trained; the readout of the user is that of both hosts."""
    read: list[tuple[str, str]] = []
    losses = TaskLosses.losses

    def watched(self: TaskLosses) -> Any:
        read.append((self.bound_task.host.name, self.bound_task.readout.name))
        return losses(self)

    monkeypatch.setattr(TaskLosses, "losses", watched)
    module = made(hosts["bert-masked"], "AutoModelForMaskedLM", tmp_path / "made", target_modules=["query", "value"])
    there = ("--from", hosts["bert-masked"], "--to", hosts["bert-masked"], "--task", reviews, "--test-items", 6)
    short = ("--budgets", "0", "--seeds", 1)
    for readout in ("label_tokens", "prototype"):
        for number, words in enumerate((
            ("port", module, *there, "--method", "bico", "--out", tmp_path / readout),
            ("port", module, *there, "--method", "copy,bico", "--out", tmp_path / f"{readout}-of-two"),
            ("compare", module, *there, "--method", "bico", *short),
        )):  # fmt: skip
            read.clear()
            done = peftport(*words, "--readout", readout)
            assert done.code == 0, done.err
            assert read == [("bert-masked", readout)] * 2, number
