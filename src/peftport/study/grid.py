"""The study file: what a study varies and what it holds fixed. It is TOML, read into frozen pydantic models.

    runs      = techniques x pairs x tasks x budgets x seeds x (porters for ported + samplers for sampled)
    controls  = the same with the module of an origin that was trained on shuffled labels, and with further samplers
    baseline  = techniques x receivers x receiver tasks x budgets x seeds, trained from scratch without an origin

With one porter and one sampler the runs are techniques x pairs x arms x tasks x budgets x seeds. This
factorisation is our own: how the paper's 1,440 runs factorise is not public.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, ValidationError, field_validator, model_validator

from peftport.core.arms import ARMS
from peftport.core.errors import BadRequest
from peftport.hosts.loading import Loading
from peftport.modules.module import Closed
from peftport.porting import porter_named, sampler_named
from peftport.study.sections import (
    Execution,
    GateSettings,
    HostTraining,
    Name,
    StudyData,
    StudyTechnique,
    TaskPair,
    Testing,
    Training,
    Update,
)
from peftport.tasks.sources import TASKS
from peftport.techniques import make_spec

Arm = Literal["ported", "sampled", "shuffled", "scratch", "ceiling", "home", "bare"]
SLUG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


class StudySpec(Closed):
    """A study as its file declares it."""

    version: Literal[1] = 1
    name: Annotated[str, Field(pattern=SLUG)]
    about: str = ""
    techniques: Annotated[tuple[StudyTechnique, ...], Field(min_length=1)]
    pairs: Annotated[tuple[tuple[Name, Name], ...], Field(min_length=1)]
    tasks: Annotated[tuple[TaskPair, ...], Field(min_length=1)]
    arms: Annotated[tuple[Literal["ported", "sampled", "scratch", "shuffled"], ...], Field(min_length=1)] = ARMS
    porters: Annotated[tuple[Name, ...], Field(min_length=1)] = ("copy",)
    samplers: Annotated[tuple[Name, ...], Field(min_length=1)] = ("gaussian",)
    control_samplers: dict[Name, tuple[Name, ...]] = {}
    budgets: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    hosts: dict[Annotated[str, Field(pattern=SLUG)], Update] = {}
    data: StudyData = StudyData()
    training: Training = Training()
    testing: Testing = Testing()
    gates: GateSettings | None = None
    loading: Loading = Loading()
    execution: Execution = Execution()

    def declared_kind(self, task: str) -> str | None:
        """The kind of a task as far as it is known without reading the task: it is built in, or its kind is said."""
        data = self.data.get(task)
        if data is not None and data.kind is not None:
            return data.kind
        source = task if data is None else data.source
        return TASKS[source].spec.kind if source in TASKS else None

    @property
    def disjoint(self) -> bool:
        """Whether modules learn from other items on a receiver than on their origins."""
        return self.data.receiver == "disjoint" and (run_count(self) + control_count(self)) > 0

    @property
    def tells_homes(self) -> bool:
        """Whether what origins' modules score at home are runs of their own, and not only ceilings of receivers."""
        return self.disjoint or self.gates is not None

    def origin_steps(self, host: str) -> int:
        """For how many steps the modules of an origin are trained, and the ceiling on a receiver."""
        said = [each.origin_steps for each in self._apart(host) if each.origin_steps is not None]
        return said[0] if said else self.training.origin_steps

    def learning_rate(self, technique: str, host: str) -> float | None:
        """The learning rate of a technique on a host; None: the technique's own."""
        for each in self._apart(host):
            if technique in each.learning_rates:
                return each.learning_rates[technique]
        return self.training.learning_rates.get(technique)

    def _apart(self, host: str) -> list[HostTraining]:
        """What is said of the training on this very host, then of that on the host that it is made from."""
        names = (host, self.hosts[host].base) if host in self.hosts else (host,)
        return [self.training.hosts[name] for name in names if name in self.training.hosts]

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
            if porter_named(porter).needs == "anchors":
                raise ValueError(
                    f"porters: expected methods that need no anchors, got {porter}; a study has no modules of other "
                    "tasks on both hosts: use it with port or compare (--anchors)"
                )
        for technique, samplers in {"": self.samplers, **self.control_samplers}.items():
            _each_once("samplers", (*self.samplers, *samplers) if technique else samplers)
            for sampler in samplers:
                sampler_named(sampler)
        self._check_names()
        chained = sorted(name for name, update in self.hosts.items() if update.base in self.hosts)
        if chained:
            raise ValueError(f"hosts.{chained[0]}.base: expected a host that exists, not one that the study makes")
        return self

    def _check_names(self) -> None:
        """Refuse what is said of techniques and hosts that the study does not have."""
        rates, apart = {"training": self.training.learning_rates}, self.training.hosts
        rates |= {f"training.hosts.{host}": each.learning_rates for host, each in apart.items()}
        named = {f"{table}.learning_rates": set(of_table) for table, of_table in rates.items()}
        for table, techniques in {**named, "control_samplers": set(self.control_samplers)}.items():
            unknown = sorted(techniques - {t.name for t in self.techniques})
            if unknown:
                raise ValueError(f"{table}.{unknown[0]}: expected the name of one of the techniques")
        known = {host for pair in self.pairs for host in pair} | {update.base for update in self.hosts.values()}
        unknown = sorted(apart.keys() - known)
        if unknown:
            raise ValueError(f"training.hosts.{unknown[0]}: expected a host of the study")


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
    return _carried(study, _methods)


