"""The entry point of ``python -m peftport.lm_eval``: the harness's own command line, where ``peftport`` is a model."""

from __future__ import annotations

from peftport import cli
from peftport.core.errors import PeftportError
from peftport.lm_eval import register


def main() -> None:
    """Run lm-evaluation-harness. What peftport refuses ends in one line, as on its own command line."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except PeftportError as error:
        cli.fail(str(error), error.exit_code)


if __name__ == "__main__":
    main()
