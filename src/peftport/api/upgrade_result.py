"""What ``upgrade`` returns: what became of every module, as a table, a page and a JSON document."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.api.following import follow, unused
from peftport.api.result import Result, write_page
from peftport.core.libraries import pl
from peftport.core.request import words_of
from peftport.hosts.loading import loading_remarks
from peftport.report.table import Table
from peftport.report.upgraded import upgrade_markdown, upgrade_page, upgrade_sentence, upgrade_table
from peftport.store.artifacts import write_text
from peftport.workflows.job_inputs import path_of
from peftport.workflows.requests import EvaluateRequest, TrainRequest
from peftport.workflows.upgrade import Upgrade
from peftport.workflows.upgrade_requests import UpgradeRequest
from peftport.workflows.upgrading.ledger import UpgradeRecord


@dataclass(frozen=True, eq=False, repr=False)
class Upgraded(Result):
    """Many modules on a new host, with what was measured of each."""

    request: UpgradeRequest
    found: Upgrade

    @property
    def records(self) -> tuple[UpgradeRecord, ...]:
        """What became of each module, in the order in which they were named."""
        return self.found.records

    @property
    def exit_code(self) -> int:
        """0 if all can be used, 3 where evidence lacks, 4 if some must be trained again, 1 if some were refused."""
        return self.found.exit_code

    def __str__(self) -> str:
        return upgrade_sentence(self.found)

    def to_polars(self) -> pl.DataFrame:
        """One row a module."""
        return pl.DataFrame([_flat(record) for record in self.records], infer_schema_length=None)

    def document(self) -> dict[str, Any]:
        """Every module's record, and what they come to."""
        return {
            "old": self.found.old, "new": self.found.new, "task": self.found.task,
            "modules": [record.model_dump(exclude={"content", "written"}) for record in self.records],
            "summary": str(self), "exit_code": self.exit_code,
        }  # fmt: skip

    def tables(self) -> list[Table]:
        """A row for each module."""
        return [upgrade_table(self.found)]

    def lines(self) -> list[str]:
        """Why those that cannot be used cannot, what it comes to, and where the files are."""
        out = path_of(self.request.out)
        wrong = [f"{record.name}: {record.outcome}: {record.why}" for record in self.records if not record.usable]
        pushed = [f"pushed: {record.pushed}" for record in self.records if record.pushed is not None]
        files = [] if out is None else [f"Modules: {out / 'modules'}   page: {out / 'report.html'}"]
        return [*wrong, *pushed, str(self), *files]

    def remarks(self) -> list[str]:
        """How the task was read, where that was guessed, what ``dtype=auto`` became, and what was done before."""
        before, loaded = self.found.done_before, loading_remarks(self.request.load) if self.found.task else ()
        untested = self.found.task is None and not self.request.only_check
        loaded = ("nothing was tested: --task TASK tests every module on both hosts",) if untested else loaded
        return [*self.found.remarks, *loaded, *([f"{before} modules were done before and are kept"] if before else [])]

    def next_words(self) -> tuple[str, ...]:
        """The upgrade itself after a check; training again where that is needed, more evidence, or a test."""
        request, task = self.request, self.request.task
        if request.only_check or request.out is None:
            return ("upgrade", *words_of(request, leave_out=("only_check",)), "--out", str(unused(Path("upgraded"))))
        if task is None:
            return ()
        worst = {record.outcome: record for record in reversed(self.records)}
        if "retrain" in worst:
            out, technique = unused(Path(request.out) / "trained" / worst["retrain"].name), worst["retrain"].technique
            return follow("train", TrainRequest, request, host=request.new, technique=technique, out=out)
        if "not enough evidence" in worst:
            out = unused(Path(f"{request.out}-more"))
            more = ("--seeds", str(3 * request.seeds), "--budgets", "0,10,40", "--out", str(out))
            return ("upgrade", *words_of(request, leave_out=("out", "push", "seeds", "budgets")), *more)
        used = next((record for record in self.records if record.usable), None)
        if used is None:
            return ()
        module = Path(request.out) / "modules" / used.name
        return follow("evaluate", EvaluateRequest, request, host=request.new, module=module)

    def write(self, out: Path) -> None:
        """Write report.html, table.md and upgrade.json; files of these names are replaced."""
        words = ["peftport", "upgrade", str(self.request.old), str(self.request.new), *map(str, self.request.modules)]
        named = self.request.task if isinstance(self.request.task, str | Path) else self.found.task
        task = ["--task", str(named)] if named else []
        write_page(out / "report.html", upgrade_page(self.found, shlex.join([*words, *task, "--out", str(out)])))
        write_text(out / "table.md", upgrade_markdown(self.found))
        write_text(out / "upgrade.json", json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n")


def _flat(record: UpgradeRecord) -> dict[str, Any]:
    values = record.model_dump(exclude={"content", "written", "gain", "change"})
    for name in ("gain", "change"):
        span = getattr(record, name)
        values |= {f"{name}{end}": getattr(span, part, None) for end, part in _ENDS}
    return values


_ENDS = (("", "estimate"), ("_low", "low"), ("_high", "high"))
