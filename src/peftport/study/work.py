"""What workers do: pure functions of a stack's description and the bytes it needs, on any machine.

A request is plain data: it names hosts and tasks, and other jobs' results by their bytes. Nothing here knows the
ledger, the plan or where it runs; a worker keeps hosts and tokenised tasks in memory from one stack to the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport import workflows
from peftport.core.errors import NotFinite, PeftportError, TaskRefused
from peftport.core.hashing import rng_for
from peftport.core.libraries import safetensors_torch
from peftport.hosts.distance import weight_distance
from peftport.hosts.host import Host
from peftport.hosts.loading import Loading
from peftport.hosts.sources import find_host
from peftport.modules.module import Module
from peftport.porting import porter_named, sampler_named
from peftport.porting.alignment.words import ROW_TOKENS
from peftport.porting.base import PortCache
from peftport.store.held import HeldFolder
from peftport.study.inputs import REMEDY, VERSIONS, Inputs, difference, host_in, marked, open_task, versions_for
from peftport.study.items import CLASSES, arrays_of, measured, targets_of
from peftport.study.messages import (
    Answer,
    BareRequest,
    Blobs,
    EntryRequest,
    HostAt,
    JobResult,
    MadeHost,
    Place,
    Request,
    TrainJobsRequest,
    UpdateRequest,
    told,
)
from peftport.study.packing import pack
from peftport.tasks.spec import Predictions
from peftport.tasks.split import halves
from peftport.tasks.task import Split, Task
from peftport.techniques import technique_named
from peftport.techniques.base import Parameters, TechniqueSpec
from peftport.training.bound_task import BoundTask, Start, bind_task, usual_readout
from peftport.training.loop import Checkpoint
from peftport.workflows.port_inputs import cut_in_ports, open_port_inputs
from peftport.workflows.requests import HostUpdateRequest

if TYPE_CHECKING:
    from torch import Tensor

HOSTS_IN_MEMORY = 3


def perform(request: Request, blobs: Blobs) -> JobResult:
    """Do the jobs of one stack.

    Raises:
        PeftportError: the stack as a whole cannot be done; a failure of one entry is an answer, not an exception.

    """
    if isinstance(request, TrainJobsRequest):
        return _chains(request, blobs)
    if isinstance(request, BareRequest):
        return _bare(request, blobs)
    if isinstance(request, UpdateRequest):
        return _update(request)
    begun = time.perf_counter()
    hosts = {_name(host): _folder(host, blobs) for host in (request.origin, request.receiver)}
    inputs = {f"host {name}": host_in(folder, name) for name, folder in hosts.items()}
    metrics = {"weights": weight_distance(*(_folder(host, blobs) for host in (request.origin, request.receiver)))}
    inputs[VERSIONS] = versions_for(Loading())
    return JobResult((Answer(request.job, metrics, None, time.perf_counter() - begun, inputs),), None)


def _bare(request: BareRequest, blobs: Blobs) -> JobResult:
    begun = time.perf_counter()
    bound_task = _bound_task(request.place, blobs)
    test = _tested(request, bound_task)(None, [])[0]
    metrics = {**_facts(bound_task), "tests": {"0": measured(test)}, **_cut(request, bound_task)}
    tensors = arrays_of(request.job, {0: test}) | targets_of(test)
    answer = Answer(request.job, metrics, None, time.perf_counter() - begun, _inputs(request.place, bound_task))
    return JobResult((answer,), pack(tensors, request.kind, [answer]))


def _tested(
    request: BareRequest | TrainJobsRequest, bound_task: BoundTask
) -> Callable[[TechniqueSpec | None, Sequence[Parameters]], list[Predictions]]:
    """How modules are tested: on the items of the split that is asked for."""
    return bound_task.test if request.split == "test" else bound_task.validate


def _cut(request: BareRequest, bound_task: BoundTask) -> dict[str, str]:
    """What is cut off the texts that are trained and tested on, in one line; nothing where all are read whole."""
    cut, place = (
        bound_task.readout.cut_of((*bound_task.task.train.examples, *bound_task.tested.examples)),
        request.place,
    )
    if not cut.cut or request.split != "test":
        return {}
    said = cut.sentence(bound_task.readout.max_tokens, "[training] max_tokens", bound_task.readout.most_tokens())
    return {"cut": f"{_name(place.host)} on {place.task}: {said}"}


def _chains(request: TrainJobsRequest, blobs: Blobs) -> JobResult:
    bound_task = _bound_task(request.place, blobs)
    shared = PortCache()
    starts = {entry.job: _start(entry, request, bound_task, blobs, shared) for entry in request.entries}
    try:
        tested = [] if request.alone else [_train_and_test(list(starts), starts, request, bound_task)]
    except NotFinite:  # of one of them; alone, the others come through
        tested = []
    tested = tested or [_alone(job, starts, request, bound_task) for job in starts]
    tensors = {name: tensor for chain in tested for name, tensor in chain.tensors.items()}
    answers = _with_inputs([answer for chain in tested for answer in chain.answers], request, bound_task)
    return JobResult(answers, pack(tensors, request.kind, answers) if tensors else None)


def _with_inputs(answers: list[Answer], request: TrainJobsRequest, bound_task: BoundTask) -> tuple[Answer, ...]:
    """What each chain ran on: its own host and task, and the host that its module comes from."""
    here, sets = _inputs(request.place, bound_task), dict[str, Inputs]()
    names = {entry.job: _name(entry.origin.at) if entry.origin else "" for entry in request.entries}
    for entry in request.entries:
        if entry.origin and names[entry.job] not in sets:
            origin = {f"host {names[entry.job]}": marked(entry.origin.host)}
            sets[names[entry.job]] = {**origin, **here}
    return tuple(replace(answer, inputs=sets.get(names[answer.job], here)) for answer in answers)


def _inputs(place: Place, bound_task: BoundTask) -> Inputs:
    host, versions = marked(bound_task.host.fingerprint), versions_for(place.loading)
    return {f"host {_name(place.host)}": host, f"task {place.task}": bound_task.task.digest, VERSIONS: versions}


def _name(host: HostAt) -> str:
    """What the study calls a host."""
    return host if isinstance(host, str) else host.name


@dataclass(frozen=True, eq=False)
class _Tested:
    answers: list[Answer]
    tensors: dict[str, Tensor]


def _alone(job: str, starts: dict[str, _EntryStart], request: TrainJobsRequest, bound_task: BoundTask) -> _Tested:
    begun = time.perf_counter()
    try:
        return _train_and_test([job], starts, request, bound_task)
    except Exception as error:  # whatever it is, it is this entry's alone, and is recorded as such
        return _Tested([Answer(job, None, told(error), time.perf_counter() - begun)], {})


def _train_and_test(
    jobs: list[str], starts: dict[str, _EntryStart], request: TrainJobsRequest, bound_task: BoundTask
) -> _Tested:
    """Train entries in one stack, test every checkpoint, all modules of one budget together."""
    begun = time.perf_counter()
    spec = request.technique
    rate = request.learning_rate or technique_named(spec.kind).learning_rates[bound_task.host.kind]
    kept = bound_task.train(spec, [starts[job] for job in jobs], request.budgets, rate)
    trained = time.perf_counter()
    test = _tested(request, bound_task)
    tests = {b: test(spec, [checkpoints[b].matrices for checkpoints in kept]) for b in request.budgets}
    ended = time.perf_counter()
    tested = _Tested([], {})
    for index, (job, checkpoints) in enumerate(zip(jobs, kept, strict=True)):
        tests_of_job = {budget: tests[budget][index] for budget in request.budgets}
        metrics = {**_facts(bound_task), **starts[job].cut} | {
            "tests": {str(b): {**measured(tests_of_job[b]), "loss": checkpoints[b].loss} for b in request.budgets},
            "learning_rate": rate,
            "train_seconds_per_step": (trained - begun) / (len(jobs) * max(1, *request.budgets)),
            "test_seconds": (ended - trained) / (len(jobs) * len(request.budgets)),
        }
        tested.answers.append(Answer(job, metrics, None, (ended - begun) / len(jobs)))
        tested.tensors.update(arrays_of(job, tests_of_job) | targets_of(tests_of_job[request.budgets[0]]))
        tested.tensors.update(_matrices(job, {step: checkpoints[step] for step in request.keep}))
    return tested


@dataclass(frozen=True, eq=False)
class _EntryStart(Start):
    """The start of an entry; ``cut`` says what the porting method did not read of texts, where it reads any."""

    cut: dict[str, list[str]] = field(default_factory=dict)


def _start(
    entry: EntryRequest, request: TrainJobsRequest, bound_task: BoundTask, blobs: Blobs, shared: PortCache
) -> _EntryStart:
    origin = entry.origin
    if origin is None:
        return _EntryStart(bound_task.fresh(request.technique, entry.seed), entry.seed, entry.shuffled)
    matrices = _kept(_read(blobs[origin.artifact]), origin.chain, origin.step)
    module = Module(request.technique, origin.host, matrices, bound_task.record)
    porter, home = porter_named(origin.porter), str(_folder(origin.at, blobs))
    inputs = open_port_inputs(porter, module, bound_task.host, origin=home, bound_task=bound_task, shared=shared)
    if inputs.origin is not None:
        changed = difference(f"host {_name(origin.at)}", marked(origin.host), marked(inputs.origin.fingerprint))
        if changed:
            raise PeftportError(f"{changed}; {REMEDY}")
    ported = porter.port(module, bound_task.host, rng_for(entry.seed, "porting"), inputs)
    if origin.sampler is not None:
        ported = sampler_named(origin.sampler).port(ported, bound_task.host, rng_for(entry.seed, "sampling"))
    cut = _cut_in_port(shared, request.place, (_name(origin.at), inputs.origin), bound_task.host)
    return _EntryStart(bound_task.startable(ported), entry.seed, cut=cut)


def _cut_in_port(
    shared: PortCache, place: Place, origin: tuple[str, Host | None], receiver: Host
) -> dict[str, list[str]]:
    """What is cut off the texts on which a method compares activations, a sentence for each of the two hosts."""
    cuts = cut_in_ports(shared)
    said = [
        f"{name} on {place.task}, where activations are compared: "
        f"{cuts[host].lost_at(f'rows of {ROW_TOKENS} tokens')}; a study reads no more of them there"
        for name, host in (origin, (_name(place.host), receiver))
        if host in cuts
    ]
    return {"cut_in_port": said} if said else {}


def _update(request: UpdateRequest) -> JobResult:
    begun = time.perf_counter()
    update, task = request.update, open_task(request.update.text, request.data)
    with HeldFolder("update") as home:
        text = Path(home) / "text"
        text.write_text("\n".join(" ".join(each.split()) for each in task.train.texts), encoding="utf-8")
        asked = HostUpdateRequest(
            update.base, text, steps=update.steps, out=Path(home) / "out", learning_rate=update.learning_rate,
            batch_size=update.batch_size, max_tokens=update.max_tokens, head_warm_up_steps=update.head_warm_up_steps,
            seed=update.seed,
        )  # fmt: skip
        [made] = workflows.update_host(asked)
        tensors: dict[str, Tensor] = {}
        for file in sorted(made.folder.glob("*.safetensors")):
            tensors.update(safetensors_torch.load(file.read_bytes()))
    record = made.record.model_dump(mode="json")
    metrics = {"host": request.host, "update": record}
    inputs = {f"host {update.base}": record["origin"], f"task {update.text}": task.digest}
    inputs[VERSIONS] = versions_for(Loading())
    answer = Answer(request.job, metrics, None, time.perf_counter() - begun, inputs)
    return JobResult((answer,), pack(tensors, request.kind, [answer], {"format": "pt"}))


def _facts(bound_task: BoundTask) -> dict[str, Any]:
    """What a job stood on: later jobs of the study must stand on the same."""
    facts = {"host": marked(bound_task.host.fingerprint), "task": bound_task.task.digest}
    return facts if bound_task.task.spec.kind == CLASSES else {**facts, "kind": bound_task.task.spec.kind}


def _matrices(job: str, checkpoints: Mapping[int, Checkpoint]) -> dict[str, Tensor]:
    return {
        f"{job}/module/{step}/{slot}/{name}": tensor.contiguous()
        for step, checkpoint in checkpoints.items()
        for slot, matrices in checkpoint.matrices.items()
        for name, tensor in matrices.items()
    }


def _kept(tensors: Mapping[str, Tensor], job: str, step: int) -> Parameters:
    begin = f"{job}/module/{step}/"
    matrices: Parameters = {}
    for key in sorted(key for key in tensors if key.startswith(begin)):
        slot, _, name = key.removeprefix(begin).rpartition("/")
        matrices.setdefault(slot, {})[name] = tensors[key]
    return matrices


def _read(blob: bytes | Path) -> dict[str, Tensor]:
    return safetensors_torch.load(blob if isinstance(blob, bytes) else blob.read_bytes())


def _bound_task(place: Place, blobs: Blobs) -> BoundTask:
    return _open_bound_task(place, _folder(place.host, blobs))


@lru_cache(maxsize=HOSTS_IN_MEMORY)
def _open_bound_task(place: Place, folder: Path) -> BoundTask:
    ref = place.host if isinstance(place.host, str) else str(folder)
    task = open_task(place.task, place.data)
    readout = place.readout or usual_readout(ref, task.spec)  # one for all hosts of a kind, whatever heads they have
    bound_task = bind_task(ref, task, readout, place.training, place.items, place.loading, place.generate)
    return replace(bound_task, trained_on=_learnt(place, task))


def _learnt(place: Place, task: Task) -> Split | None:
    """The part of a task's training items that modules learn from; None: all."""
    if place.part == "all":
        return None
    learnt = dict(zip(("origin", "receiver"), halves(task.train, place.seed), strict=True))[place.part]
    try:
        task.spec.check({"train": learnt.targets, "valid": task.valid.targets, "test": task.test.targets})
    except TaskRefused as error:
        raise _too_few(place, str(error)) from error
    if not len(learnt):
        raise _too_few(place, "no item is left")
    return learnt


def _too_few(place: Place, problem: str) -> TaskRefused:
    return TaskRefused(
        f'{place.task}: [data] receiver = "disjoint": of the half of the training items that an {place.part} learns '
        f'from: {problem}; add items, give another [data] seed, or [data] receiver = "shared"'
    )


def _folder(host: HostAt, blobs: Blobs) -> Path:
    """The host's folder on this machine; a host that the study made is put together from its base and its weights."""
    if isinstance(host, str):
        return find_host(host).folder
    return _make_folder(host, blobs[host.weights])


_made: dict[MadeHost, HeldFolder] = {}


def _make_folder(host: MadeHost, weights: bytes | Path) -> Path:
    if host not in _made:
        home = HeldFolder("host")
        folder = Path(home.name) / host.name
        folder.mkdir()
        for file in find_host(host.base).folder.iterdir():
            if file.is_file() and not file.name.startswith("model.safetensors"):
                os.symlink(file.resolve(), folder / file.name)
        if isinstance(weights, Path):
            os.symlink(weights.resolve(), folder / "model.safetensors")
        else:
            (folder / "model.safetensors").write_bytes(weights)
        _made[host] = home
    return Path(_made[host].name) / host.name
