"""How much threads do at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Lets threads in while what they do costs no more together than a limit; what costs more is done alone.

    Args:
        limit: in the unit of the costs.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, cost: int) -> Iterator[None]:
        """Waits until there is room, and gives it back at the end."""
        cost = min(cost, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + cost <= self.limit)
            self._taken += cost
        try:
            yield
        finally:
            with self._changed:
                self._taken -= cost
                self._changed.notify_all()
