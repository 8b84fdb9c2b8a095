"""Checks of boxes against their images, and the problems that they find."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lightning_det.annotations.problems import BOX_CLIPPED, BOX_LEFT_OUT, Problem

ROUNDING = 0.1
"""Pixels by which a box may leave its image and stay as annotated: decimals that were rounded."""

SLACK = 0.01
"""A box that leaves the image by at most this share of its side (at least a pixel) is clipped and reported as harmless.
A box that reaches farther is a problem."""

SHARES = 0.95
"""Share of the boxes that lie within a pixel, from which on these are taken for shares of the image's sides."""

Locate = Callable[[int], tuple[str, str]]
"""From the row of a box to the file and the record that hold it."""


class BoxChecks(NamedTuple):
    """Properties of ``M`` boxes; arrays are (M,) bool except the first."""

    clipped: np.ndarray
    """(M, 4) float64, the boxes clipped to their images."""
    finite: np.ndarray
    empty: np.ndarray
    """Whether a box has no area."""
    outside: np.ndarray
    beyond: np.ndarray
    """Whether a box leaves its image by more than `ROUNDING`."""
    far: np.ndarray
    """Whether a box leaves its image by more than `SLACK`."""
    fractions: np.ndarray
    """Whether a box seems to be given in shares of the image instead of pixels, as nearly all boxes are."""
    usable: np.ndarray


def check_boxes(boxes: np.ndarray, limits: np.ndarray) -> BoxChecks:
    """Compares boxes (M, 4) with the sides (M, 4) of their images."""
    with np.errstate(invalid="ignore"):
        clipped = np.clip(boxes, 0, limits)
        finite = np.isfinite(boxes).all(axis=1)
        empty = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        outside = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
        excess = np.abs(clipped - boxes)
        beyond = (excess > ROUNDING).any(axis=1)
        far = (excess > (SLACK * limits).clip(min=1)).any(axis=1)
        # A single box of one pixel may be intended. If nearly all are that small, they are shares of the image's sides,
        # some of which were rounded up.
        small: np.ndarray = np.logical_and((boxes <= 1 + SLACK).all(axis=1), (limits > 8).all(axis=1))
    nearly_all = np.count_nonzero(small & finite) >= max(1.0, SHARES * np.count_nonzero(finite))
    fractions = small if nearly_all else np.zeros_like(small)
    usable = finite & ~empty & ~outside & ~fractions
    return BoxChecks(clipped, finite, empty, outside, beyond, far, fractions, usable)


def box_problems(boxes: np.ndarray, limits: np.ndarray, checks: BoxChecks, locate: Locate) -> list[Problem]:
    """Makes a problem for each box that is left out or clipped, in the order of the rows.

    Args:
        boxes: (M, 4) ``xyxy``, pixels.
        limits: (M, 4) width, height, width and height of each box's image.
        checks: of the boxes.
        locate: gives the file and the record of a row.
    """
    problems = []
    for row in np.flatnonzero(~checks.usable | checks.beyond).tolist():
        corners = ", ".join(f"{v:g}" for v in boxes[row])
        width, height = (int(v) for v in limits[row, :2])
        action, harmless = BOX_LEFT_OUT, False
        if not checks.finite[row]:
            reason = f"box has a NaN or infinite coordinate ({corners})"
        elif checks.empty[row]:
            reason = f"box has no area (x1, y1, x2, y2 = {corners})"
        elif checks.outside[row]:
            reason = f"box ({corners}) lies outside the {width} x {height} image"
        elif checks.fractions[row]:
            reason = f"box ({corners}) lies within a pixel, as nearly all do: shares of the image instead of pixels?"
        else:
            reason = f"box ({corners}) reaches beyond the {width} x {height} image"
            action, harmless = BOX_CLIPPED, not bool(checks.far[row])
        problems.append(Problem(*locate(row), reason, action, harmless))
    return problems


def copy_problem(place: tuple[str, str], first: tuple[str, str]) -> Problem:
    """Makes the problem of a box that repeats another one; each is given by file and record."""
    (file, record), (first_file, first_record) = place, first
    reason = f"box is identical to that of {first_record}" + f" of {first_file}" * (first_file != file)
    return Problem(file, record, reason, BOX_LEFT_OUT, harmless=True)


def find_copies(columns: Sequence[np.ndarray], among: np.ndarray) -> dict[int, int]:
    """Finds rows that are equal in all columns to an earlier row.

    Args:
        columns: (n,) each.
        among: (k,) rows to look at, in order.

    Returns:
        From each such row to the first row that it equals.
    """
    values = [column[among] + 0.0 for column in columns]  # + 0.0 makes -0.0 equal to 0.0
    with np.errstate(over="ignore"):
        # Equal rows have equal sums; sorting these is ten times as fast as sorting the rows.
        hashes = [value.view(np.uint64) * np.uint64(2 * 11**n + 1) for n, value in enumerate(values, start=9)]
        sums = np.sum(hashes, axis=0)
    ordered = np.sort(sums)
    suspected = np.isin(sums, ordered[1:][ordered[1:] == ordered[:-1]])
    first: dict[tuple[float, ...], int] = {}
    copies = {}
    for position in np.flatnonzero(suspected):
        row = int(among[position])
        before = first.setdefault(tuple(value[position] for value in values), row)
        if before != row:
            copies[row] = before
    return copies
