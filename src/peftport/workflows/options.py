"""Options that several commands share: each help text stands here once, with how its value is read.

Nothing here imports a model library, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftport.core.request import Option, names, option, pairs

DISTILL = "distill"  # the method that trains
VALIDATION = "validation"  # a factor that validation items choose


def technique_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts as settings; a value with commas, or one for ``sites``, is a list."""
    settings = pairs("rank=4")(texts)
    if "kind" in settings:
        setting = f"kind={settings['kind']}"
        raise ValueError(
            f"expected a setting of the technique, got {setting!r}; name the technique by --technique (port: --into)"
        )
    return {key: value.split(",") if "," in value or key == "sites" else value for key, value in settings.items()}


def loading_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts that say how a host is loaded; whole numbers are numbers."""
    return {key: int(value) if value.isdigit() else value for key, value in pairs("device=auto")(texts).items()}


def offset_factor(text: str) -> float | str:
    """Parse the factor of ``logit_offset``."""
    return text if text == VALIDATION else float(text)


def load_option(default: str = "") -> dict[str, Option]:
    """How hosts are loaded."""
    return option(
        "How the host is loaded: device=auto|cpu|cuda, dtype=float32|mixed|bfloat16|auto (mixed: products of frozen "
        "matrices in bfloat16; auto: mixed where that is faster here), spread=true (over all devices), bits=8|4, "
        f"checkpointing=true (less memory, more time).{default}",
        metavar="KEY=VALUE", repeated=True, read=loading_settings,
    )  # fmt: skip


def metric_option(default: str = "") -> dict[str, Option]:
    """Return the option ``--metric``; ``default`` is what comes before accuracy where none is given."""
    return option(
        "The metric that counts: of classes accuracy, balanced_accuracy, auroc, macro_f1, log_loss and others, of sets "
        "of labels micro_f1 and others, of numbers rmse, pearson and others, of answers exact_match, rouge_l, "
        "negative_log_likelihood and others (docs/metrics.md has all), or FILE.py:function, a function of your own "
        f"that scores an answer. Default: {default}accuracy, or balanced_accuracy where over 80 % of the test items "
        "are of one class; micro_f1; rmse; exact_match, or rouge_l where answers are long."
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
LEAVE_OUT = option(
    "Parts of the module that are left out, with commas between them: head, or modules that a PEFT file has, such as "
    "lm_head.",
    metavar="NAMES", read=names,
)  # fmt: skip
TEXTS = option(
    "Unlabelled texts, for methods that need them: a .txt file with one text per line, or a task.", metavar="FILE|TASK"
)
ANCHORS = option(
    "Two modules that were trained for one other task with this module's settings: one of the origin and one of the "
    "receiver. For anchor_ridge and anchor_mean; give it at least twice.",
    metavar="FOLDER=FOLDER", repeated=True, read=pairs("anchors/a-on-old=anchors/a-on-new"),
)  # fmt: skip
FORMAT = option(
    "The format to write: native, peft (LoRA only) or adapters (every technique but LoRA).",
    choices=("native", "peft", "adapters"),
)
READOUT = option(
    "How predictions are read out of the host: label_tokens, prototype, linear, cosine (numbers for pairs of texts), "
    "answer_tokens (answers), head (a classifier's own trained head) or classifier (a head of the module's, as PEFT "
    "saves it). The default depends on the host's kind and the task's; it is head if the labels of the host's own head "
    "have the names of the task's, and classifier if the module has such a head."
)
MAX_TOKENS = option("Texts are cut to this many tokens; a note says how many were cut.", at_least=1)
DISTILL_STEPS = option("Training steps of the method distill; no other method trains.", at_least=1)
TEACH = option(
    "What the method distill teaches of answers: sequences (the texts that the module generates; for any pair of "
    "hosts), tokens (at every place of them the module's distribution over the next token; for hosts with one "
    "vocabulary), or auto (tokens where the vocabularies agree, else sequences).",
    choices=("auto", "tokens", "sequences"),
)
KEEP = option(
    "Of the texts of the method distill, learn from this share only: those on which the module differs most from its "
    "bare origin, by the log-probability of what it says, such as 0.5. 1 keeps all.",
    metavar="SHARE",
)
INTO = option(
    "The technique that the method distill trains, where it is not the module's own: lora, adapter, compacter, prefix "
    "or another (peftport techniques)."
)
INTO_SET = option(
    "Change a setting of the technique that --into names, such as rank=4.",
    metavar="KEY=VALUE", repeated=True, read=technique_settings,
)  # fmt: skip
PROMPTS = option(
    "With host:N, the method distill makes N prompts itself, sampled on the origin with the module, so that it needs "
    "neither --texts nor --task. For modules that answer, on decoders.",
    metavar="host:N",
)
BATCH_SIZE = option("Texts per training step.", at_least=1)
LEARNING_RATE = option("Learning rate. The default depends on the technique (peftport techniques).", between=(0, 10))
NORM_PENALTY = option(
    "Keep the module's update small: this number times its squared norm, summed over slots, is added to the loss.",
    between=(0, 1e6),
)
DROP_FFN = option(
    "For a module that is to be ported to updates of its host: in each step, leave out the FFN of each layer with this "
    "probability, such as 0.1 (Trans-PEFT). Tests run on the whole host.",
    between=(0, 1),
)
MASK_FFN = option("Like --drop-ffn, but leave out each inner unit of the FFNs with this probability.", between=(0, 1))
REFERENCES = option(
    "Reference arms, which are no ports: few_shot (the bare receiver with as many labels as training has read), "
    "logit_offset (the receiver's scores plus what the module changes on the origin, with both hosts in memory).",
    metavar="NAMES", read=names,
)  # fmt: skip
OFFSET = option(
    "The factor of logit_offset, or validation for the one that does best on validation items.",
    metavar="NUMBER|validation", read=offset_factor,
)  # fmt: skip
TEST_ITEMS = option("Test on the first N test items only.", at_least=1)
GENERATE = option(
    "Generate the answers of the first N test items only, where answers are texts; their likelihood is taken for all.",
    at_least=0,
)
METRIC = metric_option()
LOAD = load_option()
LOAD_AUTO = load_option(" By default dtype=auto.")
