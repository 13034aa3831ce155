"""The environment of the `adapters` library: where it is, the hosts it gets, and how it is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from peftport.hosts.host import Host

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("PEFTPORT_ORACLE_PYTHON", ROOT / ".oracle-venv" / "bin" / "python"))


def need_oracle() -> None:
    """Fail, not skip, where there is no oracle."""
    if not ORACLE.is_file():
        pytest.fail(
            f"{ORACLE}: expected the interpreter of the adapters library, found none; "
            "run `make oracle`, or name one in PEFTPORT_ORACLE_PYTHON",
            pytrace=False,
        )


def ask_library(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of tools/ in the library's environment on a folder of requests."""
    command = [str(ORACLE), str(ROOT / "tools" / script), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def save_host(host: Host, out: Path) -> None:
    model: Any = host.model
    model.save_pretrained(out)
    path = out / "config.json"
    config = json.loads(path.read_text())
    if "scale_decoder_outputs" in config:  # transformers 5's word for what 4.57 tells by the tied head
        config["tie_word_embeddings"] = config["scale_decoder_outputs"]
    if config["model_type"] == "mt5":  # whose outputs transformers 5 scales never
        config["tie_word_embeddings"] = False
    path.write_text(json.dumps(config))
