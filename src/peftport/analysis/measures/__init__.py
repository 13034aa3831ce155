"""Measures of a table of runs, which reports draw and verdicts judge.

`Evidence` indexes the runs of a study or a comparison, `Declared` says how they are judged, and each measure is a
function of the evidence that returns a table.
"""

from __future__ import annotations

from peftport.analysis.measures.aggregates import aggregates
from peftport.analysis.measures.curves import curves
from peftport.analysis.measures.declared import Declared
from peftport.analysis.measures.directions import directions
from peftport.analysis.measures.evidence import Evidence
from peftport.analysis.measures.gains import gains
from peftport.analysis.measures.lifts import lifts
from peftport.analysis.measures.pooled import pooled
from peftport.analysis.measures.retention import retention
from peftport.analysis.measures.savings import savings

__all__ = [
    "Declared", "Evidence", "aggregates", "curves", "directions", "gains", "lifts", "pooled", "retention", "savings",
]  # fmt: skip
