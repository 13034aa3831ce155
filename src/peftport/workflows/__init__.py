"""The jobs that users start, one file for each: train, evaluate, port, check, compare, distill, update a host.

Each job takes a request (`requests`) and returns a result. The Python interface and the command line both call these
functions and contain no logic of their own. A job is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftport.core.libraries import when_used

if TYPE_CHECKING:
    from peftport.workflows.check import check_module as check_module
    from peftport.workflows.compare import compare_module as compare_module
    from peftport.workflows.continued_pretraining import update_host as update_host
    from peftport.workflows.demo import run_demo as run_demo
    from peftport.workflows.evaluate import evaluate_host as evaluate_host
    from peftport.workflows.gguf import write_gguf as write_gguf
    from peftport.workflows.merge import merge_module as merge_module
    from peftport.workflows.port import port_module as port_module
    from peftport.workflows.train import train_module as train_module
    from peftport.workflows.upgrade import push_upgrade as push_upgrade
    from peftport.workflows.upgrade import upgrade_modules as upgrade_modules

JOBS = {
    "peftport.workflows.check": ("check_module",),
    "peftport.workflows.compare": ("compare_module",),
    "peftport.workflows.continued_pretraining": ("update_host",),
    "peftport.workflows.demo": ("run_demo",),
    "peftport.workflows.evaluate": ("evaluate_host",),
    "peftport.workflows.gguf": ("write_gguf",),
    "peftport.workflows.merge": ("merge_module",),
    "peftport.workflows.port": ("port_module",),
    "peftport.workflows.train": ("train_module",),
    "peftport.workflows.upgrade": ("push_upgrade", "upgrade_modules"),
}
__getattr__ = when_used(__name__, JOBS)
