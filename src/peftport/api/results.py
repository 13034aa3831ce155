"""What commands return: objects that say themselves in a line, a table, a JSON document and a notebook.

The command line prints these very objects. Each holds the request that it answers and what the workflow found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftport.api.following import beside, follow, known_task, relative_of, serve, unused
from peftport.api.result import (
    Result,
    addressed,
    chosen,
    measures,
    noted,
    said_first,
    text_of,
    value_of,
    written_to,
)
from peftport.core.libraries import pl
from peftport.hosts.loading import loading_remarks
from peftport.metrics.choice import MetricChoice, choose_metric, items_text
from peftport.modules.folders import Format
from peftport.modules.module import Module, PortRecord, as_tensors
from peftport.report.checked import check_advice, check_sentences, check_tables, selection_table
from peftport.report.table import Table
from peftport.tasks.spec import Predictions
from peftport.workflows.checking import MethodChoice, PortCheck
from peftport.workflows.evaluate import EvaluatedHost
from peftport.workflows.job_inputs import path_of
from peftport.workflows.method_selection import MethodSelection
from peftport.workflows.options import DISTILL
from peftport.workflows.port import PortedModule
from peftport.workflows.requests import (
    CheckRequest,
    CompareRequest,
    EvaluateRequest,
    HostUpdateRequest,
    PortRequest,
    TrainRequest,
)
from peftport.workflows.train import TrainedModule

if TYPE_CHECKING:
    from peftport.workflows.continued_pretraining import HostUpdate


@dataclass(frozen=True, eq=False, repr=False)
class Tested(Result):
    """A host's test on one task."""

    request: EvaluateRequest | TrainRequest
    outcome: EvaluatedHost | TrainedModule

    @property
    def task(self) -> str:
        """The name of the task that was tested on."""
        return self.outcome.task

    @property
    def scores(self) -> Predictions:
        """The scores of every test item; of the host with the module, if there is one."""
        return self.outcome.scores

    @property
    def accuracy(self) -> float | None:
        """Share of the test items that were right; None where the task's answers are not classes."""
        return self.scores.measures().get("accuracy")

    @cached_property
    def judged(self) -> MetricChoice:
        """The metric that is named first, and the share of the most frequent class."""
        return choose_metric(self.scores, self.request.metric)

    def remarks(self) -> list[str]:
        """How the task was read, what ``dtype=auto`` became, and why accuracy does not judge it, where it does not."""
        return [*self.outcome.remarks, *loading_remarks(self.request.load), *noted(self.judged)]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated(Tested):
    """A host's test on a task, alone (``module`` None) or with a module."""

    request: EvaluateRequest
    outcome: EvaluatedHost

    @property
    def host(self) -> str:
        """The host as it was named."""
        return str(self.request.host)

    @property
    def module(self) -> Path | None:
        """The folder of the module, or None if there is none."""
        return path_of(self.request.module)

    def __str__(self) -> str:
        s = self.scores
        module = f" with {self.module}" if self.module else ""
        return f"{self.host} on {self.task}{module}: {said_first(s, self.judged)} ({items_text(self.judged, s)})"

    def document(self) -> dict[str, Any]:
        """Host, task, module and measures."""
        module = str(self.module) if self.module else None
        facts = {"host": self.host, "task": self.task, "module": module} | measures(self.scores, self.judged)
        return facts | {"majority": self.judged.majority, "metric": self.judged.name}

    def next_words(self) -> tuple[str, ...]:
        """After the host alone, a training on the same task."""
        if self.module is not None:
            return ()
        return follow("train", TrainRequest, self.request, out=unused(Path("modules") / "lora"), technique="lora")


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Tested):
    """A module just trained, its folder if it was written, and the host's test without and with it."""

    request: TrainRequest
    outcome: TrainedModule

    @property
    def out(self) -> Path | None:
        """The folder of the module, or None if there is none."""
        return path_of(self.request.out)

    @property
    def module(self) -> Module:
        """The module that was just trained."""
        return self.outcome.module

    @property
    def bare(self) -> Predictions:
        """The test of the host alone."""
        return self.outcome.bare

    def __str__(self) -> str:
        module = self.module
        return (
            f"{addressed(self.out)}{module.spec.kind} on {module.host.name}, {module.parameters:,} parameters, "
            f"{self.request.steps} steps; {self.judged.title} on {self.task} {value_of(self.judged, self.scores)}, "
            f"host alone {value_of(self.judged, self.bare)} ({items_text(self.judged, self.bare)})"
        )

    def to_polars(self) -> pl.DataFrame:
        """Two rows: the bare host, and the host with the module."""
        tests = (("bare host", self.bare), (self.module.spec.kind, self.scores))
        return pl.DataFrame([{"what": name} | measures(scores, self.judged) for name, scores in tests])

    def document(self) -> dict[str, Any]:
        """What was trained, how, and the measures without and with it."""
        module, request = self.module, self.request
        return {
            "out": text_of(self.out), "technique": module.spec.model_dump(mode="json"),
            "host": module.host.model_dump(),
            "parameters": module.parameters, "steps": request.steps, "seed": request.seed, "task": self.task,
            "bare": measures(self.bare, self.judged), "with_module": measures(self.scores, self.judged),
            "majority": self.judged.majority, "metric": self.judged.name,
        }  # fmt: skip

    def next_words(self) -> tuple[str, ...]:
        """A check on a host of the same family that is installed; else the module's test, which anyone can repeat."""
        if self.out is None:
            return ()
        other = relative_of(self.request.host)
        if other is not None:
            return ("check", str(self.out), "--to", other)
        return follow("evaluate", EvaluateRequest, self.request, module=self.out)


