"""Progress bars for long loops, pauses of the garbage collector, and the number of processor cores."""

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.markup import escape
from rich.progress import track

from lightning_det.system.errors import one_line

Item = TypeVar("Item")

CONTAINER = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Files of Linux with the limit of a container's memory and what it uses, in both versions of control groups."""


def progress(items: Iterable[Item], description: str, total: int, threshold: int = 500) -> Iterable[Item]:
    """Shows a progress bar while ``items`` are iterated, if there are at least ``threshold`` of them."""
    if total < threshold:
        return items
    return track(items, escape(one_line(description)), total=total, transient=True)


@contextmanager
def without_collections() -> Iterator[None]:
    """Pauses the garbage collector, which looks at all objects again and again where many small ones are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def available_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, or of the container that it runs in."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    for limit, used in CONTAINER:
        with suppress(OSError, ValueError):  # no container, or one without a limit
            available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(0, available)


def cores() -> int:
    """Counts the processor cores that this process may use."""
    # macOS and Windows cannot bind a process to cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
