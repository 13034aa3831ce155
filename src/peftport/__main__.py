"""The entry point of ``python -m peftport`` and the script ``peftport``.

It sets up signals and streams before it imports anything slow.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from peftport.core import stopping


def main() -> None:
    """Run the command line. However often it is interrupted, it ends with one line and exit code 130."""
    stopping.begin()
    try:
        _open_streams()
        from peftport.cli import main as run

        run()
    except BaseException:
        # Asked to stop, this is how it ended, whatever a library made of the interruption; cli.main says the line.
        if not stopping.asked() or isinstance(sys.exc_info()[1], SystemExit):
            raise
        _say_interrupted()
    finally:
        stopping.ignored()


def _say_interrupted() -> None:
    with suppress(OSError):  # the terminal is gone
        print(f"peftport: {stopping.TOLD}", file=sys.stderr, flush=True)
    sys.exit(stopping.INTERRUPTED)


def _open_streams() -> None:
    """Give closed standard streams a place to go, or the next file opened would take their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is the closed one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show


if __name__ == "__main__":
    main()
