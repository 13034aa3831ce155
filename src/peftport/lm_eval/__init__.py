"""lm-evaluation-harness: a host with a module on it as a model that `lm_eval` tests, under the name ``peftport``.

    python -m peftport.lm_eval --model peftport --model_args host=HOST,module=FOLDER --tasks TASK
    import peftport.lm_eval         registers the name, for `lm_eval.simple_evaluate(model="peftport", ...)`

The model itself (`peftport.lm_eval.model`) is imported when it is asked for.
"""

from contextlib import suppress

from peftport.core.errors import BadRequest

NAME = "peftport"


def register() -> None:
    """Make the name known to the harness.

    Raises:
        BadRequest: lm-evaluation-harness is not installed, or is older than 0.4.13.

    """
    try:
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise BadRequest(
            f"lm_eval: expected lm-evaluation-harness 0.4.13 or later, got: {error}; pip install 'lm_eval>=0.4.13'"
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="peftport.lm_eval.model:PortedLM")


with suppress(BadRequest):  # whoever goes on calls lm_eval, or `register`, which says that it is missing
    register()
