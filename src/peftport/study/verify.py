"""Do the committed rows come out again? Recompute some runs from nothing, in their planned company, and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peftport.errors import BadRequest
from peftport.identity import rng_for
from peftport.progress import Progress
from peftport.store.artifacts import Artifacts
from peftport.store.held import HeldFolder
from peftport.store.ledger import Ledger
from peftport.study.executors import Executor
from peftport.study.export import Exported, differences, export
from peftport.study.plan import Plan
from peftport.study.run import run_study


@dataclass(frozen=True)
class Verified:
    """One recomputed run: how far its accuracy is from the recorded one, and on how many items they differ."""

    run: str
    accuracy_difference: float
    items_that_differ: int


def verify(
    plan: Plan,
    recorded: Exported,
    sample: int,
    seed: int,
    executor_for: Callable[[], Executor],
    progress: Progress | None = None,
) -> list[Verified]:
    """Recompute ``sample`` random runs from nothing and compare them with the recorded tables.

    Raises:
        BadRequest: there are not so many recorded runs.

    """
    done = set(recorded.runs.filter(recorded.runs["state"] == "done")["run"])
    runs = [run for run in plan.runs() if run.name in done]
    if not 1 <= sample <= len(runs):
        raise BadRequest(f"--sample: expected 1 to {len(runs)}, the recorded runs of this study, got {sample}")
    picks = sorted(rng_for(seed, "verify").choice(len(runs), size=sample, replace=False).tolist())
    part = plan.part([runs[i] for i in picks])
    with HeldFolder("verify") as home:
        ledger, artifacts = Ledger(Path(home)), Artifacts(Path(home) / "artifacts")
        try:
            run_study(part, ledger, artifacts, executor_for(), progress=progress)
            again = export(part, ledger, artifacts)
        finally:
            ledger.close()
    names = [run.name for run in part.runs()]
    return [Verified(*found) for found in differences(again, recorded, names)]
