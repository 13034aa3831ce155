"""Our side of the same work: the workbench, one entry at a time, its checkpoints tested together.

python ours.py WORK.json RESULT.json
"""

from __future__ import annotations

import time

from work import Done, Run, Texts, Work, read_work, warm_and_timed, write_done

from peftport.hosts.loading import Loading
from peftport.tasks import load_task
from peftport.techniques import make_spec
from peftport.training.bound_task import BoundTask, Start, bind_task
from peftport.training.loop import TrainSettings


def open_bound_task(work: Work) -> BoundTask:
    """Load host and task. Texts are tokenised here, before the clock starts; the peers get them tokenised."""
    settings = TrainSettings(
        batch_size=work.batch_size, max_tokens=work.max_tokens, max_grad_norm=work.max_grad_norm, weight_decay=0.0
    )
    loading = Loading(device=work.device, dtype="mixed" if work.numbers == "bfloat16" else "float32")
    bound_task = bind_task(work.host, load_task(work.task), settings=settings, test_items=work.items, loading=loading)
    assert [list(row) for row in bound_task.test_split.rows] == work.test.rows, "the peers were given other texts"
    assert [list(row) for row in bound_task.train_split.rows] == work.train.rows, "the peers were given other texts"
    return bound_task


def run(bound_task: BoundTask, work: Work, one: Run, test: Texts, load_seconds: float) -> Done:
    """Train once, test every checkpoint."""
    spec = make_spec(work.technique, work.settings)
    begun = time.perf_counter()
    start = Start(bound_task.fresh(spec, one.seed), one.seed)
    loaded = time.perf_counter()
    [kept] = bound_task.train(spec, [start], one.points, work.learning_rate)
    trained = time.perf_counter()
    scores = bound_task.test(spec, [kept[point].matrices for point in one.points])
    ended = time.perf_counter()
    accuracy = {point: s.accuracy for point, s in zip(one.points, scores, strict=True)}
    parameters = sum(tensor.numel() for own in start.parameters.values() for tensor in own.values())
    return Done(one.seed, load_seconds + loaded - begun, trained - loaded, ended - trained, parameters, accuracy)


if __name__ == "__main__":
    work = read_work()
    begun = time.perf_counter()
    bound_task = open_bound_task(work)
    load_seconds = time.perf_counter() - begun
    done = [(run(bound_task, work, one, test, load_seconds), timed) for one, test, timed in warm_and_timed(work)]
    write_done([one for one, timed in done if timed])
