"""From measures to an answer: what to do, the sentence that says it, and what a rule for choosing would have cost.

`verdicts` collects the comparisons of each setting, `choice` decides, `sentence` words the decision, and `regret`
judges rules for choosing.
"""

from __future__ import annotations

from peftport.analysis.verdict.regret import regret_report
from peftport.analysis.verdict.verdicts import verdicts

__all__ = ["regret_report", "verdicts"]
