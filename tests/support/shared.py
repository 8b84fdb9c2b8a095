"""Folders that one test process fills for all."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def common_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of temporary files that all workers of pytest-xdist have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], str | None]) -> tuple[Path, str]:
    """Fills a folder once, whichever worker comes first; the others wait for it.

    Args:
        factory: pytest's ``tmp_path_factory``.
        name: of the folder; tests must leave its files as they are.
        make: fills the folder, which does not exist yet, and may return a text.

    Returns:
        The folder, and the text.
    """
    root = common_folder(factory)
    folder, text = root / name, root / f"{name}.txt"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not text.exists():
            text.write_text(make(folder) or "")
    return folder, text.read_text()
