"""Before a port: what fits, how alike the hosts are, what recorded ports foretell, and which method to use."""

from __future__ import annotations

from peftport.workflows.checking.check import PortCheck, check_port
from peftport.workflows.checking.choice import MethodChoice
from peftport.workflows.checking.host_comparison import FoundOrigin, find_origin
from peftport.workflows.checking.methods import AvailableInputs, method_checks

__all__ = ["PortCheck", "MethodChoice", "AvailableInputs", "FoundOrigin", "check_port", "find_origin", "method_checks"]
