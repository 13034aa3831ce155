"""From measures to an answer: what to do, the sentence that says it, and what a rule for choosing would have cost.

`table` collects the comparisons of each setting, `choice` decides, `sentence` words the decision, and `regret`
judges rules for choosing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftport.core.libraries import when_used

if TYPE_CHECKING:
    from peftport.analysis.verdict.regret import regret_report as regret_report
    from peftport.analysis.verdict.table import verdicts as verdicts

PLACES = {"peftport.analysis.verdict.regret": ("regret_report",), "peftport.analysis.verdict.table": ("verdicts",)}
__getattr__ = when_used(__name__, PLACES)
