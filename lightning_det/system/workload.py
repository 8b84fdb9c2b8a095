"""Progress bars for long loops, and the number of processor cores."""

import os
from collections.abc import Iterable
from typing import TypeVar

from rich.markup import escape
from rich.progress import track

from lightning_det.system.errors import one_line

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int, threshold: int = 500) -> Iterable[Item]:
    """Shows a progress bar while ``items`` are iterated, if there are at least ``threshold`` of them."""
    if total < threshold:
        return items
    return track(items, escape(one_line(description)), total=total, transient=True)


def cores() -> int:
    """Counts the processor cores that this process may use."""
    # macOS and Windows cannot bind a process to cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
