"""Hosts and texts that install as Python packages, for machines that reach no hub."""
