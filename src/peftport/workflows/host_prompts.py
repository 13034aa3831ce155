"""Prompts that the origin makes itself with the module, for users who have neither texts nor a task.

    x_t ~ p_module(x | begin, x_<t)        begin: what stands before a user's words, of which nothing is said yet

Where the host has a chat template, that is the template up to the user's words (as Magpie has it, arXiv 2406.08464);
else the task's prompt up to there, and where nothing stands there, the token that begins a text. A prompt ends where
the host ends it, or where its answer would begin. Sampling is at temperature 1 and by the seed; equal prompts count
once.
Trans-LoRA, arXiv 2405.17258, lets a host make texts after a few examples of the task; here there are none.

Letters: N prompts, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from peftport.core.errors import BadRequest, TaskRefused
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress
from peftport.modules.module import Module, in_host_dtype, stack
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.objectives.generation import generated
from peftport.objectives.templates import PROBE, Template
from peftport.tasks.columns import Columns, Wording
from peftport.tasks.kinds.completion import Completion
from peftport.tasks.task import Dropped, Split, Task
from peftport.techniques.attach import attached, prefix_length
from peftport.training.bound_task import BoundTask

if TYPE_CHECKING:
    from peftport.objectives.base import Row

MOST_TOKENS = 64  # of a prompt
AT_ONCE, TRIES = 16, 4  # prompts sampled together; times as many samples as prompts are wanted


def made_prompts(module: Module, home: BoundTask, count: int, seed: int, progress: Progress) -> tuple[str, ...]:
    """Sample up to ``count`` different prompts from the module on its origin.

    Raises:
        BadRequest: the origin is no decoder, or the task is none of answers.
        TaskRefused: no sample has words.

    """
    host, readout = home.host, home.readout
    if host.kind != "decoder" or not isinstance(readout, AnswerTokens):
        raise BadRequest(
            f"--prompts host:{count}: expected a decoder that answers prompts, got {host.name}, of kind {host.kind}, "
            f"for a task of kind {home.task.spec.kind}; name texts with --texts FILE, or a task"
        )
    begin, end = beginning(readout.template), prompt_end(readout.template)
    most = min(MOST_TOKENS, readout.max_tokens)
    rng, found = rng_for(seed, "prompts"), dict[str, None]()
    advance = progress.stage(f"sampling prompts on {host.name}", count)
    matrices = in_host_dtype(host, stack([home.startable(module)], host.wide_dtype))
    with attached(host, module.spec, matrices):
        for _ in range(0, TRIES * count, AT_ONCE):
            draws, shift = rng.random((AT_ONCE, most)), prefix_length(module.spec, host)
            before = len(found)
            for row in generated(host, [begin] * AT_ONCE, readout.ends, most, shift, draws):
                said = host.tokenizer.decode(row, skip_special_tokens=True)
                text = (said.partition(end)[0] if end else said).strip()
                if text and len(found) < count:
                    found[text] = None
            advance(len(found) - before)
            if len(found) == count:
                break
    if not found:
        raise TaskRefused(
            f"--prompts host:{count}: expected prompts, got none: {host.name} says no word of its own; "
            "name texts with --texts FILE"
        )
    return tuple(found)


def beginning(template: Template) -> Row:
    """The tokens before a user's words.

    Raises:
        BadRequest: there are none, and the tokenizer has no token that begins a text.

    """
    host = template.host
    before, tokenizer = template.prompt(PROBE).partition(PROBE)[0], host.tokenizer
    ids = tuple(tokenizer(before, add_special_tokens=template.chat is None, verbose=False)["input_ids"])
    if template.chat is None and ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    known = (tokenizer.bos_token_id, getattr(host.config, "bos_token_id", None), tokenizer.eos_token_id)
    start = next((token for token in known if token is not None), None)
    if not ids and start is None:
        raise BadRequest(
            f"--prompts: expected a token that begins a text, the tokenizer of {host.name} has none; name texts with "
            "--texts FILE"
        )
    return ids or (int(start),)  # type: ignore[arg-type]


def prompt_end(template: Template) -> str:
    """What stands between a user's words and the answer, without blanks around it; empty where there is nothing."""
    return template.prompt(PROBE).rpartition(PROBE)[2].strip() if template.chat is None else ""


def answers_task(module: Module) -> Task:
    """A task without items, of prompts and answers in the plain wording, for a module whose task is not given."""
    name = "answers" if module.task is None else module.task.name
    spec = Completion.read(name, Columns(name, {"text": ["-"]}, ["-"]), Wording()).spec
    nothing = Split((), (), np.empty(0, dtype=object))
    return Task(spec, nothing, nothing, nothing, Dropped())
