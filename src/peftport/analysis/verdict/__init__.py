"""From measures to an answer: the choice, the sentence a person needs, and what following it would cost in score."""

from __future__ import annotations

from peftport.analysis.verdict.regret import regret_report
from peftport.analysis.verdict.verdicts import verdicts

__all__ = ["regret_report", "verdicts"]
