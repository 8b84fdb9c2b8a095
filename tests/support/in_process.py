"""Commands in the test's own process."""

import contextlib
import importlib
import io
import logging
import sys
from typing import NamedTuple

from lightning_det.runs import sweep


class Outcome(NamedTuple):
    code: int
    output: str
    errors: str


def run(command: str, *arguments: str) -> Outcome:
    """Runs a command as ``python -m`` does, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    before, code = (sys.argv, logging.root.handlers[:]), 0
    sys.argv = [f"lightning_det.{command}", *arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            importlib.import_module(f"lightning_det.{command}").main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, logging.root.handlers[:] = before
        sweep.BEFORE.clear()  # a process has one sweep, whose table every later command would print
        sweep.JOBS.clear()
    return Outcome(code, output.getvalue(), errors.getvalue())
