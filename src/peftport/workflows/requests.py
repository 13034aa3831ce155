"""The inputs of every command: one request class each, which the Python interface and the command line share.

The order of the fields is the order on the help page. Nothing here imports a model library, so that ``--help`` stays
quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftport.core.arms import ARMS
from peftport.core.request import REQUIRED, Option, Place, Request, names, numbers, one_of, option, pairs
from peftport.metrics import metrics_of

if TYPE_CHECKING:
    from peftport.modules.folders import Format
    from peftport.tasks.task import Task
    from peftport.workflows.demo import DemoSettings


KINDS_MEASURED = {
    "classification": "classes", "multi_label": "sets of labels", "regression": "numbers", "completion": "answers",
}  # fmt: skip


def _technique_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts as settings; a value with commas, or one for ``sites``, is a list."""
    found = pairs("rank=4")(texts)
    if "kind" in found:
        got = f"kind={found['kind']}"
        raise ValueError(f"expected a setting of the technique, got {got!r}; name the technique by --technique")
    return {key: value.split(",") if "," in value or key == "sites" else value for key, value in found.items()}


def _loading(texts: Sequence[str]) -> dict[str, Any]:
    return {key: int(value) if value.isdigit() else value for key, value in pairs("device=auto")(texts).items()}


def metric_option(default: str = "", kinds: Sequence[str] = tuple(KINDS_MEASURED)) -> dict[str, Option]:
    """Return the option ``--metric``; ``default`` is what comes before accuracy where none is given."""
    known = "; ".join(f"of {KINDS_MEASURED[kind]} {one_of(list(metrics_of(kind)))}" for kind in kinds)
    own = ", or FILE.py:function, a function of your own that scores an answer" if "completion" in kinds else ""
    others = "; micro_f1, rmse, and exact_match, or rouge_l for long answers" if len(kinds) > 1 else ""
    return option(
        f"What counts: {known}{own}. Default: {default}accuracy, or balanced_accuracy where over 80 % of the test "
        f"items are of one class{others}."
    )


