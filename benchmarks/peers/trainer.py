"""Peer (a): `peft` and `transformers.Trainer` as a careful user sets them.

python trainer.py WORK.json RESULT.json
"""

from __future__ import annotations

from hf_loop import all_runs
from transformers import Trainer
from with_peft import fresh_classifier
from work import read_work, write_done

if __name__ == "__main__":
    write_done(all_runs(read_work(), fresh_classifier, Trainer))