@dataclass(frozen=True, eq=False, repr=False)
class Ported(Result):
    """A module on its new host, its folder if it was written, and the format it was written in."""

    request: PortRequest
    outcome: PortedModule

    @property
    def out(self) -> Path | None:
        """The ported module's folder."""
        return path_of(self.request.out)

    @property
    def module(self) -> Module:
        """The module on its new host."""
        return as_tensors(self.outcome.module)

    @property
    def format(self) -> Format:
        """The format in which it was written, or would be."""
        return self.outcome.file_format

    @property
    def choice(self) -> MethodChoice | None:
        """How ``auto`` chose the method, where it did."""
        return self.outcome.choice

    @property
    def selection(self) -> MethodSelection | None:
        """How several methods did, where several were tried."""
        return self.outcome.selection

    @property
    def record(self) -> PortRecord:
        """The port as the module remembers it."""
        return self.outcome.module.ports[-1]

    def __str__(self) -> str:
        done, notes = self.record, list(self.record.slots.values())
        did = ", ".join(f"{notes.count(note)} slots {note}" for note in dict.fromkeys(notes))
        return (
            f"{addressed(self.out)}{self.outcome.module.spec.kind} from {done.origin.name} on {done.receiver.name} "
            f"by {done.method} ({self.format}): {did}"
        )

    def to_polars(self) -> pl.DataFrame:
        """One row a slot: what the method did there."""
        slots = self.record.slots
        return pl.DataFrame({"slot": list(slots), "did": list(slots.values())})

    def document(self) -> dict[str, Any]:
        """The record of the port, and how its method was chosen."""
        document = {"out": text_of(self.out), "format": self.format, "technique": self.outcome.module.spec.kind}
        document |= self.record.model_dump()
        if self.selection is not None:
            return document | {"trial": self.selection.as_json()}
        return document | {"choice": asdict(self.choice) if self.choice else None}

    def tables(self) -> list[Table]:
        """How several methods did."""
        return [selection_table(self.selection)] if self.selection is not None else []

    def lines(self) -> list[str]:
        """What was ported; of several methods, which was kept and why."""
        if self.selection is None:
            return [str(self)]
        return [f"{self.selection.sentence}.", *written_to(self.out)]

    def next_words(self) -> tuple[str, ...]:
        """The comparison with training again, or the test of what no comparison makes; without a task, folding it."""
        if self.out is None:
            return ()
        recorded = self.outcome.module.task
        task = self.request.task
        task = known_task(recorded.name if recorded is not None else None) if task is None else task
        if task is None:
            return serve(self.request.to, self.out, self.outcome.module)
        request, method = self.request, self.record.method
        if request.into is not None or request.prompts is not None:  # compare would distill another module
            return follow(
                "evaluate", EvaluateRequest, request, host=request.to, task=task, module=self.out, leave_out=()
            )
        changes: dict[str, Any] = (
            {} if method == DISTILL else {"teach": "sequences", "keep": 1.0}
        )  # of a method that was tried as well
        items = request.test_items or 500
        return follow("compare", CompareRequest, request, task=task, method=method, test_items=items, **changes)

    def remarks(self) -> list[str]:
        """How the task was read, and how ``auto`` chose, where it was asked for."""
        return [*self.outcome.remarks, *chosen(self.choice)]


