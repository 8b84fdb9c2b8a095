"""Ctrl-C: whatever a command is at, it ends with exit code 130 and one line, without a traceback."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CODE = 128 + signal.SIGINT

PARENT = "LIGHTNING_DET_PARENT"
"""Environment variable: the process that started this one. Its end is this one's, and it says what there is to say."""

GENERAL = "a training goes on with resume=RUN_FOLDER, everything else starts anew"


class _Command:
    """What this process does."""

    process: int | None = None
    """Its number. Processes that it forks, as loaders do, inherit the handler and leave Ctrl-C to it."""
    runs = False
    """Whether there is something to be cleaned up."""
    interrupted = False
    hint: Callable[[], str | None] = staticmethod(lambda: None if PARENT in os.environ else GENERAL)
    """How it goes on; None says nothing, as another process does."""


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed; libraries turn its exception into others."""
    return _Command.interrupted


def set_hint(words: Callable[[], str | None]) -> None:
    """Sets what will be said."""
    _Command.hint = staticmethod(words)


def install_handler() -> None:
    """Has Ctrl-C end this process at once and in one line, as long as nothing runs that `clean_exit` surrounds."""
    if threading.current_thread() is threading.main_thread():
        _Command.process = os.getpid()
        signal.signal(signal.SIGINT, signal.SIG_IGN if started_by_lightning() else _handle)


def started_by_lightning() -> bool:
    """Whether Lightning has started this process for its first rank, which ends it."""
    return any(a.startswith("hydra.job.name=train_ddp_process_") for a in sys.argv)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Has Ctrl-C raise `KeyboardInterrupt` within, so that everything is left in order; a second one does not wait.

    Raises:
        SystemExit: with 130 after Ctrl-C, whatever came of it.
    """
    before = signal.getsignal(signal.SIGINT)
    general, _Command.interrupted, _Command.runs = _Command.hint, False, True
    install_handler()
    try:
        yield
    except BaseException:
        if not was_interrupted():
            raise
    finally:
        _Command.runs = False
        if was_interrupted():
            install_handler()  # Lightning ignores Ctrl-C from then on
        elif threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
            _Command.hint = staticmethod(general)
    if was_interrupted():
        _say()
        sys.exit(CODE)


def _handle(number: int, frame: object) -> None:
    if os.getpid() != _Command.process:
        return
    if not _Command.runs or _Command.interrupted:
        _say()
        os._exit(CODE)
    _Command.interrupted = True
    raise KeyboardInterrupt


def _say() -> None:
    words = _Command.hint()
    if words is not None:
        os.write(2, f"interrupted; {words}\n".encode())
        _Command.hint = staticmethod(lambda: None)
