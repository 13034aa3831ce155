"""A task bound to a host and an objective, tokenised: the object that training, testing and comparing use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from peftport.core.errors import SlotMismatch, TaskRefused
from peftport.core.hashing import rng_for
from peftport.core.libraries import torch
from peftport.core.progress import Progress, Silent
from peftport.hosts.fingerprint import Fingerprint
from peftport.hosts.head import TrainedHead
from peftport.hosts.host import Host
from peftport.hosts.layouts import check_reads_texts, layout_for
from peftport.hosts.load import load_host
from peftport.hosts.loading import Loading
from peftport.hosts.sources import find_host, read_config
from peftport.modules.module import HEAD, Module, TaskRecord, TrainingRecord
from peftport.objectives import bind_objective, objective_for
from peftport.objectives.base import Encoded, Objective
from peftport.objectives.head import NAME as HEAD_NAME
from peftport.objectives.head import unused
from peftport.tasks.spec import Predictions, TaskSpec
from peftport.tasks.task import Split, Task
from peftport.techniques import technique_named
from peftport.techniques.attach import at_once
from peftport.techniques.base import Parameters, TechniqueSpec
from peftport.training.evaluation import predict_entries
from peftport.training.loop import GENERATED, Checkpoint, Entry, TrainSettings, same_structure, train_entries
from peftport.training.memory import SHARE, entry_memory, free_bytes, largest_stack


@dataclass(frozen=True, eq=False)
class Start:
    """Where one entry of a training starts: its parameters and the seed of its data order.

    ``shuffled``: it learns the training items with their targets in random order, as a control.
    """

    parameters: Parameters
    seed: int
    shuffled: bool = False


@dataclass(frozen=True, eq=False)
class BoundTask:
    """A host, a task and the objective between them. Users know the objective as the readout.

    ``trained_on``: the training items that modules learn from, where these are not all that the task has.
    """

    host: Host
    task: Task
    readout: Objective
    settings: TrainSettings
    test_items: int | None = None
    generate: int = GENERATED
    trained_on: Split | None = None

    @property
    def learnt(self) -> Split:
        """The training items that modules learn from."""
        return self.task.train if self.trained_on is None else self.trained_on

    @cached_property
    def train_split(self) -> Encoded:
        """The training items, tokenised once."""
        return self.readout.encode_split(self.learnt)

    @cached_property
    def test_split(self) -> Encoded:
        """The test items, tokenised once."""
        return self.readout.encode_split(self.tested, self.generate)

    @cached_property
    def valid_split(self) -> Encoded:
        """The validation items, tokenised once."""
        return self.readout.encode_split(self._validated, self.generate)

    @property
    def tested(self) -> Split:
        """The test items, which are the first ``test_items`` of the test split."""
        return self._first(self.task.test)

    @property
    def _validated(self) -> Split:
        return self._first(self.task.valid)

    def _first(self, split: Split) -> Split:
        return split if self.test_items is None else split.head(self.test_items)

    @property
    def record(self) -> TaskRecord:
        """The record of the task that a module keeps."""
        spec = self.task.spec
        return TaskRecord(
            name=spec.name,
            labels=spec.labels,
            digest=self.task.digest,
            readout=self.readout.name,
            kind=spec.kind,
            fields=spec.fields,
            **spec.recorded(),
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to tell users, a line each, once the work is done.

        How the task was read where that was guessed, what a host's own head has to do with it, where a prompt does not
        act, and what was cut off texts.
        """
        notes = (self.readout.about(), self._unused_head(), self.readout.unprompted(), self.cut())
        return (*self.task.remarks, *filter(None, notes))

    def _unused_head(self) -> str:
        head = TrainedHead.of(self.host.config.to_dict(), self.host.name)
        if head is None or self.readout.name == HEAD_NAME:
            return ""
        return f"{self.host.name}: {unused(head, self.task.spec)}"

    def cut(self) -> str:
        """What was cut off the texts that were read so far, in one line; empty where nothing was."""
        cut = self.readout.cuts.total()
        if not cut.cut:
            return ""
        return f"{self.host.name}: {cut.sentence(self.readout.max_tokens, most=self.readout.most_tokens())}"

    @property
    def remarks_on_bare(self) -> tuple[str, ...]:
        """As `remarks`, and what the host alone predicts, where that is not expected."""
        return (*self.remarks, *filter(None, (self.readout.alone(),)))

    def fresh(self, spec: TechniqueSpec, seed: int) -> Parameters:
        """Initialise trainable parameters, including those of the objective (a fresh head) where it has any."""
        technique = technique_named(spec.kind)
        start = technique.start(spec, technique.slots(spec, self.host.slots), seed)
        head = self.readout.fresh_head(rng_for(seed, "head"))
        return {**start, HEAD: head} if head else start

    def startable(self, module: Module) -> Parameters:
        """Return the matrices of a module as a start, with a fresh head if this objective needs one and it has none.

        Raises:
            SlotMismatch: the head of the module is for a different number of labels.
            TaskRefused: the module was trained for another kind of task, or for single texts where these are pairs.

        """
        check_task(module, self.task.spec)
        shapes = self.readout.head_shapes()
        body = {slot: matrices for slot, matrices in module.matrices.items() if slot != HEAD}
        if not shapes:
            return body
        head = self.head_of(module) or self.readout.fresh_head(rng_for(0, "head"))
        present = {name: tuple(t.shape) for name, t in head.items()}
        if present != shapes:
            raise SlotMismatch(
                f"{HEAD}: this module's head is {present}, {self.task.spec.name} on {self.host.name} needs {shapes}; "
                "train another"
            )
        return {**body, HEAD: head}

    def head_of(self, module: Module) -> dict[str, torch.Tensor] | None:
        """The head of a module as this objective reads it; None where it has none."""
        if module.head is None:
            return None
        return self.readout.own_head(module.head, module.task.scale if module.task else None)

    def train(
        self,
        spec: TechniqueSpec,
        starts: Sequence[Start],
        budgets: Sequence[int],
        learning_rate: float,
        progress: Progress | None = None,
        title: str = "training",
        budget_bytes: int | None = None,
    ) -> list[dict[int, Checkpoint]]:
        """Train every start; those with equal structure are stacked. Returns the checkpoints of each by budget.

        ``budget_bytes`` is the memory for one stack: entries that do not fit train in further stacks. None puts all
        of them in one stack.
        """
        advance = (progress or Silent()).stage(title, len(starts) * max(budgets))
        checkpoints: dict[int, dict[int, Checkpoint]] = {}
        for group in _alike(starts):
            entries = [self._entry(starts[i], learning_rate) for i in group]
            size = self._stack_size(spec, entries, budget_bytes)
            for begin in range(0, len(group), size):
                some = entries[begin : begin + size]
                kept = train_entries(self.host, self.readout, spec, some, budgets, self.settings, advance)
                checkpoints.update(zip(group[begin : begin + size], kept, strict=True))
        return [checkpoints[i] for i in range(len(starts))]

    def _entry(self, start: Start, learning_rate: float) -> Entry:
        encoded = self.train_split
        if start.shuffled:
            encoded = self.readout.encode_split(self.learnt.shuffled(rng_for(start.seed, "shuffled labels")))
        return Entry(start.parameters, encoded.rows, encoded.targets, start.seed, learning_rate)

    def _stack_size(self, spec: TechniqueSpec, entries: Sequence[Entry], budget_bytes: int | None) -> int:
        """Return how many of these entries train at once. A single entry is not measured: it cannot be split."""
        most = at_once(self.host, spec) or len(entries)
        if most == 1 or budget_bytes is None:
            return most
        need = entry_memory(self.host, self.readout, spec, entries[0], self.settings)
        return min(len(entries), largest_stack(need, budget_bytes))

    def spare_bytes(self) -> int:
        """Return the bytes of memory that a stack may use: a share of what is free."""
        return int(SHARE * free_bytes(self.host.device))

    def test(
        self,
        spec: TechniqueSpec | None,
        modules: Sequence[Parameters],
        progress: Progress | None = None,
        title: str = "testing",
    ) -> list[Predictions]:
        """Test modules of one spec, or the bare host, on the test items; works for every kind of task."""
        return self._predicted(spec, modules, self.tested, self.test_split, progress, title)

    def validate(
        self,
        spec: TechniqueSpec | None,
        modules: Sequence[Parameters],
        progress: Progress | None = None,
        title: str = "validating",
    ) -> list[Predictions]:
        """Predict as many validation items as may be tested; else as `test`."""
        return self._predicted(spec, modules, self._validated, self.valid_split, progress, title)

    def _predicted(
        self,
        spec: TechniqueSpec | None,
        modules: Sequence[Parameters],
        items: Split,
        encoded: Encoded,
        progress: Progress | None,
        title: str,
    ) -> list[Predictions]:
        advance = (progress or Silent()).stage(title, max(1, len(modules)) * len(encoded.rows))
        values = predict_entries(self.host, self.readout, spec, modules, encoded.rows, advance)
        return [self.task.spec.predictions(of_module, items.targets) for of_module in values]

    def module(self, spec: TechniqueSpec, checkpoint: Checkpoint, seed: int, learning_rate: float) -> Module:
        """Make a module, with its records, of a checkpoint."""
        record = TrainingRecord(
            seed=seed,
            steps=checkpoint.step,
            batch_size=self.settings.batch_size,
            learning_rate=learning_rate,
            weight_decay=self.settings.weight_decay,
            max_grad_norm=self.settings.max_grad_norm,
            max_tokens=self.settings.max_tokens,
            final_loss=checkpoint.loss,
            **self.settings.later,
        )
        return Module(spec, self.host.fingerprint, checkpoint.matrices, self.record, record)


