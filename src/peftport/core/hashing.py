"""Name things by their content: canonical JSON and its sha256. Also: random generators by seed and role."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, without spaces and NaN, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 (64 hexadecimal digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def rng_for(seed: int, *role: str | int) -> np.random.Generator:
    """Return the random generator for one role of a seed (``"order"``, ``"initialisation"``, ``"sampling"``, ...).

    Roles are independent streams: arms that share a seed see the same data order whatever else they draw.
    """
    words = hashlib.sha256(canonical_json([seed, *role]).encode()).digest()
    return np.random.default_rng(np.frombuffer(words, dtype=np.uint32).tolist())
