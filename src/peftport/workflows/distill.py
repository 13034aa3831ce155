"""Distill a module: the old module labels texts on its origin, and a new one on the receiver learns those labels.

    loss = - sum_c p_c log q_c        p: the module's probabilities on its origin, q: the new module's on the receiver

This is for classes. Of a multi-label task the probability of each label is taught, of a regression the predicted
number, of prompts the answers that the module generates on its origin (`Objective.taught`, `Objective.lesson`), by the
loss that the task has anyway. Answers are texts, so a host with another tokenizer can learn them (sequence-level
knowledge distillation, Kim & Rush 2016, arXiv 1606.07947).

**Tokens** (``--teach tokens``, or ``auto``). Where one id means one token on both hosts, a student can learn more from
an answer than its text: the module's distribution over the next token, at every place of the answer,

    loss = sum_t KL(p_t || q_t) / number of tokens, over all answers of a batch

at temperature 1 (Hinton et al. 2015, arXiv 1503.02531; token-level distillation). The vocabularies and the special
tokens must be equal, and the answers must have the same tokens on both hosts; else ``tokens`` is refused with the
reason, and ``auto`` teaches the texts. The 32 likeliest tokens of a place are told apart, all others are one outcome:
so a lesson needs 260 bytes for each token of an answer, and the module runs once more for each text instead of in every
step. The loss is a lower bound of the whole divergence, and zero where both are equal (`token_distributions`).

**Selection** (``--keep SHARE``). Only those texts are learnt on which the module differs most from its bare origin, by

    mean_t log p_module(y_t) - log p_origin(y_t)        y: the answer of the module; of classes the predicted one

The score is that of TiTok (ICLR 2026), which keeps synthetic texts by its mean and then single tokens by its value.
Ours: the texts are given, classes are scored as well, and all tokens of a text that is kept are learnt. A readout with
a head of the module's own has none on the bare origin, whose classes are then equally likely. A share of N texts is
rounded up; among equals the first are kept.

**Prompts** (``--prompts host:N``). Where there are neither texts nor a task, a decoder makes prompts itself: they are
sampled from it, with the module, from where a user's words would begin (`workflows/host_prompts.py`). Without a task
the answers are worded plainly or by the host's chat template; name the task where the module has a wording of its own.

**Techniques** (``--into TECHNIQUE``, ``--set KEY=VALUE``). The new module may be of another technique than the old one,
such as a LoRA that learns from a prefix. The port's record has what was taught (nothing: texts), the share and the
number of texts that were kept, and how many had no answer that could be learnt (``left_out``): an empty one, or one
that does not end in as many tokens as are read.

This follows Trans-LoRA, arXiv 2405.17258, and arXiv 2403.18804, which generate or filter the texts; here the user gives
them, and their labels are not used. Distilling works for any pair of hosts and any technique, even a different one from
the module's, because only the module's predictions are transferred. It uses the ordinary training loop, so it is a
workflow and not a porter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from peftport.core.errors import BadRequest, ModuleRefused
from peftport.core.progress import Progress, Silent
from peftport.modules.module import Module, PortRecord, TaskRecord, check_all_read
from peftport.tasks.spec import Example, texts_of
from peftport.techniques import make_spec, technique_named
from peftport.techniques.base import TechniqueSpec
from peftport.training.bound_task import BoundTask, bind_task
from peftport.training.evaluation import predict_entries
from peftport.training.loop import Entry, train_entries
from peftport.workflows.host_prompts import made_prompts
from peftport.workflows.job_inputs import own_readout, train_settings
from peftport.workflows.lesson import AskedModule, Teaching, check_lesson, lesson_of
from peftport.workflows.options import DISTILL
from peftport.workflows.port_inputs import MOST_TEXTS, read_texts
from peftport.workflows.requests import PortRequest

ASKED_AT_ONCE = 64  # texts between two steps of the progress bar
NAME = DISTILL
TITLE = "a new module trained to predict what the old one predicts"
SOURCE = "Trans-LoRA, arXiv 2405.17258; arXiv 2403.18804"


@dataclass(frozen=True)
class DistillOptions:
    """How to distill. With ``spec`` None, the new module has the technique and settings of the old one.

    ``teach`` is what of answers is taught, ``keep`` the share of the texts that are learnt from.
    """

    steps: int = 120
    seed: int = 0
    learning_rate: float | None = None
    spec: TechniqueSpec | None = None
    teach: Teaching = "sequences"
    keep: float = 1.0


def distill(
    module: Module,
    home: BoundTask,
    away: BoundTask,
    texts: Sequence[Example],
    how: DistillOptions | None = None,
    progress: Progress | None = None,
) -> Module:
    """Train a module on the host of ``away`` to predict for each text what ``module`` predicts on the host of ``home``.

    Raises:
        BadRequest: there are no texts, the two tasks have different labels, or what is to be taught or kept cannot be.
        TrainingFailed: the training diverged.

    """
    how, progress = how or DistillOptions(), progress or Silent()
    if not texts:
        raise BadRequest("distill: needs unlabelled texts, none given; name some with --texts FILE")
    if home.task.spec.labels != away.task.spec.labels:
        raise BadRequest(
            f"distill: expected one set of labels, got {home.task.spec.labels} at home, {away.task.spec.labels} away"
        )
    fields = away.task.spec.fields
    if any(len(texts_of(each)) != len(fields) for each in texts):
        raise BadRequest(
            f"distill: {away.task.spec.name} is of {'pairs' if len(fields) > 1 else 'single texts'} "
            f"({', '.join(fields)}), expected unlabelled texts of that kind; leave out --texts to take the task's own"
        )
    check_lesson(home, away, how.teach, how.keep)
    spec = how.spec or module.spec
    rate = how.learning_rate or technique_named(spec.kind).learning_rates[away.host.kind]
    start = away.fresh(spec, how.seed)  # before the module is asked: the host may refuse the technique
    asked = AskedModule(module, home, away, texts, taught_targets(module, home, texts, progress))
    lesson = lesson_of(asked, how.teach, how.keep, progress)
    learnt = lesson.encoded
    entry = Entry(start, learnt.rows, learnt.targets, how.seed, rate)
    advance = progress.stage(f"distilling into {spec.kind} on {away.host.name}", how.steps)
    [kept] = train_entries(away.host, away.readout, spec, [entry], [how.steps], away.settings, advance)
    made = away.module(spec, kept[how.steps], how.seed, rate)
    record = PortRecord(
        method=NAME,
        origin=module.host,
        receiver=away.host.fingerprint,
        settings={"steps": how.steps, "texts": len(texts), "seed": how.seed, **lesson.settings},
        slots=dict.fromkeys(made.matrices, "trained on what the module said"),
    )
    return replace(made, task=_record(module, made), ports=(*module.ports, record))


def _record(module: Module, made: Module) -> TaskRecord | None:
    """The old module's record of its task, with the scale that the new module's own head is read by."""
    if module.task is None or made.task is None:
        return module.task or made.task
    return module.task.model_copy(update={"scale": made.task.scale})


class Distilled(NamedTuple):
    """The module that was distilled, and what to tell users of how its origin read the texts."""

    module: Module
    remarks: tuple[str, ...]


def distill_for(request: PortRequest, module: Module, away: BoundTask) -> Distilled:
    """Distill as a port request asks for: on its texts, or on the training texts of the task where none are given.

    Raises:
        ModuleRefused: the origin is not the host that the module was trained on.

    """
    settings = train_settings(request.max_tokens)
    home = bind_task(
        request.origin or module.host.name, away.task, own_readout(module, request.readout), settings
    )  # fmt: skip
    if not module.host.same_host(home.host.fingerprint):
        raise ModuleRefused(
            f"distill: expected a module of {home.host.name}, got one of {module.host.name} with another fingerprint "
            f"({module.host.told_from(home.host.fingerprint)}); "
            "name its host with --from"
        )
    check_all_read(module, "distill")
    texts: Sequence[Example]
    if request.prompts is not None:
        texts = made_prompts(module, home, request.made_prompts, request.seed, request.progress or Silent())
    else:
        texts = read_texts(str(request.texts)) if request.texts is not None else away.task.train.examples[:MOST_TEXTS]
    how = DistillOptions(
        request.steps, request.seed, spec=spec_into(request), teach=request.teach, keep=request.keep
    )  # fmt: skip
    made = distill(module, home, away, texts, how, request.progress)
    if request.prompts is not None:
        *before, port = made.ports
        port = port.model_copy(update={"settings": {**port.settings, "prompts": request.prompts}})
        made = replace(made, ports=(*before, port))
    return Distilled(made, tuple(filter(None, (home.cut(), _left_out(made.ports[-1], settings.max_tokens)))))


def _left_out(port: PortRecord, max_tokens: int) -> str:
    """What of the module's answers was not learnt, in one line; empty where all was."""
    count = port.settings.get("left_out")
    if not count:
        return ""
    return (
        f"{count} of {port.settings['texts']} answers of the module were left out: they are empty, or do not end in "
        f"--max-tokens {max_tokens}"
    )


def spec_into(request: PortRequest) -> TechniqueSpec | None:
    """The technique that is to be trained; None: the module's own.

    Raises:
        UnknownName, BadRequest: there is no such technique, or no such setting of it.

    """
    return None if request.into is None else make_spec(request.into, dict(request.set or {}))


def taught_targets(module: Module, home: BoundTask, texts: Sequence[Example], progress: Progress) -> npt.NDArray[Any]:
    """Return what the module teaches for each of N texts, (N, ...): probabilities of classes, numbers, or answers."""
    rows, teacher = home.readout.encode(texts), [home.startable(module)]
    advance = progress.stage(f"asking the module on {home.host.name}", len(rows))
    at_once = (
        ASKED_AT_ONCE if any(getattr(row, "most", 0) for row in rows) else len(rows)
    )  # texts take long to generate
    parts = []
    for begin in range(0, len(rows), at_once):
        asked = rows[begin : begin + at_once]
        parts += predict_entries(home.host, home.readout, module.spec, teacher, asked)
        advance(len(asked))
    return home.readout.taught(np.concatenate(parts))
