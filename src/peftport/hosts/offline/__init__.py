"""Hosts and texts that install from Python packages, for machines that cannot reach the hub."""