HOST = "A local folder, an offline host's name (peftport hosts list), or a hub id org/name[@revision]."
TASK = (
    "A built-in task (peftport tasks list), a .csv, .tsv, .json, .jsonl or .parquet file (also .gz or .zst), a folder "
    "of such files named train, test and so on, or a hub data set id."
)
HOST_ARGUMENT = option(HOST, argument=True, metavar="HOST")
TASK_ARGUMENT = option(TASK, argument=True, metavar="TASK")
MODULE_ARGUMENT = option(
    "A module's folder, as peftport, PEFT or the library adapters writes it.",
    argument=True, metavar="MODULE", path=True,
)  # fmt: skip
TO = option(f"The receiver, the host to port to. {HOST}", metavar="HOST")
FROM = option(
    "The origin, the host that the module was trained on. Needed if the folder does not record it, else checked.",
    metavar="HOST",
)
TRUST_ORIGIN = option("Like --from, but accepted even if the module records another fingerprint.", metavar="HOST")
TEXTS = option(
    "Unlabelled texts, for methods that need them: a .txt file with one text per line, or a task.", metavar="FILE|TASK"
)
FORMAT = option(
    "The format to write: native, peft (LoRA only) or adapters (every technique but LoRA).",
    choices=("native", "peft", "adapters"),
)
READOUT = option(
    "How predictions are read out of the host: label_tokens, prototype, linear, cosine (numbers for pairs of texts) or "
    "head (a classifier's own trained head). The default depends on the host's kind and the task's; it is head if "
    "the labels of the host's own head have the names of the task's."
)
MAX_TOKENS = option("Texts are cut to this many tokens; how many were cut is said.", at_least=1)
BATCH_SIZE = option("Texts per training step.", at_least=1)
LEARNING_RATE = option("Learning rate. The default depends on the technique (peftport techniques).", between=(0, 10))
TEST_ITEMS = option("Test on the first N test items only.", at_least=1)
GENERATE = option(
    "Generate the answers of the first N test items only, where answers are texts; their likelihood is taken for all.",
    at_least=0,
)
METRIC = metric_option()
LOAD = option(
    "How the host is loaded: device=auto|cpu|cuda, dtype=float32|bfloat16, spread=true (over all devices), "
    "bits=8|4, checkpointing=true (less memory, more time).",
    metavar="KEY=VALUE", repeated=True, read=_loading,
)  # fmt: skip


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
            "what stands before {mask}. Where it does not act, that is said."
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
class DemoRequest(Request):
    """Four techniques, three arms, two real hosts, real reviews: the whole story in a few minutes.

    Example: peftport demo --out demo
    """

    settings: DemoSettings | None = field(
        default=None,
        metadata=option("The size of the demonstration; the default takes about four minutes.", only_python=True),
    )
    _: KW_ONLY
    out: Place | None = field(
        default=None,
        metadata=option(
            "The folder for report.html, table.md and results.json; existing files are replaced.", path=True,
            default=Path("demo"),
        ),
    )  # fmt: skip
    metric: str | None = field(default=None, metadata=METRIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and Path(self.out).exists() and not Path(self.out).is_dir():
            self.refuse("out", "expected a folder, got a file; choose another", self.out)


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
    out: Place | None = field(default=None, metadata=option("The new module's folder.", path=True, default=REQUIRED))
    set: Mapping[str, Any] | None = field(
        default=None,
        metadata=option(
            "Change a setting of the technique (peftport techniques), such as rank=4.",
            metavar="KEY=VALUE",
            repeated=True,
            read=_technique_settings,
        ),
    )
    steps: int = field(default=120, metadata=option("Training steps.", at_least=1))
    seed: int = field(
        default=0, metadata=option("Seed of the initialisation and of the order of the data.", at_least=0)
    )
    learning_rate: float | None = field(default=None, metadata=LEARNING_RATE)
    batch_size: int = field(default=16, metadata=BATCH_SIZE)
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
    max_tokens: int = field(default=128, metadata=MAX_TOKENS)
    load: Mapping[str, Any] | None = field(default=None, metadata=LOAD)
    readout: str | None = field(default=None, metadata=READOUT)
    test_items: int | None = field(default=None, metadata=TEST_ITEMS)
    generate: int = field(default=100, metadata=GENERATE)
    metric: str | None = field(default=None, metadata=METRIC)


@dataclass(frozen=True, eq=False)
class CheckRequest(Request):
    """What fits, what does not, how alike the hosts are, what to expect of a port, and which method to use.

    Weights are read from disk. With --texts both hosts are loaded and the activations of their layers compared.

    Example: peftport check modules/lora --to sre
    """

    module: Place = field(metadata=MODULE_ARGUMENT)
    to: Place = field(metadata=TO)
    _: KW_ONLY
    from_: Place | None = field(default=None, metadata=FROM)
    texts: Place | None = field(default=None, metadata=TEXTS)


@dataclass(frozen=True, eq=False)
class PortRequest(Request):
    """Port a module to another host, file to file; the format stays what it was unless --format says otherwise.

    Example: peftport port modules/lora --to sre --out modules/lora-on-sre
    """

    module: Place = field(metadata=MODULE_ARGUMENT)
    to: Place = field(metadata=TO)
    _: KW_ONLY
    out: Place | None = field(default=None, metadata=option("The ported module's folder.", path=True, default=REQUIRED))
    from_: Place | None = field(default=None, metadata=FROM)
    trust_origin: Place | None = field(default=None, metadata=TRUST_ORIGIN)
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
    steps: int = field(
        default=120, metadata=option("Training steps of the method distill; no other method trains.", at_least=1)
    )
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

    @property
    def origin(self) -> str | None:
        """The origin that the user names, whether it is to be checked or trusted."""
        named = self.trust_origin or self.from_
        return None if named is None else str(named)

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
    sampler: str = field(
        default="gaussian",
        metadata=option("How sampled parameters are drawn: gaussian, permutation, spectrum or norm_matched."),
    )  # fmt: skip
    texts: Place | None = field(default=None, metadata=TEXTS)
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
            "Also write the result as an HTML page to this file, which is replaced if it exists.", path=True
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and Path(self.out).is_dir():
            instead = Path(self.out) / "report.html"
            self.refuse("out", f"expected a file name, got a folder; give {instead}", self.out)

    @property
    def command(self) -> str:
        """The command line that repeats this comparison; its page shows it."""
        task = self.task if isinstance(self.task, str | Path) else self.task.spec.name
        budgets = ",".join(map(str, self.budgets))
        return (
            f"peftport compare {self.module} --to {self.to} --task {task} --budgets {budgets} --seeds {self.seeds} "
            f"--method {self.method}{f' --metric {self.metric}' if self.metric else ''}"
        )


@dataclass(frozen=True, eq=False)
class HostUpdateRequest(Request):
    """Continue a host's pretraining on unlabelled text: a base model update at a measured distance.

    Example: peftport hosts update all-MiniLM-L6-v2 --text reviews.txt --steps 200 --out updates/minilm
    """

    host: Place = field(metadata=HOST_ARGUMENT)
    text: Place = field(metadata=option("A UTF-8 file of unlabelled texts, one text per line.", path=True))
    _: KW_ONLY
    steps: int = field(metadata=option("Pretraining steps.", at_least=1))
    out: Place = field(metadata=option("The new folder. Each checkpoint in it, step-N, is a host.", path=True))
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
