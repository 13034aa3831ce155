"""transformers.Trainer as a careful user sets it: dynamic padding, texts of like length together, no needless logging.

Both peers (a) and (c) use it; their versions of transformers name one argument differently.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from classify import Classifier, Items, collate, trainable
from transformers import Trainer, TrainerCallback, TrainingArguments
from work import Done, Run, Texts, Work, warm_and_timed

TEST_BATCH = 64
GROUPED: dict[str, Any] = (
    {"group_by_length": True}
    if "group_by_length" in inspect.signature(TrainingArguments.__init__).parameters
    else {"train_sampling_strategy": "group_by_length"}
)


class TestAt(TrainerCallback):
    """Asks for a test after the steps given."""

    def __init__(self, points: list[int]) -> None:
        self.points = points

    def on_step_end(self, args: Any, state: Any, control: Any, **other: Any) -> Any:
        """Called by the Trainer."""
        control.should_evaluate = state.global_step in self.points
        return control


def arguments(work: Work, run: Run, folder: str) -> TrainingArguments:
    """Settings equal to ours: constant rate, no decay, clipping at the same norm."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=max(run.points),
        per_device_train_batch_size=work.batch_size,
        per_device_eval_batch_size=TEST_BATCH,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=work.max_grad_norm,
        optim="adamw_torch_fused",
        seed=run.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=work.device == "cpu",
        bf16=work.numbers == "bfloat16",
        **GROUPED,
    )


def train_and_test(
    work: Work, one: Run, test: Texts, fresh: Callable[[Work], Classifier], trainer_class: type[Trainer]
) -> Done:
    """One run through a Trainer."""
    begun = time.perf_counter()
    torch.manual_seed(one.seed)
    model = fresh(work)
    tests: dict[int, float] = {}
    tested: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            model=model,
            args=arguments(work, one, folder),
            data_collator=partial(_collate, work.pad_id),
            train_dataset=Items(work.train.rows, work.train.labels, by_length=False),
            eval_dataset=Items(test.rows, test.labels, by_length=True),
            compute_metrics=lambda p: {"accuracy": float(np.mean(p.predictions.argmax(-1) == p.label_ids))},
            callbacks=[TestAt(one.points)],
        )
        trainer.label_names = ["labels"]
        trainer.remove_callback(transformers.PrinterCallback)
        plain = trainer.evaluate

        def evaluate(*given: Any, **named: Any) -> dict[str, float]:
            before = time.perf_counter()
            metrics = plain(*given, **named)
            tested.append(time.perf_counter() - before)
            tests[trainer.state.global_step] = metrics["eval_accuracy"]
            return metrics

        trainer.evaluate = evaluate
        loaded = time.perf_counter()
        if 0 in one.points:
            trainer.evaluate()
        if max(one.points):
            trainer.train()
    total = time.perf_counter() - loaded
    assert sorted(tests) == sorted(one.points), f"tested after {sorted(tests)}, asked for {one.points}"
    return Done(one.seed, loaded - begun, total - sum(tested), sum(tested), trainable(model), tests)


def all_runs(work: Work, fresh: Callable[[Work], Classifier], trainer_class: type[Trainer]) -> list[Done]:
    """Every run of the work, after one that warms up."""
    transformers.utils.logging.set_verbosity_error()
    done = [(train_and_test(work, one, test, fresh, trainer_class), timed) for one, test, timed in warm_and_timed(work)]
    return [one for one, timed in done if timed]


def _collate(pad_id: int, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return collate([item["input_ids"] for item in items], [item["labels"] for item in items], pad_id)
