"""Examine a port before it is made: what fits, how similar the hosts are, what recorded ports predict, what to use.

`slots`, `likeness` and `host_comparison` compare the two hosts, `methods` lists every method with its needs and its
record, `choice` picks one, and `check` puts all of it together.
"""

from __future__ import annotations

from peftport.workflows.checking.check import PortCheck, check_port
from peftport.workflows.checking.choice import MethodChoice
from peftport.workflows.checking.host_comparison import FoundOrigin, find_origin
from peftport.workflows.checking.methods import AvailableInputs, method_checks

__all__ = ["PortCheck", "MethodChoice", "AvailableInputs", "FoundOrigin", "check_port", "find_origin", "method_checks"]
