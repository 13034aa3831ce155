"""The study file: what a study varies and what it holds fixed. It is TOML, read into frozen pydantic models.

    runs      = techniques x pairs x tasks x budgets x seeds x (porters for ported + samplers for sampled)
    baseline  = techniques x receivers x receiver tasks x budgets x seeds, trained from scratch without an origin

With one porter and one sampler the runs are techniques x pairs x arms x tasks x budgets x seeds. This
factorisation is our own: how the paper's 1,440 runs factorise is not public.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from peftport.core.arms import ARMS
from peftport.core.errors import BadRequest, UnknownName
from peftport.hosts.loading import Loading
from peftport.metrics import metric_named
from peftport.metrics.scorer import is_scorer
from peftport.modules.module import Closed
from peftport.porting import porter_named, sampler_named
from peftport.tasks.kinds import KINDS
from peftport.tasks.sources import TASKS
from peftport.techniques import AnySpec, make_spec
from peftport.training.loop import GENERATED, TrainSettings

Arm = Literal["ported", "sampled", "scratch", "ceiling", "bare"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
SLUG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise UnknownName.of("kind of task", kind, KINDS)
    return kind


class StudyTechnique(Closed):
    """A technique and its settings, under the name that tables show."""

    name: Name
    spec: AnySpec


class TaskPair(Closed):
    """The task that the module is trained for, and the one that it is trained and tested for on the receiver."""

    origin: Name
    receiver: Name


class Data(Closed):
    """A task of the user: a file, a folder or a hub id, and how to read it. Two columns of ``text`` are pairs.

    ``kind``, ``separator`` and ``template`` are part of a job's id only where they are said: jobs were done before they
    were there.
    """

    source: Name
    text: str | tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    labels: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    descriptions: tuple[str, ...] | None = None
    prompt: str | None = None
    kind: Annotated[str, AfterValidator(_known_kind)] | None = None
    separator: str | None = None
    template: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What the ids of jobs are made of."""
        later = {name for name in ("kind", "separator", "template") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=later)


class Update(Closed):
    """A host that the study makes by continuing the pretraining of ``base`` on the training texts of a task."""

    base: Name
    text: Name
    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-5
    batch_size: PositiveInt = 16
    max_tokens: Annotated[int, Field(ge=8)] = 64
    head_warm_up_steps: NonNegativeInt = 100
    seed: NonNegativeInt = 0


class Training(TrainSettings):
    """How every arm is trained, and for how long origins are. Without a learning rate, the technique's own is used."""

    origin_steps: PositiveInt = 120
    learning_rates: dict[str, PositiveFloat] = {}

    @property
    def settings(self) -> TrainSettings:
        """The settings that all trainings of the study share."""
        return TrainSettings(**self.model_dump(exclude={"origin_steps", "learning_rates"}))


def _known_metric(name: str | None) -> str | None:
    if name is not None and is_scorer(name):
        raise ValueError(
            f"{name} is a scorer of your own, which evaluate and compare take; a study is judged by a metric of "
            "peftport, as its tables must be computable again wherever they are read"
        )
    return None if name is None else metric_named(name).name


class Testing(Closed):
    """How modules are tested: on the first ``items`` test items, by one readout (None: by the kind of the host).

    ``metric``: the metric that gains and verdicts are of (None: the usual one of the tasks' kind). Computed from stored
    predictions, it is no part of a job's id. ``generate``: for how many of the items of a completion task an answer is
    generated; a part of the ids of such jobs where it is not the default.
    """

    items: PositiveInt = 200
    generate: NonNegativeInt = GENERATED
    readout: str | None = None
    metric: Annotated[str | None, AfterValidator(_known_metric)] = None


class Execution(Closed):
    """How jobs are executed: ``stack`` entries train at once; a job that fails is tried again ``retries`` times."""

    stack: PositiveInt = 10
    retries: NonNegativeInt = 1


class StudySpec(Closed):
    """A study as its file declares it."""

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=SLUG)]
    about: str = ""
    techniques: Annotated[tuple[StudyTechnique, ...], Field(min_length=1)]
    pairs: Annotated[tuple[tuple[Name, Name], ...], Field(min_length=1)]
    tasks: Annotated[tuple[TaskPair, ...], Field(min_length=1)]
    arms: Annotated[tuple[Literal["ported", "sampled", "scratch"], ...], Field(min_length=1)] = ARMS
    porters: Annotated[tuple[Name, ...], Field(min_length=1)] = ("copy",)
    samplers: Annotated[tuple[Name, ...], Field(min_length=1)] = ("gaussian",)
    budgets: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    hosts: dict[Annotated[str, Field(pattern=SLUG)], Update] = {}
    data: dict[Name, Data] = {}
    training: Training = Training()
    testing: Testing = Testing()
    loading: Loading = Loading()
    execution: Execution = Execution()

    def declared_kind(self, task: str) -> str | None:
        """The kind of a task as far as it is known without reading the task: it is built in, or its kind is said."""
        data = self.data.get(task)
        if data is not None and data.kind is not None:
            return data.kind
        source = task if data is None else data.source
        return TASKS[source].spec.kind if source in TASKS else None

    @field_validator("techniques", mode="before")
    @classmethod
    def _named_techniques(cls, value: Any) -> Any:
        return [_technique(each) for each in value] if isinstance(value, list | tuple) else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _same_task_twice(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"origin": each, "receiver": each} if isinstance(each, str) else each for each in value]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _each_once("techniques", [t.name for t in self.techniques])
        for field in ("pairs", "tasks", "arms", "porters", "samplers", "budgets", "seeds"):
            _each_once(field, getattr(self, field))
        for porter in self.porters:
            porter_named(porter)
        for sampler in self.samplers:
            sampler_named(sampler)
        unknown = sorted(self.training.learning_rates.keys() - {t.name for t in self.techniques})
        if unknown:
            raise ValueError(f"training.learning_rates.{unknown[0]}: expected the name of one of the techniques")
        chained = sorted(name for name, update in self.hosts.items() if update.base in self.hosts)
        if chained:
            raise ValueError(f"hosts.{chained[0]}.base: expected a host that exists, not one that the study makes")
        return self


