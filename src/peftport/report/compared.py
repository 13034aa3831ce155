"""Comparisons as findings, so that ``compare`` and ``demo`` have the same page as a study.

All numbers come from the one analysis of the comparisons (workflows.compare_tables). A comparison does not train a
ceiling, so it has learning curves, gains and verdicts, but no retention, savings or directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from peftport.core.environment import installed_versions, this_machine
from peftport.core.libraries import pl
from peftport.metrics.choice import items_text
from peftport.report.findings import Findings, frame
from peftport.report.html import render
from peftport.report.tables import comparison_sentence, few_shot_sentence, reference_sentences
from peftport.workflows.compare_tables import BARE_ARM, CEILING, ComparisonAnalysis
from peftport.workflows.demo import Demo


def comparison_findings(
    analysis: ComparisonAnalysis, *, study: str, about: str, command: str, notes: Sequence[str] = ()
) -> Findings:
    """The findings of the analysis of comparisons on one receiver and task."""
    seeds, judged = analysis.first.plan.seeds, analysis.judged
    beside = few_shot_sentence(analysis)
    answers = [asdict(answer) for answer in analysis.first.answers]
    runs = analysis.frames.runs.filter(~pl.col("arm").is_in([CEILING, BARE_ARM]))
    return Findings(
        study=study,
        about=about,
        command=command,
        versions=installed_versions(),
        machine=this_machine(),
        seeds=seeds,
        headlines=(
            comparison_sentence(analysis),
            *filter(None, [beside]),
            *reference_sentences(analysis),
            *analysis.verdicts["sentence"],
        ),
        scale=f"{len(seeds)} seeds and {items_text(judged, analysis.first.bare)}; intervals are over both.",
        notes=(*notes, *([judged.note + "."] if judged.note else [])),
        metric=judged.name,
        runs=runs,
        curves=analysis.curves,
        gains=analysis.gains,
        verdicts=analysis.verdicts,
        answers=frame("answers", answers),
    )


def comparison_page(analysis: ComparisonAnalysis, command: str) -> str:
    """One comparison as a page."""
    first = analysis.first
    about = f"A {first.technique} module from {first.origin}, ported to {first.receiver}, on {first.task}."
    return render(comparison_findings(analysis, study="peftport compare", about=about, command=command))


def demo_findings(demo: Demo) -> Findings:
    """The demonstration as findings."""
    s, asked = demo.settings, demo.analysis.first.plan.metric
    home = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in demo.origin_accuracy.items())
    return comparison_findings(
        demo.analysis,
        study="peftport demo",
        about=f"A module of each technique, trained on {s.origin} for {s.origin_steps} steps and copied to "
        f"{s.receiver}, against parameters sampled from the same distribution and against training from scratch, "
        f"on {s.task}.",
        command=f"peftport demo --metric {asked}" if asked else "peftport demo",
        notes=(
            f"Accuracy at home, on {s.origin}: {home}; the bare {s.origin} scores {demo.origin_bare:.3f}.",
            "Sampled modules are normal with each matrix's mean and standard deviation.",
            "All arms of one seed see the same batches; every arm of a technique trains at the same learning rate.",
        ),
    )
