"""How a user's own data are read as a task: the options of `tasks show`, which every command that takes a task has.

Nothing here imports a model library, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

from peftport.core.request import Place, Request, names, option
from peftport.workflows.options import HOST, MAX_TOKENS, READOUT, TASK_ARGUMENT


@dataclass(frozen=True, eq=False)
class TaskRequest(Request):
    """Split a task and say what is in each part, what was dropped and why.

    Two columns of texts are pairs: --text premise,hypothesis. Targets are classes, numbers or sets of labels: --kind.

    Example: peftport tasks show reviews.csv --text review --label stars
    """

    task: Place = field(metadata=TASK_ARGUMENT)
    _: KW_ONLY
    text: str | Sequence[str] | None = field(
        default=None,
        metadata=option(
            "The column of texts in your own data; two columns, separated by a comma, for pairs of texts. Default: the "
            "column that has a usual name, such as text or review."
        ),
    )
    label: str | None = field(
        default=None,
        metadata=option(
            "The column of labels, numbers or answers in your own data. Default: the column that has a usual name, "
            "such as label or class."
        ),
    )
    kind: str | None = field(
        default=None,
        metadata=option(
            "What the targets are: classification (one label for each text), multi_label (any number of labels), "
            "regression (a number) or completion (a text that answers). Default: guessed from the columns and targets.",
        ),
    )
    separator: str | None = field(
        default=None,
        metadata=option(
            "What stands between the labels of a text in a multi_label file, such as ';'. Lists need none. Default: "
            "that of , ; and | which occurs most.",
        ),
    )
    group: str | None = field(
        default=None,
        metadata=option("A column of groups, such as authors; all items of a group go into the same split."),
    )
    labels: Sequence[str] | None = field(
        default=None, metadata=option("All labels that may occur, in order, such as negative,positive.", read=names)
    )
    words: Sequence[str] | None = field(
        default=None,
        metadata=option(
            "The words that the host reads or predicts for the labels, in the same order, such as bad,good.", read=names
        ),
    )
    description: Sequence[str] | None = field(
        default=None,
        metadata=option(
            "A description of a label, for the readout prototype; give it once per label, in the same order.",
            repeated=True,
            read=tuple,
        ),
    )
    prompt: str | None = field(
        default=None,
        metadata=option(
            "The prompt that hosts read, which contains {text}, or both columns of pairs, such as {premise} and "
            "{hypothesis}. A masked language model reads one that contains {mask}, too, and hosts that generate read "
            "what stands before {mask}. A note says so where a host does not read the prompt."
        ),
    )
    template: str | None = field(
        default=None,
        metadata=option(
            "How prompts and conversations are put to hosts: auto (the host's own chat template where it has one), "
            "none (the plain prompt), or a file with a chat template.",
            metavar="auto|none|FILE",
        ),
    )


@dataclass(frozen=True, eq=False)
class TaskShowRequest(TaskRequest):
    """Split a task and say what is in each part, what was dropped and why; with --host, what that host reads of it.

    Two columns of texts are pairs: --text premise,hypothesis.

    Example: peftport tasks show reviews.csv --text review --label stars
    """

    host: Place | None = field(
        default=None,
        metadata=option(
            f"Show the exact text that this host reads of a few training examples; its weights are not read. {HOST}",
            metavar="HOST",
        ),
    )
    readout: str | None = field(default=None, metadata=READOUT)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
