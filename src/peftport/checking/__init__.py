"""Before a port: what fits, how alike the hosts are, what recorded ports foretell, and which method to use."""

from __future__ import annotations

from peftport.checking.check import Checked, check
from peftport.checking.choice import Choice
from peftport.checking.kinship import Origin, find_origin
from peftport.checking.methods import Offered, method_checks

__all__ = ["Checked", "Choice", "Offered", "Origin", "check", "find_origin", "method_checks"]
