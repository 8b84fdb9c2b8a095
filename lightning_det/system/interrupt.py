"""Ctrl-C ends a command with exit code 130 and one line, without a traceback, whatever the command is doing."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CODE = 128 + signal.SIGINT

PARENT = "LIGHTNING_DET_PARENT"
"""Environment variable: the id of the process that started this one, ends it, and prints its messages."""

GENERAL = "a training goes on with resume=RUN_FOLDER, everything else starts anew"


def _general_hint() -> str | None:
    """Returns the hint of a command that has not set its own."""
    return None if PARENT in os.environ else GENERAL


def _no_hint() -> None:
    return None


class _Command:
    """The state of this process."""

    process: int | None = None
    """Its process id. Forked processes, such as loaders, inherit the handler, but leave Ctrl-C to this process."""
    runs = False
    """Whether it is inside `clean_exit`."""
    interrupted = False
    hint: Callable[[], str | None] = staticmethod(_general_hint)
    """Returns the hint to print. None: print nothing, because another process does."""


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed. Libraries turn `KeyboardInterrupt` into other exceptions."""
    return _Command.interrupted


def hint() -> str | None:
    """How to go on after the end of this process; None if another process says it."""
    return _Command.hint()


def set_hint(hint: Callable[[], str | None]) -> None:
    """Sets what Ctrl-C prints about how to go on; None prints nothing."""
    _Command.hint = staticmethod(hint)


def install_handler() -> None:
    """Lets Ctrl-C end this process at once with one line, except inside `clean_exit`."""
    if threading.current_thread() is threading.main_thread():
        _Command.process = os.getpid()
        signal.signal(signal.SIGINT, signal.SIG_IGN if is_started_by_lightning() else _handle)


def is_started_by_lightning() -> bool:
    """Whether Lightning's first rank has started this process, and will end it.

    Lightning marks these processes by Hydra's job name only. Checked with Lightning 2.6;
    `tests/callbacks/test_private_lightning.py` fails when that changes.
    """
    return any(a.startswith("hydra.job.name=train_ddp_process_") for a in sys.argv)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Lets Ctrl-C raise `KeyboardInterrupt` in the body, so everything is cleaned up. A second Ctrl-C does not wait.

    Raises:
        SystemExit: with 130 after Ctrl-C, even if a library raised another exception.
    """
    before = signal.getsignal(signal.SIGINT)
    outer_hint, _Command.interrupted, _Command.runs = _Command.hint, False, True
    install_handler()
    try:
        yield
    except BaseException:
        if not was_interrupted():
            raise
    finally:
        _Command.runs = False
        if was_interrupted():
            install_handler()  # Lightning ignores Ctrl-C after the first one
        elif threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
            set_hint(outer_hint)
    if was_interrupted():
        _print_hint()
        sys.exit(CODE)


def _handle(number: int, frame: object) -> None:
    if os.getpid() != _Command.process:
        return
    if not _Command.runs or _Command.interrupted:
        _print_hint()
        os._exit(CODE)
    _Command.interrupted = True
    raise KeyboardInterrupt


def _print_hint() -> None:
    """Prints the hint once."""
    hint = _Command.hint()
    if hint is not None:
        os.write(2, f"interrupted; {hint}\n".encode())
        set_hint(_no_hint)