def controls(study: StudySpec) -> Iterator[Run]:
    """Yield the control runs: ported from an origin trained on shuffled labels, and sampled by further samplers."""
    return _carried(study, _control_methods)


def baseline(study: StudySpec) -> Iterator[Run]:
    """Yield the baseline: the bare hosts, and trained without a module to begin with, scratch at every budget.

    Scratch trained for as many steps as an origin is the ceiling; an origin's own module, tested there, is ``home``.
    """
    places = sorted({(receiver, task.receiver) for _, receiver in study.pairs for task in study.tasks})
    homes = sorted({(origin, task.origin) for origin, _ in study.pairs for task in study.tasks})
    homes = homes if study.tells_homes else []
    for host, task in sorted({*places, *homes}):
        yield Run(None, None, host, None, task, "bare", None, 0, None)
    for technique, (receiver, task), seed in itertools.product(study.techniques, places, study.seeds):
        if "scratch" in study.arms:
            for budget in study.budgets:
                yield Run(technique.name, None, receiver, None, task, "scratch", None, budget, seed)
        steps = study.origin_steps(receiver)
        yield Run(technique.name, None, receiver, None, task, "ceiling", None, steps, seed)
    for technique, (host, task), seed in itertools.product(study.techniques, homes, study.seeds):
        yield Run(technique.name, None, host, None, task, "home", None, study.origin_steps(host), seed)


def run_count(study: StudySpec) -> int:
    """Return the number of runs that `runs` yields."""
    return _count(study, _methods)


def control_count(study: StudySpec) -> int:
    """Return the number of runs that `controls` yields."""
    return _count(study, _control_methods)


Methods = Callable[[StudySpec, StudyTechnique], list[tuple[Arm, str]]]


def _carried(study: StudySpec, methods: Methods) -> Iterator[Run]:
    for technique in study.techniques:
        factors = (study.pairs, study.tasks, methods(study, technique), study.seeds, study.budgets)
        for (origin, receiver), task, (arm, method), seed, budget in itertools.product(*factors):
            yield Run(technique.name, origin, receiver, task.origin, task.receiver, arm, method, budget, seed)


def _count(study: StudySpec, methods: Methods) -> int:
    carried = sum(len(methods(study, technique)) for technique in study.techniques)
    return carried * len(study.pairs) * len(study.tasks) * len(study.budgets) * len(study.seeds)


def _methods(study: StudySpec, technique: StudyTechnique) -> list[tuple[Arm, str]]:
    """List the ported and sampled arms of one technique, each with a method that can carry it."""
    methods = _ported_by(study, technique, "ported")
    return methods + ([("sampled", name) for name in study.samplers] if "sampled" in study.arms else [])


def _control_methods(study: StudySpec, technique: StudyTechnique) -> list[tuple[Arm, str]]:
    """List the control arms of one technique, each with its method."""
    methods = _ported_by(study, technique, "shuffled")
    return methods + [("sampled", name) for name in study.control_samplers.get(technique.name, ())]


def _ported_by(
    study: StudySpec, technique: StudyTechnique, arm: Literal["ported", "shuffled"]
) -> list[tuple[Arm, str]]:
    if arm not in study.arms:
        return []
    return [(arm, name) for name in study.porters if technique.spec.kind in porter_named(name).techniques]


def read_study(path: Path, changes: Mapping[str, str] | None = None) -> StudySpec:
    """Read a study file. ``changes`` replace values by dotted key (``testing.items`` -> ``50``), written as in TOML.

    Raises:
        BadRequest: the file is missing or not TOML, a key is unknown, or a value is invalid; the message names the key.

    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadRequest(f"{path}: expected a study file, found nothing; check the path") from error
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
