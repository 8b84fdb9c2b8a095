"""Greedy choice of the fewest chips that enclose all boxes (SNIPER, section 3.1).

The reference code scores every position of a grid. But the positions that enclose a box form an interval along each
axis, so it suffices to look at spans of positions whose set of boxes is locally maximal: only a few, however large the
image. Sets of boxes are bits of Python integers, which are faster than arrays at these sizes.
"""

from collections.abc import Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from math import ceil, floor
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-6
"""Pixels by which rounding may separate the border of a chip from the same border of a box."""


class Span(NamedTuple):
    """Neighbouring positions along one axis that enclose the same boxes."""

    first: int
    last: int
    boxes: int
    """Bit i is set for box i."""


class Chip(NamedTuple):
    """A chosen chip, pixels of the resized image."""

    x: float
    y: float
    gain: int
    """Number of its boxes that no earlier chip encloses."""
    boxes: list[int]
    """Positions, in the list of boxes, of all boxes that it encloses."""


def count_positions(length: float, size: float, stride: float) -> int:
    """Counts positions of a chip along one axis: every ``stride`` pixels from 0, the last one flush with the end."""
    return 1 + max(0, ceil((length - size - TOLERANCE) / stride))


def position(number: int, length: float, size: float, stride: float) -> float:
    """Converts the number of a position to the smallest coordinate of the chip there."""
    end = length - size
    return min(number * stride, end) if end > 0 else 0.0


def is_enclosable(
    low: np.ndarray, high: np.ndarray, length: np.ndarray | float, size: float, stride: np.ndarray | float
) -> np.ndarray:
    """Whether some position along one axis encloses each box: (n,) bool.

    Arguments as in `find_spans`; ``length`` and ``stride`` may differ by box.
    """
    last = np.maximum(0, np.ceil((length - size - TOLERANCE) / stride))
    first = np.clip(np.ceil((high - size - TOLERANCE) / stride), 0, last)
    flush = low + TOLERANCE >= length - size
    return first <= np.where(flush, last, np.floor((low + TOLERANCE) / stride))


def find_spans(low: Sequence[float], high: Sequence[float], length: float, size: float, stride: float) -> list[Span]:
    """Finds spans of positions, along one axis, whose set of boxes is not a subset of a neighbouring span's.

    Args:
        low: smallest coordinate of each box.
        high: largest coordinate of each box.
        length: side of the resized image.
        size: side of a chip.
        stride: distance of candidate positions.
    """
    last = count_positions(length, size, stride) - 1
    if last == 0:
        return [Span(0, 0, (1 << len(low)) - 1)] if low else []
    reach, end, bit = size + TOLERANCE, length - size, 1
    starts: dict[int, int] = {}
    stops: dict[int, int] = {}
    for a, b in zip(low, high, strict=True):
        first = min(last, ceil((b - reach) / stride)) if b > reach else 0
        # The last position is flush with the end, closer to its neighbour than a stride.
        final = last if a + TOLERANCE >= end else floor((a + TOLERANCE) / stride)
        if first <= final:
            starts[first] = starts.get(first, 0) | bit
            stops[final] = stops.get(final, 0) | bit
        bit <<= 1
    found: list[Span] = []
    inside, begun = 0, None
    for number in sorted(starts.keys() | stops.keys()):
        if number in starts:
            inside |= starts[number]
            begun = number
        if number in stops:
            if begun is not None:
                found.append(Span(begun, number, inside))
                begun = None
            inside &= ~stops[number]
    return found


def cover(
    boxes: Sequence[Sequence[float]],
    width: float,
    height: float,
    size: float,
    stride: float,
    rng: np.random.Generator,
    more_than: int = 0,
) -> list[Chip]:
    """Chooses chips one by one, each time the one that encloses the most boxes that are not yet enclosed.

    Ties are broken at random, and a position is drawn from those that enclose the same boxes.

    Args:
        boxes: ``xyxy``, pixels of the resized image, inside it.
        width: of the resized image.
        height: of the resized image.
        size: side of the square chips.
        stride: between candidate positions.
        rng: breaks ties and draws positions.
        more_than: a chip must add more boxes than this.

    Returns:
        Chips by falling gain. A box that no position encloses is in no chip.
    """
    x1, y1, x2, y2 = zip(*boxes, strict=True) if len(boxes) else ([], [], [], [])
    columns = find_spans(x1, x2, width, size, stride)
    rows = find_spans(y1, y2, height, size, stride)
    candidates = [(c, r, c.boxes & r.boxes) for c in columns for r in rows if c.boxes & r.boxes]
    chosen = _choose(candidates, more_than, rng)
    draws = rng.random((len(chosen), 2)).tolist()
    return [
        Chip(
            position(column.first + int(u * (column.last - column.first + 1)), width, size, stride),
            position(row.first + int(v * (row.last - row.first + 1)), height, size, stride),
            gain,
            list(bits(inside)),
        )
        for (column, row, inside, gain), (u, v) in zip(chosen, draws, strict=True)
    ]


def _choose(
    candidates: list[tuple[Span, Span, int]], more_than: int, rng: np.random.Generator
) -> list[tuple[Span, Span, int, int]]:
    """Chooses from columns and rows with the boxes inside both; the last entry of a choice is its gain."""
    if len(candidates) == 1:  # nearly half of all cases
        ((column, row, inside),) = candidates
        gain = inside.bit_count()
        return [(column, row, inside, gain)] if gain > more_than else []
    # Gains in the queue may be out of date. They only fall, so a first entry whose gain is still right is the best.
    queue = [
        (-inside.bit_count(), tie, column, row, inside)
        for tie, (column, row, inside) in zip(rng.permutation(len(candidates)).tolist(), candidates, strict=True)
    ]
    heapify(queue)
    covered, chosen = 0, []
    while queue:
        promised, tie, column, row, inside = heappop(queue)
        gain = (inside & ~covered).bit_count()
        if gain == -promised and gain > more_than:
            chosen.append((column, row, inside, gain))
            covered |= inside
        elif gain > more_than:
            heappush(queue, (-gain, tie, column, row, inside))
    return chosen


@lru_cache(maxsize=4096)  # most chips enclose few boxes, so the same numbers come again and again
def bits(number: int) -> tuple[int, ...]:
    """Positions of the set bits, ascending."""
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return tuple(found)
