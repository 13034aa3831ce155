"""The inputs of `upgrade`. Nothing here imports a model library, so that ``--help`` stays quick."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from peftport.core.request import Place, Request, numbers, option
from peftport.workflows.options import (
    BATCH_SIZE,
    GENERATE,
    HOST,
    LOAD,
    MAX_TOKENS,
    METRIC,
    READOUT,
    TASK,
    TEST_ITEMS,
    TEXTS,
)

if TYPE_CHECKING:
    from peftport.tasks.task import Task

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, eq=False)
class UpgradeRequest(Request):
    """Port many modules from an old host to a new one, test them, and say which can be used.

    Each module is checked, ported by the method that the check chooses, and, with --task, tested on
    both hosts. One that is broken does not stop the others. The same command continues where an
    interrupted one stopped. Exit codes: 0 all can be used, 3 not enough evidence for some, 4 some
    must be trained again, 1 some cannot be read or ported.

    Example: peftport upgrade all-MiniLM-L6-v2 sre modules/* --task rotten_tomatoes --out upgraded
    """

    old: Place = field(
        metadata=option(f"The host that the modules were trained on. {HOST}", argument=True, metavar="OLD")
    )
    new: Place = field(metadata=option(f"The host to port them to. {HOST}", argument=True, metavar="NEW"))
    modules: Sequence[Place] = field(
        metadata=option(
            "The modules' folders, as peftport, PEFT or the library adapters writes them.",
            argument=True, metavar="MODULE", path=True, repeated=True, read=tuple,
        )
    )  # fmt: skip
    _: KW_ONLY
    task: Place | Task | None = field(
        default=None,
        metadata=option(f"Test every module, on both hosts, on this task. {TASK}", metavar="TASK"),
    )
    out: Place | None = field(
        default=None,
        metadata=option(
            "The folder for the ported modules, report.html, table.md and upgrade.json. Needed unless --only-check.",
            path=True,
        ),
    )
    only_check: bool = field(
        default=False, metadata=option("Check every module and port none; the exit codes are the same.")
    )
    push: str | None = field(
        default=None,
        metadata=option(
            "Push every ported module that can be used to the hub, as the private repository ORG/NAME-MODULE "
            "(ORG/NAME where there is one module).",
            metavar="ORG/NAME",
        ),
    )
    texts: Place | None = field(default=None, metadata=TEXTS)
    budgets: Sequence[int] = field(
        default=(0,),
        metadata=option(
            "Training steps on the new host before each test; with 0 alone nothing is trained, and the ported module "
            "is compared with the bare host; with more, it is compared with training from scratch, too.",
            read=numbers,
        ),
    )
    seeds: int = field(default=1, metadata=option("How many seeds of training to run: 0, 1, ...", at_least=1))
    batch_size: int = field(default=16, metadata=BATCH_SIZE)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD)
    readout: str | None = field(default=None, metadata=READOUT)
    test_items: int | None = field(default=500, metadata=TEST_ITEMS)
    generate: int = field(default=100, metadata=GENERATE)
    metric: str | None = field(default=None, metadata=METRIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.modules, str) or not self.modules:
            self.refuse("modules", f"expected a list of module folders, got {self.modules!r}")
        if self.out is None and not self.only_check:
            self.refuse("out", "expected a folder for the ported modules, got none; or give --only-check")
        if self.push is not None and not REPOSITORY.fullmatch(self.push):
            self.refuse("push", "expected ORG/NAME", self.push)
        if self.push is not None and self.only_check:
            self.refuse("push", "expected no --only-check, which ports nothing; leave one of them out")
        if not self.budgets or min(self.budgets) < 0 or len(set(self.budgets)) < len(self.budgets):
            self.refuse("budgets", f"expected different numbers of steps from 0 up, got {self.budgets}")