def bind_task(
    host: str,
    task: Task,
    readout: str | None = None,
    settings: TrainSettings | None = None,
    test_items: int | None = None,
    loading: Loading | None = None,
    generate: int = GENERATED,
    mark: Fingerprint | None = None,
) -> BoundTask:
    """Load a host with the weights that its objective needs, and bind the task to it.

    ``loading`` says on which device and in which number format the host is loaded; ``generate`` for how many test items
    texts are generated, where the task's answers are texts; ``mark`` is the host's fingerprint, if it is known.

    Raises:
        UnknownName, HostRefused: there is no such host, or it is broken.
        BadRequest: the readout does not work with this kind of host or task.

    """
    settings = settings or TrainSettings()
    source = find_host(host)
    config = read_config(source.folder)
    layout, head = layout_for(config, source.name), TrainedHead.of(config, source.name)
    check_reads_texts(source.name, layout)
    kind = layout.kind
    objective = objective_for(readout, kind, task.spec, head)
    loaded = load_host(host, objective.view, loading, mark)
    bound = bind_objective(objective.name, loaded, task.spec, settings.max_tokens)
    return BoundTask(loaded, task, bound, settings, test_items, generate)


def usual_readout(host: str, spec: TaskSpec) -> str:
    """The readout of a task on a host by the host's kind alone, whether or not the host has a head of its own.

    Raises:
        UnknownName, HostRefused: there is no such host, or it is broken.
        BadRequest: such a host cannot read such a task.

    """
    source = find_host(host)
    kind = layout_for(read_config(source.folder), source.name).kind
    return objective_for(None, kind, spec).name


def check_task(module: Module, spec: TaskSpec) -> None:
    """Refuse a task with another kind or another number of fields than the module was trained for.

    Raises:
        TaskRefused: the kind or the number of fields differs.

    """
    trained = module.task
    if trained is None:
        return
    if trained.kind != spec.kind:
        raise TaskRefused(
            f"{spec.name}: this module was trained for a task of kind {trained.kind}, got {spec.kind}; give a task of "
            "that kind"
        )
    if len(trained.fields) != len(spec.fields):
        had, here = (
            f"pairs of texts ({', '.join(fields)})" if len(fields) > 1 else "single texts"
            for fields in (trained.fields, spec.fields)
        )
        columns = "two columns with --text a,b" if len(trained.fields) > 1 else "one column with --text"
        raise TaskRefused(f"{spec.name}: this module was trained on {had}, got {here}; name {columns}")


def _alike(starts: Sequence[Start]) -> list[list[int]]:
    """Group the indices of the starts by their structure."""
    groups: list[list[int]] = []
    for index, start in enumerate(starts):
        for group in groups:
            if same_structure(starts[group[0]].parameters, start.parameters):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups
