"""Finds places for labels where they hide no object."""

from collections import defaultdict

import numpy as np

INSIDE = 3.0
"""A label may lie inside its own box if the box is this many times as wide and as high as it."""

CELL = 64
"""Side of the cells by which `Neighbours` finds boxes, pixels."""

MOST_CELLS = 64
"""A box in more cells is a neighbour of all places."""


class Neighbours:
    """Boxes by their place: only those near a label have to be compared with it."""

    def __init__(self) -> None:
        self._everywhere: list[int] = []
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, number: int, box: np.ndarray) -> None:
        """Adds a box ``xyxy`` under a number."""
        x1, y1, x2, y2 = box // CELL
        if (x2 - x1 + 1) * (y2 - y1 + 1) > MOST_CELLS:
            self._everywhere.append(number)
            return
        for cell in _cells(box):
            self._cells[cell].append(number)

    def near(self, boxes: np.ndarray) -> list[int]:
        """Returns the numbers, in order, of all boxes that may overlap any of ``boxes`` (k, 4)."""
        area = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        return sorted({number for cell in _cells(area) for number in self._cells.get(cell, ())}.union(self._everywhere))


def _cells(box: np.ndarray) -> list[tuple[int, int]]:
    x1, y1, x2, y2 = (int(value // CELL) for value in box)
    return [(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)]


def place_labels(
    boxes: np.ndarray, sizes: np.ndarray, canvas: tuple[int, int], wanted: np.ndarray, force: bool
) -> list[tuple[int, int] | None]:
    """Places the label of each box next to it, in the order of the boxes.

    A label may lie above, below, right or left of its box, or at the top inside of a large one. It never covers another
    box or label; inside its own box it may lie on a box that contains both.

    Args:
        boxes: (n, 4) ``xyxy`` pixels, outlines included.
        sizes: (n, 2) width and height of the labels, pixels.
        canvas: (width, height) of the picture.
        wanted: (n,) bool, whether a box gets a label.
        force: whether labels without room are placed too, at their first place inside of the picture.

    Returns:
        The upper left corner of each label, whole pixels; None for labels that are left out.
    """
    obstacles = boxes.astype(float)
    placed: list[tuple[int, int] | None] = []
    taken: list[np.ndarray] = []
    objects, captions = Neighbours(), Neighbours()
    for number, box in enumerate(obstacles):
        objects.add(number, box)
    for number, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        if not wanted[number]:
            placed.append(None)
            continue
        labels, inside = _candidates(box, size, canvas)
        if len(labels) == 0:
            placed.append(None)
            continue
        others = obstacles[[near for near in objects.near(labels) if near != number]]
        enclosing = (others[:, :2] <= box[:2]).all(axis=1) & (others[:, 2:] >= box[2:]).all(axis=1)
        hit = _overlap(labels, others) & ~(inside[:, None] & enclosing[None])
        before = np.array([taken[near] for near in captions.near(labels)]).reshape(-1, 4)
        free = ~hit.any(axis=1) & ~_overlap(labels, before).any(axis=1)
        choice = int(free.argmax()) if free.any() else 0 if force else None
        placed.append(None if choice is None else (int(labels[choice, 0]), int(labels[choice, 1])))
        if choice is not None:
            captions.add(len(taken), labels[choice])
            taken.append(labels[choice])
    return placed


def _candidates(box: np.ndarray, size: np.ndarray, canvas: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places (k, 4) of a label inside of the picture, best first, and which are inside its box (k,)."""
    (x1, y1, x2, y2), (w, h) = box.tolist(), size.tolist()
    x1, y1, x2, y2 = np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)
    # Above and below, a label moves along the box rather than leave the picture.
    left, right = (min(max(x, 0), max(0, canvas[0] - w)) for x in (x1, x2 - w))
    corners = [(left, y1 - h), (right, y1 - h), (left, y2), (right, y2), (x2, y1), (x1 - w, y1), (x2, y2 - h)]
    inside = [False] * len(corners)
    if x2 - x1 >= INSIDE * w and y2 - y1 >= INSIDE * h:
        corners.append((x1, y1))
        inside.append(True)
    places = np.array([(x, y, x + w, y + h) for x, y in corners], float)
    fits = (places[:, :2] >= 0).all(axis=1) & (places[:, 2:] <= canvas).all(axis=1)
    return places[fits], np.array(inside)[fits]


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether boxes (k, 4) and (n, 4) overlap, (k, n) bool."""
    corners = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    return (corners > 0).all(axis=2)
