"""What the commands return that make a module ready for use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftport.api.following import known_task
from peftport.api.result import Result
from peftport.modules.module import fold_remarks
from peftport.workflows.gguf import GgufFile
from peftport.workflows.merge import HEAD_FILE, MergedModel
from peftport.workflows.merge_requests import GgufRequest, MergeRequest

WORTH_SAYING = 0.01  # relative to the update


@dataclass(frozen=True, eq=False, repr=False)
class Merged(Result):
    """A whole model with a module folded into its weights."""

    request: MergeRequest
    found: MergedModel

    @property
    def out(self) -> Path:
        """The new model's folder."""
        return Path(self.request.out)

    def __str__(self) -> str:
        made = self.found
        return (
            f"{self.out}: {made.host} with the {made.module.spec.kind} of {self.request.module} folded in; "
            f"{made.changed} of {made.tensors} tensors changed"
        )

    def document(self) -> dict[str, Any]:
        """The folder, what was folded into what, and what rounding lost of it."""
        made = self.found
        return {
            "out": str(self.out), "host": made.host, "module": str(self.request.module),
            "technique": made.module.spec.kind, "files": list(made.files), "changed": made.changed,
            "tensors": made.tensors, "rounding": made.rounding, "readout": HEAD_FILE if made.readout else None,
        }  # fmt: skip

    def remarks(self) -> list[str]:
        """What rounding lost, if it is worth saying, where the module's head is, and what folding a file lost."""
        said = []
        if self.found.rounding > WORTH_SAYING:
            said.append(
                f"rounding to the number format of the weights changed the update by {self.found.rounding:.1%} of its "
                "norm; --dtype float32 keeps it"
            )
        if self.found.readout:
            said.append(
                f"the module's {self.found.readout} is in {self.out / HEAD_FILE}, where transformers does not read it"
            )
        return [*said, *fold_remarks(self.found.module)]

    def next_words(self) -> tuple[str, ...]:
        """The test of the new model on the module's task, if that can be had by its name; else what it is as a host."""
        recorded = self.found.module.task
        task = known_task(recorded.name if recorded is not None else None)
        return ("hosts", "show", str(self.out)) if task is None else ("evaluate", str(self.out), task)


@dataclass(frozen=True, eq=False, repr=False)
class WrittenGguf(Result):
    """A LoRA in a GGUF file for llama.cpp."""

    request: GgufRequest
    found: GgufFile

    def __str__(self) -> str:
        made = self.found
        return f"{self.request.out}: the lora of {self.request.module} for a {made.architecture} of llama.cpp"

    def document(self) -> dict[str, Any]:
        """The file, its size in bytes, and the architecture as llama.cpp calls it."""
        made = self.found
        return {
            "out": str(self.request.out), "host": made.host, "module": str(self.request.module),
            "architecture": made.architecture, "size_bytes": made.size_bytes, "readout_left_out": made.lost_readout,
        }  # fmt: skip

    def remarks(self) -> list[str]:
        """What was left out, and how far the module is from the file that it was folded from."""
        lost = ["the module's head is left out: GGUF has no place for it"] if self.found.lost_readout else []
        return [*lost, *fold_remarks(self.found.module)]