@dataclass(frozen=True, eq=False, repr=False)
class Checked(Result):
    """What can be said of a port before it is made."""

    request: CheckRequest
    outcome: PortCheck

    @property
    def choice(self) -> MethodChoice:
        """The method to use (None: none, train another module), its word, and why."""
        return self.outcome.choice

    def __str__(self) -> str:
        return " ".join([*self.answer(), *self.lines()])

    def to_polars(self) -> pl.DataFrame:
        """One row a method: whether it can, why not, and the gain and retention to expect where records say."""
        rows = [
            {
                "method": method.name, "able": method.able, "refusal": method.refusal, "lacking": method.lacking,
                "expected_gain": method.predicted.gain.estimate if method.predicted.gain else None,
                "expected_retention": method.predicted.retention.estimate if method.predicted.retention else None,
                "unknown": method.predicted.unknown,
            }
            for method in self.outcome.methods
        ]  # fmt: skip
        return pl.DataFrame(rows, infer_schema_length=None)

    def slots(self) -> pl.DataFrame:
        """One row a slot of the receiver: what it takes, whether that fits, overlap of the hosts' weights there."""
        return pl.DataFrame([asdict(slot) for slot in self.outcome.slots.slots], infer_schema_length=None)

    def document(self) -> dict[str, Any]:
        """What it comes to, and all that was found."""
        found = self.outcome.as_json()
        return {"summary": str(self), "choice": found["choice"], "module": str(self.request.module), **found}

    def answer(self) -> list[str]:
        """Return what to do, as one sentence."""
        return [check_advice(self.outcome)]

    def next_words(self) -> tuple[str, ...]:
        """The port by the method that was chosen; or training on the receiver, where the task is known."""
        request, method = self.request, self.choice.method
        if self.outcome.host_comparison.same_host:
            return ()
        out, task = beside(request.module, request.to), known_task(self.outcome.task)
        if method is not None:
            return follow("port", PortRequest, request, out=out, method=method)
        if task is None:
            return ()
        return ("train", str(request.to), task, "--technique", self.outcome.technique, "--out", str(out))

    def tables(self) -> list[Table]:
        """Hosts, slots, layers where they were compared, and methods."""
        return check_tables(self.outcome)

    def lines(self) -> list[str]:
        """What the tables come to."""
        return check_sentences(self.outcome)

    def remarks(self) -> list[str]:
        """What was cut off the texts on which layers were compared."""
        return list(self.outcome.remarks)


@dataclass(frozen=True, eq=False, repr=False)
class UpdatedHost(Result):
    """A host whose pretraining was continued: its checkpoints, each a host in a folder of its own."""

    request: HostUpdateRequest
    checkpoints: list[HostUpdate]

    def __str__(self) -> str:
        return "; ".join(self.lines())

    def to_polars(self) -> pl.DataFrame:
        """One row a checkpoint: its folder, steps, loss and distances."""
        return pl.DataFrame([
            {"folder": str(each.folder), "steps": each.record.steps, "loss": each.record.loss}
            | {"weights": each.record.distance.weights, "function": each.record.distance.function}
            for each in self.checkpoints
        ])  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The folder, and the record of every checkpoint."""
        rows = [{"folder": str(each.folder), **each.record.model_dump(mode="json")} for each in self.checkpoints]
        return {"out": str(self.request.out), "checkpoints": rows}

    def lines(self) -> list[str]:
        """How far each checkpoint is from the host."""
        return [
            f"{each.folder}: weights {each.record.distance.weights:.3%}, function {each.record.distance.function:.5f} "
            f"from {self.request.host}; loss {each.record.loss:.3f}"
            for each in self.checkpoints
        ]

    def next_words(self) -> tuple[str, ...]:
        """What the last checkpoint is as a host."""
        return ("hosts", "show", str(self.checkpoints[-1].folder))
