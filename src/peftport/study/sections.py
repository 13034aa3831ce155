"""The tables of a study file: techniques, tasks, data, hosts, and how modules are trained, tested and held to gates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from peftport.core.errors import UnknownName
from peftport.metrics import metric_named
from peftport.metrics.scorer import is_scorer
from peftport.modules.module import Closed
from peftport.tasks.kinds import KINDS
from peftport.techniques import AnySpec
from peftport.training.loop import GENERATED, TrainSettings

Name = Annotated[str, Field(min_length=1, max_length=200)]
TestedSplit = Literal["test", "validation"]
Part = Literal["all", "origin", "receiver"]  # of a task's training items


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


class StudyData(Closed):
    """The user's own tasks, each a table by its name; and which training items the modules on a receiver learn from.

    Attributes:
        receiver: ``disjoint``: other items than the origins' modules learnt from, so that no ported module trains on an
            item twice; ``shared``: the same items. None: the file does not say (`opened.open_study` settles it); ids of
            jobs are then those of ``shared``, as jobs were done before there was a choice.
        seed: of the division into the items for origins and those for receivers.

    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Data] = Field(init=False)

    receiver: Literal["disjoint", "shared"] | None = None
    seed: NonNegativeInt = 0

    def get(self, task: str) -> Data | None:
        """The table of a task; None where it has none."""
        return self.__pydantic_extra__.get(task)


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


class HostTraining(Closed):
    """What differs on one host, and on the hosts that the study makes from it: all arms there are trained like this."""

    origin_steps: PositiveInt | None = None
    learning_rates: dict[str, PositiveFloat] = {}


class Training(TrainSettings):
    """How every arm is trained, and for how long origins are. Without a learning rate, the technique's own is used.

    ``hosts`` has what differs on some hosts.
    """

    origin_steps: PositiveInt = 120
    learning_rates: dict[str, PositiveFloat] = {}
    hosts: dict[Name, HostTraining] = {}

    @property
    def settings(self) -> TrainSettings:
        """The settings that all trainings of the study share."""
        return TrainSettings(**self.model_dump(include=set(TrainSettings.model_fields)))


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
    generated; a part of the ids of such jobs where it is not the default. ``split``: a study that chooses something,
    such as learning rates, is tested on validation items.
    """

    items: PositiveInt = 200
    split: TestedSplit = "test"
    generate: NonNegativeInt = GENERATED
    readout: str | None = None
    metric: Annotated[str | None, AfterValidator(_known_metric)] = None


class GateSettings(Closed):
    """What must hold, on validation items, before the grid is run.

    Attributes:
        lift: what the lower bound of every origin's gain over its bare host must exceed, in the declared metric.
        closeness: how far a bare receiver may be from its bare origin, in accuracy and in AUROC (of tasks that are not
            of classes, in the declared metric).

    """

    lift: NonNegativeFloat = 0.03
    closeness: NonNegativeFloat = 0.03


class Execution(Closed):
    """How jobs are executed: ``stack`` entries train at once; a job that fails is tried again ``retries`` times."""

    stack: PositiveInt = 10
    retries: NonNegativeInt = 1
