"""Peer (b): `peft` and a lean hand-written PyTorch loop. No logging, nothing saved, batches by length, fused AdamW.

python lean.py WORK.json RESULT.json
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import torch
from classify import Classifier, collate, on_device, trainable
from with_peft import fresh_classifier
from work import Done, Run, Texts, Work, read_work, warm_and_timed, write_done

TEST_BATCH, POOL = 64, 16


def batches(work: Work, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Shuffled texts, sorted by length within pools, batch after batch for ever."""
    rng, rows = random.Random(seed), work.train.rows
    while True:
        order = rng.sample(range(len(rows)), len(rows))
        cut = work.batch_size * POOL
        pools = [sorted(order[i : i + cut], key=lambda i: len(rows[i])) for i in range(0, len(order), cut)]
        picks = [p[i : i + work.batch_size] for p in pools for i in range(0, len(p), work.batch_size)]
        rng.shuffle(picks)
        for pick in picks:
            if len(pick) == work.batch_size:
                batch = collate([rows[i] for i in pick], [work.train.labels[i] for i in pick], work.pad_id)
                yield on_device(batch, work)


def narrow(work: Work) -> torch.autocast:
    """Products in bfloat16 where the work asks for them."""
    return torch.autocast(work.device, torch.bfloat16, enabled=work.numbers == "bfloat16")


@torch.inference_mode()
def accuracy(model: Classifier, test: Texts, work: Work) -> float:
    """Share of test items that are right."""
    order = sorted(range(len(test.rows)), key=lambda i: len(test.rows[i]))
    right = 0
    for begin in range(0, len(order), TEST_BATCH):
        pick = order[begin : begin + TEST_BATCH]
        batch = on_device(collate([test.rows[i] for i in pick], [test.labels[i] for i in pick], work.pad_id), work)
        logits = model(batch["input_ids"], batch["attention_mask"])["logits"]
        right += int((logits.argmax(-1) == batch["labels"]).sum())
    return right / len(order)


def run(work: Work, one: Run, test: Texts) -> Done:
    """Train and test once."""
    begun = time.perf_counter()
    torch.manual_seed(one.seed)
    model = fresh_classifier(work).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=work.learning_rate, weight_decay=0.0, fused=True)
    loaded = time.perf_counter()
    found: dict[int, float] = {}
    tested, feed = 0.0, batches(work, one.seed)
    for step in range(max(one.points) + 1):
        if step in one.points:
            before = time.perf_counter()
            with narrow(work):
                found[step] = accuracy(model, test, work)
            tested += time.perf_counter() - before
        if step < max(one.points):
            with narrow(work):
                loss = model(**next(feed))["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, work.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
    ended = time.perf_counter()
    return Done(one.seed, loaded - begun, ended - loaded - tested, tested, trainable(model), found)


if __name__ == "__main__":
    work = read_work()
    write_done([done for one, test, timed in warm_and_timed(work) for done in [run(work, one, test)] if timed])
