"""Measures of a table of runs: what a study's ledger, or one comparison, becomes before it is drawn or judged."""

from __future__ import annotations

from peftport.measures.aggregates import aggregates
from peftport.measures.curves import curves
from peftport.measures.declared import Declared
from peftport.measures.directions import directions
from peftport.measures.evidence import Evidence
from peftport.measures.gains import gains
from peftport.measures.pooled import pooled
from peftport.measures.retention import retention
from peftport.measures.savings import savings

__all__ = ["Declared", "Evidence", "aggregates", "curves", "directions", "gains", "pooled", "retention", "savings"]
