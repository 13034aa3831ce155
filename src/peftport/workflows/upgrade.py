"""The job `upgrade`: port many modules from one host to another, test them, and say which can be used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftport.core.errors import PeftportError
from peftport.core.hashing import rng_for
from peftport.core.progress import Silent
from peftport.modules.folders import write_module
from peftport.modules.module import Module
from peftport.modules.readme import README
from peftport.porting import porter_named
from peftport.store.artifacts import new_folder
from peftport.training.evaluation import MODULES_AT_ONCE
from peftport.workflows.distill import NAME as DISTILL
from peftport.workflows.distill import distill
from peftport.workflows.job_inputs import name_of, path_of, resolve_task
from peftport.workflows.named import check_names
from peftport.workflows.port_inputs import MOST_TEXTS, open_port_inputs, read_texts
from peftport.workflows.upgrade_requests import UpgradeRequest
from peftport.workflows.upgrading.candidates import UpgradeCandidate, content_of, output_names, read_candidate
from peftport.workflows.upgrading.cards import port_card
from peftport.workflows.upgrading.ledger import (
    Span,
    UpgradeFolder,
    UpgradeRecord,
    check_upgrade_folder,
    plan_of,
    upgrade_folder,
)
from peftport.workflows.upgrading.measured import Measured, PortToMeasure, measure
from peftport.workflows.upgrading.pair import HostPair
from peftport.workflows.upgrading.pushing import push_modules

CODES = {"refused": 1, "retrain": 4, "not enough evidence": 3}  # the first that applies, for the exit code


@dataclass(frozen=True, eq=False)
class Upgrade:
    """What became of every module, in the order in which they were named.

    ``done_before`` counts those that an earlier process had done; ``remarks`` say how the task was read, where that was
    guessed, and what was cut off texts.
    """

    old: str
    new: str
    task: str | None
    records: tuple[UpgradeRecord, ...]
    done_before: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if every module can be used; else 1, 4 or 3, for the worst that became of one."""
        outcomes = {record.outcome for record in self.records}
        return next((code for outcome, code in CODES.items() if outcome in outcomes), 0)


def upgrade_modules(request: UpgradeRequest) -> Upgrade:
    """Check every module, port it by the method that the check chooses, and test it where a task is given.

    Raises:
        UnknownName, HostRefused: a host is not found, or broken.
        OutputRefused: ``out`` holds something else, or another upgrade.
        BadRequest: a name is unknown, or another process works in ``out``.

    """
    out = path_of(request.out)
    if out is not None:
        check_upgrade_folder(out)
    check_names(request)
    task = resolve_task(request.task, request.progress) if request.task is not None else None
    pair, names = HostPair(request, task), output_names(request.modules)
    if request.only_check or out is None:
        return _upgrade(pair, [_checked(pair, name, folder) for name, folder in names.items()], 0)
    with upgrade_folder(out, plan_of(pair)) as folder:
        records, before = _all(pair, folder, names)
        return _upgrade(pair, records, before)


def push_upgrade(request: UpgradeRequest, upgrade: Upgrade) -> Upgrade:
    """Put on the hub what can be used of an upgrade and is not there yet.

    Raises:
        PushFailed: the hub cannot be reached, or refuses a folder.

    """
    assert request.push is not None and request.out is not None, "checked by the request"
    folder, progress = UpgradeFolder(Path(request.out)), request.progress or Silent()
    return replace(upgrade, records=tuple(push_modules(request.push, folder, upgrade.records, progress)))


def _upgrade(pair: HostPair, records: Sequence[UpgradeRecord], before: int) -> Upgrade:
    name = None if pair.task is None else pair.task.spec.name
    return Upgrade(pair.old.name, pair.new.name, name, tuple(records), before, pair.remarks)


def _checked(pair: HostPair, name: str, folder: Path) -> UpgradeRecord:
    """What the check of one module says, without a port."""
    content = content_of(folder)
    try:
        return _unmeasured(read_candidate(pair, name, folder), content)
    except PeftportError as error:
        return _refused(name, folder, content, error)


def _all(pair: HostPair, folder: UpgradeFolder, names: Mapping[str, Path]) -> tuple[list[UpgradeRecord], int]:
    """Do every module that has no record yet, several at a time."""
    contents = {name: content_of(path) for name, path in names.items()}
    found = {name: record for name in names if (record := folder.record(name, contents[name])) is not None}
    before = len(found)
    advance = pair.progress.stage(f"upgrading {len(names)} modules to {pair.new.name}", len(names))
    advance(before)
    waiting: list[UpgradeCandidate] = []
    for name, path in names.items():
        if name in found:
            continue
        try:
            candidate = read_candidate(pair, name, path)
        except PeftportError as error:
            found[name] = folder.keep(_refused(name, path, contents[name], error))
        else:
            if candidate.choice.method is not None:
                waiting.append(candidate)
                continue
            found[name] = folder.keep(_unmeasured(candidate, contents[name]))
        advance(1)
    for some in _at_once(waiting):
        for record in _done(pair, folder, some, contents):
            found[record.name] = record
            advance(1)
    return [found[name] for name in names], before


