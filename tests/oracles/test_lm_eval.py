"""A host with a module on it as lm-evaluation-harness tests it: our own likelihoods and answers on the same prompts.

The harness makes tokens, batches, padding, likelihoods and texts; once it also reads a task file and makes the sums.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from peftport.core.errors import BadRequest, SlotMismatch
from peftport.hosts.host import Host
from peftport.hosts.load import load_host
from peftport.lm_eval.__main__ import main
from peftport.lm_eval.model import PortedLM
from peftport.modules.folders import write_module
from peftport.modules.module import Module, stack
from peftport.objectives import bind_objective
from peftport.objectives.answer_tokens import AnswerRow
from peftport.objectives.generation import generated
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from peftport.techniques.attach import attached, prefix_length
from pico import SPECS, WORDS, pico_model, random_matrices, word_tokenizer
from pico_folders import process_environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
HOSTS = ("llama", "gpt2", "opt", "gemma3_text", "qwen3", "t5", "bart")
ROOT = Path(__file__).parents[2]
UNTIL, MOST = ".", 6
TASK = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{answers}}"
doc_to_target: 1
"""


def texts(seed: int, count: int, longest: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[:19], 1 + n % longest)) for n in range(count)]


QUESTIONS, ANSWERS = texts(0, 7, 7), [f"{text}</s>" for text in texts(1, 5, 4)]


@cache
def folder_of(model_type: str, home: Path) -> Path:
    pico_model(model_type).save_pretrained(home / model_type)
    word_tokenizer().save_pretrained(home / model_type)
    return home / model_type


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


def written(host: Host, technique: str, out: Path) -> Any:
    own = random_matrices(host, SPECS[technique])
    write_module(Module(SPECS[technique], host.fingerprint, own), host, out, "native")
    return own


def ours(host: Host, technique: str | None, matrices: Any) -> tuple[Any, list[str]]:
    """Log-likelihoods of all answers to all questions, and greedy texts until the word that ends them."""
    task = Completion.read("answers", Columns("answers", {"text": ["a"]}, ["b"]), Wording()).spec
    objective: Any = bind_objective(None, host, task, 64)
    spec = SPECS[technique] if technique else None
    tokens, shift = (lambda text: tuple(host.tokenizer(text)["input_ids"])), prefix_length(spec, host)
    rows = [AnswerRow(tokens(question), tokens(answer)) for question in QUESTIONS for answer in ANSWERS]
    with torch.no_grad(), attached(host, spec, stack([matrices]) if spec else {}):
        values = objective.predict(rows, None, shift)
        ends = objective.ends | set(tokens(UNTIL))
        most = MOST if host.kind == "decoder" else MOST - 1  # BART's last token is its end, whatever it says
        found = generated(host, [tokens(question) for question in QUESTIONS], ends, most, shift)
    return values["log_likelihood"], [host.tokenizer.decode(answer, skip_special_tokens=True) for answer in found]


def asked(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("technique", [None, *SPECS])
@pytest.mark.parametrize("model_type", HOSTS)
def test_the_harness_s_numbers_are_ours(model_type: str, technique: str | None, home: Path, tmp_path: Path) -> None:
    """For batches of unequal lengths: it pads likelihoods on the right and generation on the left, we on the left."""
    folder = folder_of(model_type, home)
    host = load_host(str(folder), "language_model")
    matrices = written(host, technique, tmp_path / "module") if technique else None
    likelihoods, answers = ours(host, technique, matrices)
    model = PortedLM(str(folder), str(tmp_path / "module") if technique else None, batch_size=3)
    pairs = [asked("loglikelihood", question, f" {answer}") for question in QUESTIONS for answer in ANSWERS]
    found = model.loglikelihood(pairs, disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx(likelihoods.tolist(), rel=1e-5)
    options = {"until": [UNTIL], "max_gen_toks": MOST, "do_sample": False}
    theirs = model.generate_until([asked("generate_until", text, options) for text in QUESTIONS], disable_tqdm=True)
    for answer, other in zip(answers, theirs, strict=True):
        # Of an encoder-decoder the harness takes as many tokens more as the prompt has.
        ends = len(other.split()) if host.kind == "decoder" else len(answer.split())
        assert other.split()[:ends] == answer.split()


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a host, a prefix for it and a task file."""
    folder = folder_of("gpt2", home)
    written(load_host(str(folder), "language_model"), "prefix", tmp_path / "module")
    data = [{"question": question, "answers": ANSWERS} for question in QUESTIONS]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in data))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choices.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_task_file_is_tested_as_the_page_shows(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """On the command line and in Python; accuracies are those of our likelihoods."""
    host = load_host(str(place), "language_model")
    likelihoods, _ = ours(host, "prefix", written(host, "prefix", tmp_path / "again"))
    right = likelihoods.reshape(len(QUESTIONS), len(ANSWERS)).argmax(1) == 1
    # The harness reads thousands of its own task files at every start: seconds.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for word, value in {"HOST": str(place), "FOLDER": str(tmp_path / "module"), "TASK": "tasks/choices.yaml"}.items():
        page = re.sub(rf"\b{word}\b", value, page)
    [command] = re.findall(r"^python -m (peftport\.lm_eval .*)$", page, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--output_path", str(tmp_path / "out")])
    main()
    [path] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(path.read_text())["results"]["choices"]["acc,none"] == pytest.approx(right.mean())
    [code] = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec", dont_inherit=True), space)
    assert space["found"]["results"]["choices"]["acc,none"] == pytest.approx(right.mean())


def test_a_prefix_leaves_fewer_positions_for_the_text(place: Path, tmp_path: Path) -> None:
    bare, prefixed = PortedLM(str(place)), PortedLM(str(place), str(tmp_path / "module"))
    assert bare.max_length == HFLM.max_length.fget(bare) == 1024  # type: ignore[attr-defined]
    assert prefixed.max_length == 1024 - 3
    text = " ".join(WORDS[n % 19] for n in range(1100))  # cut by the harness, on the left, to what there is room for
    [(value, _)] = prefixed.loglikelihood([asked("loglikelihood", text, " good film")], disable_tqdm=True)
    assert np.isfinite(value)


def test_what_is_refused(home: Path, place: Path, tmp_path: Path) -> None:
    bert = folder_of("bert", home)
    with pytest.raises(BadRequest, match="expected a decoder or an encoder-decoder, got an encoder"):
        PortedLM(str(bert))
    with pytest.raises(BadRequest, match="--model_args peft: expected host=HOST and module=FOLDER"):
        PortedLM(str(place), peft="folder")
    with pytest.raises(SlotMismatch, match="port it first"):
        PortedLM(str(folder_of("opt", home)), str(tmp_path / "module"))
    with pytest.raises(BadRequest, match="the keys are device"):
        PortedLM(str(place), dtype="float64")


def test_without_the_harness_one_line_says_what_to_install() -> None:
    script = (
        "import runpy, sys\n"
        "sys.modules['lm_eval'] = None\n"
        "import peftport.lm_eval\n"
        "sys.argv = ['lm_eval']\n"
        "runpy.run_module('peftport.lm_eval', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=process_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("peftport: lm_eval: expected lm-evaluation-harness") and done.stderr.count("\n") == 1
    assert "pip install 'lm_eval>=0.4.13'" in done.stderr
