"""What only tasks of prompts and answers have in a comparison: the bare host with examples in its prompt, and answers.

Examples in the prompt (few-shot) are what a user would try instead of a module: no training, a longer prompt. The
answers of a handful of test items are kept to be read side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from peftport.core.errors import BadRequest, ModuleRefused
from peftport.core.hashing import rng_for
from peftport.core.progress import Progress
from peftport.modules.module import Module
from peftport.objectives.answer_tokens import AnswerTokens
from peftport.tasks.chats import prompt_of
from peftport.tasks.kinds.completion import Answers
from peftport.tasks.spec import Predictions, plain_text
from peftport.training.bound_task import BoundTask, bind_task

SHOTS, HANDFUL = 4, 5
REFERENCE = "reference"


@dataclass(frozen=True)
class ShownAnswer:
    """What one side answers to a test item.

    Attributes:
        item: the place of the item among the test items, from 1.
        prompt: the prompt, as it stands in the task.
        who: the reference, the origin at home, the bare host, or an arm after so many steps.
        answer: the text.

    """

    item: int
    prompt: str
    who: str
    answer: str


def check_shots(bound_task: BoundTask, asked: int | None) -> int:
    """Return the number of examples in the prompt: as asked for, or SHOTS; 0 where answers are no texts.

    Raises:
        BadRequest: some are asked for, and the task's answers are no texts; or more than it has training items.

    """
    if not isinstance(bound_task.readout, AnswerTokens):
        if asked:
            kind = bound_task.task.spec.kind
            raise BadRequest(f"--shots {asked}: expected a task of kind completion, got {kind}; leave the option out")
        return 0
    items = len(bound_task.task.train)
    if asked is not None and asked > items:
        raise BadRequest(f"--shots {asked}: expected at most {items}, the training items of the task; give fewer")
    return min(SHOTS, items) if asked is None else asked


def few_shot(bound_task: BoundTask, shots: int, seeds: Sequence[int], progress: Progress) -> dict[int, Predictions]:
    """Test the bare host with examples in its prompt, by seed: each seed draws its own from the training items."""
    train, tests = bound_task.task.train, {}
    for seed in seeds if shots else ():
        picks = rng_for(seed, "shots").choice(len(train), size=shots, replace=False)
        drawn = tuple((prompt_of(train.examples[i]), train.targets[i][0]) for i in picks)
        readout = AnswerTokens(bound_task.host, bound_task.task.spec, bound_task.settings.max_tokens, drawn)
        title = f"testing {bound_task.host.name} with {shots} examples in its prompt"
        [tests[seed]] = replace(bound_task, readout=readout).test(None, [], progress, title)
    return tests


def at_home(module: Module, origin: str, bound_task: BoundTask, progress: Progress) -> Predictions:
    """What the module answers on its origin to a handful of the test items.

    Raises:
        UnknownName, HostRefused: the origin cannot be had.
        ModuleRefused: the module was trained on another host than this one.

    """
    home = bind_task(
        origin, bound_task.task, bound_task.readout.name, bound_task.settings, HANDFUL, generate=HANDFUL
    )  # fmt: skip
    if not module.host.same_host(home.host.fingerprint):
        raise ModuleRefused(f"{origin}: {module.host.told_from(home.host.fingerprint)}; name its host with --from")
    [answers] = home.test(module.spec, [home.startable(module)], progress, f"asking the module on {home.host.name}")
    return answers


def side_by_side(bound_task: BoundTask, tests: Mapping[str, Predictions]) -> tuple[ShownAnswer, ...]:
    """The answers of each of the tests, by who answers, to a handful of items; nothing where answers are no texts."""
    answered = {who: test for who, test in tests.items() if isinstance(test, Answers)}
    if not answered:
        return ()
    items, shown = bound_task.tested.head(HANDFUL), []
    for place, (example, references) in enumerate(zip(items.examples, items.targets, strict=True)):
        said = {who: test.texts[place] for who, test in answered.items() if place < len(test)}
        texts = {REFERENCE: references[0], **{who: text for who, text in said.items() if text is not None}}
        prompt = plain_text(example)
        shown += [ShownAnswer(place + 1, prompt, who, text) for who, text in texts.items() if len(texts) > 1]
    return tuple(shown)
