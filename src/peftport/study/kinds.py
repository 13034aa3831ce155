"""The kinds of a study's tasks, and whether one metric can judge them: asked before anything is run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from peftport.core.errors import BadRequest, PeftportError
from peftport.metrics import metric_named, metrics_of
from peftport.metrics.texts import TextMetric
from peftport.study.grid import StudySpec
from peftport.study.jobs import BareJob, TrainJob
from peftport.study.plan import Plan
from peftport.tasks.load import kind_of

Kinds = Mapping[str, str | None]


def kinds_of(plan: Plan, *, here: bool = True) -> dict[str, str | None]:
    """The kind of each task that a plan trains for, by name; None where only the workers will know it.

    A kind that the study does not declare is that of the task's columns and targets. Files and folders are read for it
    if they are ``here``; nothing is fetched.
    """
    tasks = dict.fromkeys(job.task for job in plan.jobs.values() if isinstance(job, TrainJob | BareJob))
    return {task: plan.study.declared_kind(task) or (_read(plan.study, task) if here else None) for task in tasks}


def check_kinds(study: StudySpec, kinds: Kinds) -> None:
    """Refuse tasks that no one metric judges, and modules that would be ported to a task of another kind.

    Raises:
        BadRequest: as said.

    """
    for pair in study.tasks:
        origin, receiver = kinds.get(pair.origin), kinds.get(pair.receiver)
        if origin and receiver and origin != receiver:
            raise BadRequest(
                f"study {study.name}: tasks: expected an origin and a receiver task of one kind, got {pair.origin} "
                f"({origin}) and {pair.receiver} ({receiver}); a module serves one kind of task, so pair others"
            )
    known = {task: kind for task, kind in kinds.items() if kind is not None}
    kinds_known, asked = set(known.values()), study.testing.metric
    check_generated(study, asked)
    if asked is None and len(kinds_known) > 1:
        raise BadRequest(
            f"study {study.name}: tasks: expected tasks that are judged by one metric, got {kinds_text(known)}; "
            f"{_remedy(kinds_known)}"
        )
    for task, kind in known.items():
        if asked is not None and kind not in metric_named(asked).kinds:
            raise BadRequest(
                f"study {study.name}: testing.metric: expected a metric of the kind of task that {task} is "
                f"({kind}), got {asked}; {_remedy(kinds_known)}"
            )


def check_generated(study: StudySpec, metric: str | None) -> None:
    """Refuse a metric of generated answers where a study generates none.

    Raises:
        BadRequest: as said.

    """
    if metric is not None and study.testing.generate == 0 and isinstance(metric_named(metric), TextMetric):
        raise BadRequest(
            f"study {study.name}: testing.generate: expected at least 1, as {metric} is of generated answers, got 0; "
            "generate some, or name another metric, such as negative_log_likelihood"
        )


def kinds_text(kinds: Kinds) -> str:
    """Tasks with their kinds, as people read them."""
    return ", ".join(f"{task} ({kind or 'of a kind that is known once it is read'})" for task, kind in kinds.items())


def _remedy(kinds: Iterable[str]) -> str:
    of_each = [set(metrics_of(kind)) for kind in kinds]
    names = [name for name in metrics_of(*kinds) if all(name in metrics for metrics in of_each)]
    return f"give testing.metric as one of {', '.join(names)}" if names else "make a study of each kind"


def _read(study: StudySpec, task: str) -> str | None:
    data = study.data.get(task)
    source = task if data is None else data.source
    if not os.path.exists(os.path.expanduser(source)):
        return None
    options = {} if data is None else data.model_dump(include={"text", "label", "labels", "words", "descriptions"})
    try:
        return kind_of(source, **options, separator=None if data is None else data.separator)
    except PeftportError:  # the job that reads it says what is wrong with it
        return None
