"""Who does the same work as we do, for which technique on which kind of host, and why not for the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from work import Done, Texts, Work

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ORACLE = Path(os.environ.get("PEFTPORT_ORACLE_PYTHON", ROOT / ".oracle-venv" / "bin" / "python"))
TECHNIQUES = ("lora", "adapter", "compacter", "prefix")


@dataclass(frozen=True)
class Contestant:
    """A script, the Python that runs it, and the number format of its products."""

    name: str
    title: str
    script: str
    python: Path
    numbers: str = "float32"

    def can(self, technique: str, kind: str) -> str | None:
        """None where it has the same technique on such hosts, else why not."""
        if not self.python.exists():
            return "no environment of the adapters library here (make oracle)"
        if self.script in ("ours.py", "adapters_trainer.py") or technique == "lora":
            return None
        if technique == "prefix":
            return None if kind == "encoder" else "peft's prefix reaches only the decoder of an encoder-decoder"
        return f"peft has no {technique}"

    def do(self, work: Work, threads: int) -> list[Done]:
        """Run the script on the work, in a process of its own."""
        with tempfile.TemporaryDirectory() as home:
            given, found = Path(home) / "work.json", Path(home) / "done.json"
            given.write_text(json.dumps(asdict(replace(work, numbers=self.numbers))), encoding="utf-8")
            command = [str(self.python), str(HERE / self.script), str(given), str(found)]
            done = subprocess.run(command, env=_environment(threads), capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{self.script} failed on {work.technique}, {work.host}:\n{done.stderr[-3000:]}")
            rows: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
        for row in rows:
            row["accuracy"] = {int(point): value for point, value in row["accuracy"].items()}
        return [Done(**row) for row in rows]


SIDES = (
    Contestant("ours", "peftport, one entry", "ours.py", Path(sys.executable)),
    Contestant("trainer", "peft + transformers.Trainer", "trainer.py", Path(sys.executable)),
    Contestant("lean", "peft + a lean loop", "lean.py", Path(sys.executable)),
    Contestant("adapters_trainer", "adapters + AdapterTrainer", "adapters_trainer.py", ORACLE),
)
CONTESTANTS = tuple(
    replace(side, name=f"{side.name}{mark}", title=f"{side.title}{said}", numbers=numbers)
    for side in SIDES
    for numbers, mark, said in (("float32", "", ""), ("bfloat16", "_bfloat16", ", bfloat16"))
)


def _environment(threads: int) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return plain | {
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def make_work(host: str, technique: str, task: str, items: int, batch_size: int, max_tokens: int) -> Work:
    """Everything a contestant must know, but for the runs; texts as our readout tokenises them."""
    from peftport.objectives.label_tokens import LabelTokens
    from peftport.tasks import load_task
    from peftport.techniques import make_spec, technique_named
    from peftport.training.bound_task import bind_task
    from peftport.training.loop import TrainSettings

    settings = TrainSettings(batch_size=batch_size, max_tokens=max_tokens)
    bound_task = bind_task(host, load_task(task), settings=settings, test_items=items)
    readout, loaded = bound_task.readout, bound_task.host
    assert loaded.kind in ("encoder", "encoder_decoder"), "the peers read labels of these two kinds of host"
    labels = readout.labels if isinstance(readout, LabelTokens) else readout.encode(bound_task.task.spec.descriptions)
    train, test = bound_task.train_split, bound_task.test_split
    return Work(
        host=host,
        folder=str(loaded.folder),
        kind=loaded.kind,
        technique=technique,
        settings=make_spec(technique).model_dump(mode="json", exclude={"kind"}),
        learning_rate=technique_named(technique).learning_rates[loaded.kind],
        batch_size=batch_size,
        max_grad_norm=settings.max_grad_norm,
        train=Texts([list(row) for row in train.rows], train.targets.tolist()),
        test=Texts([list(row) for row in test.rows], test.targets.tolist()),
        label_rows=[list(row) for row in labels],
        pad_id=loaded.tokenizer.pad_token_id,
        start_id=getattr(loaded.config, "decoder_start_token_id", None) or 0,
        task=task,
        items=items,
        max_tokens=max_tokens,
        runs=[],
    )