def _at_once(candidates: Sequence[UpgradeCandidate]) -> Iterator[list[UpgradeCandidate]]:
    """The modules that are tested together: of equal settings and readout, as many as the engine holds."""
    groups: dict[tuple[str, str | None], list[UpgradeCandidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.module.spec.model_dump_json(), candidate.readout), []).append(candidate)
    for group in groups.values():
        for begin in range(0, len(group), MODULES_AT_ONCE):
            yield group[begin : begin + MODULES_AT_ONCE]


def _done(
    pair: HostPair, folder: UpgradeFolder, candidates: list[UpgradeCandidate], contents: Mapping[str, str]
) -> Iterator[UpgradeRecord]:
    """Port and test some modules; yield the record of each once its folder is whole."""
    ported: list[tuple[UpgradeCandidate, Module]] = []
    for candidate in candidates:
        try:
            ported.append((candidate, _ported(pair, candidate)))
        except PeftportError as error:
            content = contents[candidate.name]
            yield folder.keep(_refused(candidate.name, candidate.folder, content, error, candidate))
    results: list[Measured | PeftportError | None] = [None] * len(ported)
    if pair.task is not None and ported:
        ports = [PortToMeasure(c.module, made, c.choice.method or DISTILL, c.readout) for c, made in ported]
        results = [*measure(pair, ports)]
    for (candidate, made), result in zip(ported, results, strict=True):
        content = contents[candidate.name]
        if isinstance(result, PeftportError):
            yield folder.keep(_refused(candidate.name, candidate.folder, content, result, candidate))
            continue
        record = _unmeasured(candidate, content).model_copy(update={"out": True} | _measures(result))
        _write(pair, folder.module(candidate.name), candidate, made, record)
        yield folder.keep(record.model_copy(update={"written": folder.written(candidate.name)}))


def _write(pair: HostPair, out: Path, candidate: UpgradeCandidate, ported: Module, record: UpgradeRecord) -> None:
    """Write the ported module with its card; what a process left here that was killed before its record goes away."""
    if out.exists():
        shutil.rmtree(out)
    with new_folder(out) as whole:
        write_module(ported, pair.new, whole / "module", candidate.file_format)
        for path in (whole / "module").iterdir():
            path.rename(whole / path.name)
        (whole / "module").rmdir()
        (whole / README).write_text(port_card(pair, candidate, ported, record), encoding="utf-8")


def _ported(pair: HostPair, candidate: UpgradeCandidate) -> Module:
    """Port one module by the method that its check chose."""
    method, texts, module = candidate.choice.method, name_of(pair.request.texts), candidate.module
    assert method is not None, "modules without a method are recorded before"
    bound = None if pair.task is None else pair.bound(True, candidate.readout)
    if method == DISTILL:
        assert bound is not None, "the check chooses distill only where a task is given"
        home = pair.bound(False, candidate.readout)
        read = read_texts(texts) if texts is not None else bound.task.train.examples[:MOST_TEXTS]
        return distill(module, home, bound, read, progress=pair.progress)
    porter = porter_named(method)
    runs = porter.needs == "texts"
    receiver = bound.host if bound is not None else pair.new_loaded if runs else pair.new
    origin = pair.running_old(candidate.readout) if runs else pair.old
    inputs = open_port_inputs(
        porter, module, receiver, origin=origin, texts=texts, bound_task=bound, progress=pair.progress,
        shared=pair.cache, max_tokens=pair.request.max_tokens, readout=pair.request.readout,
    )  # fmt: skip
    return porter.port(module, receiver, rng_for(0, "porting"), inputs)


def _refused(
    name: str, folder: Path, content: str, error: PeftportError, candidate: UpgradeCandidate | None = None
) -> UpgradeRecord:
    told = {} if candidate is None else _about(candidate)
    return UpgradeRecord(
        name=name, module=str(folder), content=content, outcome="refused", why=" ".join(str(error).split())
    ).model_copy(update=told)


def _unmeasured(candidate: UpgradeCandidate, content: str) -> UpgradeRecord:
    """What the check alone says."""
    choice = candidate.choice
    return UpgradeRecord(
        name=candidate.name, module=str(candidate.folder), content=content, outcome=choice.word, why=f"{choice.why}."
    ).model_copy(update=_about(candidate))


def _about(candidate: UpgradeCandidate) -> dict[str, object]:
    module = candidate.module
    return {
        "technique": module.spec.kind, "format": candidate.file_format, "parameters": module.parameters,
        "method": candidate.choice.method,
    }  # fmt: skip


def _measures(result: Measured | None) -> dict[str, object]:
    if result is None:
        return {}
    spans = {
        name: Span(estimate=found.estimate, low=found.low, high=found.high)
        for name, found in (("gain", result.gain), ("change", result.change))
    }
    return {
        "outcome": result.word, "why": result.sentence, "metric": result.judged.name, "items": result.items,
        "home": result.home, "bare": result.bare, "ported": result.ported, **spans,
    }  # fmt: skip
