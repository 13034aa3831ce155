"""What joining the parts of a study returns, in Python and on the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from peftport.api.result import Result
from peftport.core.libraries import pl
from peftport.study.joining import JoinedStudy


@dataclass(frozen=True, eq=False, repr=False)
class Joined(Result):
    """What came of joining parts of a study, and what is missing."""

    outcome: JoinedStudy

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs in the new folder by state: done, failed, blocked, left."""
        return dict(self.outcome.states)

    def __str__(self) -> str:
        joined, shared = self.outcome, self.outcome.shared
        both = f"; {shared} jobs were in several folders, with equal results" if shared else ""
        counts = ", ".join(f"{n} {state}" for state, n in joined.states.items())
        return f"{joined.study}: {len(joined.parts)} folders joined in {joined.out}, {counts}{both}"

    def lines(self) -> list[str]:
        """Return the counts, and what is missing: by shard if it is known, and by cell of the grid."""
        cells = [
            f"missing: {each.runs} runs, {f'{each.technique} ' if each.technique else ''}{each.arm} on "
            f"{each.receiver}, {each.receiver_task}"
            for each in self.outcome.missing
        ]
        return [str(self), *self.outcome.shards, *cells]

    def remarks(self) -> list[str]:
        """Return the folders that add nothing, such as a shard that is there twice."""
        return [
            f"{part.folder} adds nothing: other folders have all of its {part.jobs} jobs, with equal results"
            for part in self.outcome.parts
            if part.jobs and not part.new
        ]

    def failure(self) -> str | None:
        """Return how many runs are missing and how many jobs failed, and what to do."""
        missing, states = sum(each.runs for each in self.outcome.missing), self.outcome.states
        again = f"peftport study run STUDY.toml --dir {self.outcome.out}"
        if missing:
            first = f", {self.outcome.shards[0]}" if self.outcome.shards else ""
            return f"{missing} runs are missing{first}; join what has them, or do them there: {again}"
        if states["failed"] or states["blocked"]:
            return f"{states['failed']} jobs failed, {states['blocked']} could not begin; {again} --retry-failed"
        return None

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each folder that was joined."""
        return pl.DataFrame([asdict(part) for part in self.outcome.parts])

    def document(self) -> dict[str, Any]:
        """Return the counts, the folders, and what is missing."""
        joined = self.outcome
        return {
            "study": joined.study, "out": str(joined.out), **joined.states, "shared": joined.shared,
            "folders": [asdict(part) for part in joined.parts], "missing": [asdict(each) for each in joined.missing],
            "shards": list(joined.shards),
        }  # fmt: skip