@dataclass(frozen=True, slots=True)
class Run:
    """One run of training and testing. ``origin`` and ``origin_task`` are None for arms without an origin."""

    technique: str | None
    origin: str | None
    receiver: str
    origin_task: str | None
    receiver_task: str
    arm: Arm
    method: str | None
    budget: int
    seed: int | None

    @property
    def name(self) -> str:
        """A line that identifies the run within its study."""
        origin = f"{self.origin} {self.origin_task} > " if self.origin else ""
        parts = (self.technique, f"{origin}{self.receiver} {self.receiver_task}", self.arm, self.method)
        words = " | ".join(part for part in parts if part)
        return f"{words} | {self.budget}" + ("" if self.seed is None else f" | seed {self.seed}")


def runs(study: StudySpec) -> Iterator[Run]:
    """Yield the ported and sampled runs of a study in a fixed order, one at a time since there may be millions.

    A method that cannot carry a technique has no runs with it.
    """
    for technique in study.techniques:
        factors = (study.pairs, study.tasks, _methods(study, technique), study.seeds, study.budgets)
        for (origin, receiver), task, (arm, method), seed, budget in itertools.product(*factors):
            yield Run(technique.name, origin, receiver, task.origin, task.receiver, arm, method, budget, seed)


def baseline(study: StudySpec) -> Iterator[Run]:
    """Yield the baseline: scratch at every budget, the ceiling at the origins' number of steps, the bare hosts."""
    places = sorted({(receiver, task.receiver) for _, receiver in study.pairs for task in study.tasks})
    for receiver, task in places:
        yield Run(None, None, receiver, None, task, "bare", None, 0, None)
    steps = study.training.origin_steps
    for technique, (receiver, task), seed in itertools.product(study.techniques, places, study.seeds):
        if "scratch" in study.arms:
            for budget in study.budgets:
                yield Run(technique.name, None, receiver, None, task, "scratch", None, budget, seed)
        yield Run(technique.name, None, receiver, None, task, "ceiling", None, steps, seed)


def run_count(study: StudySpec) -> int:
    """Return the number of runs that `runs` yields."""
    carried = sum(len(_methods(study, technique)) for technique in study.techniques)
    return carried * len(study.pairs) * len(study.tasks) * len(study.budgets) * len(study.seeds)


def _methods(study: StudySpec, technique: StudyTechnique) -> list[tuple[Arm, str]]:
    """List the ported and sampled arms of one technique, each with a method that can carry it."""
    kind, methods = technique.spec.kind, list[tuple[Arm, str]]()
    if "ported" in study.arms:
        methods += [("ported", name) for name in study.porters if kind in porter_named(name).techniques]
    if "sampled" in study.arms:
        methods += [("sampled", name) for name in study.samplers]
    return methods


def read_study(path: Path, changes: Mapping[str, str] | None = None) -> StudySpec:
    """Read a study file. ``changes`` replace values by dotted key (``testing.items`` -> ``50``), written as in TOML.

    Raises:
        BadRequest: the file is missing or not TOML, a key is unknown, or a value is invalid; the message names the key.

    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path}: expected a study file, cannot read it ({error}); check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{path}: expected TOML, got a mistake: {error}; correct that line") from error
    for key, text in (changes or {}).items():
        _replace(values, key, text)
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        # Report an unknown key before a missing one: the unknown key is probably the missing one, misspelt.
        first, *others = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        more = len(others)
        where = _dotted(first["loc"])
        value = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
        rest = f" (and {more} more mistake{'s' if more > 1 else ''})" if more else ""
        raise BadRequest(f"{path}: {where}{first['msg']}{value}{rest}; correct that key") from error


def _technique(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value, "spec": make_spec(value)}
    if isinstance(value, dict) and "kind" in value:
        settings = {key: each for key, each in value.items() if key not in ("name", "kind")}
        return {"name": value.get("name", value["kind"]), "spec": make_spec(str(value["kind"]), settings)}
    return value


def _each_once(field: str, values: Any) -> None:
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{field}: expected each once, got {value!r} twice")
        seen.append(value)


def _replace(values: dict[str, Any], key: str, text: str) -> None:
    *tables, last = key.split(".")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is taken as a string
    place = values
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise BadRequest(f"--set {key}: expected a table at {table}, the study has a value there; check the key")
    place[last] = value


def _dotted(place: tuple[int | str, ...]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return f"{text}: " if text else ""
