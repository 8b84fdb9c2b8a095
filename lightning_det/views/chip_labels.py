"""Lists the boxes that each of SNIPER's chips learns from."""

from collections.abc import Sequence

import numpy as np

from lightning_det.views.view import View, in_learning_range


def assign_boxes(
    groups: Sequence[list[View]], boxes: np.ndarray, known: np.ndarray, fits: np.ndarray, anchor_fits: np.ndarray
) -> list[View]:
    """Assigns every box to the one chip of its scale that shows most of it, as SNIPER's reference code does.

    Groups of chips are processed in order: a box that was assigned to a chip of one group is not assigned to a chip of
    the next group. If several chips show the same share, the first one gets the box.

    Args:
        groups: positive and negative chips.
        boxes: (n, 4) ``xyxy``, pixels of the image.
        known: (n,) positions of the boxes in the image's list.
        fits: (V, n) bool, which boxes the detector proper may learn from at each level.
        anchor_fits: (V, n) bool, the same for the anchors of a proposal network.

    Returns:
        The chips of all groups in order, with `View.valid_boxes` and `View.anchor_boxes`.
    """
    fits, anchor_fits = fits.copy(), anchor_fits.copy()
    return [
        chip._replace(valid_boxes=tuple(known[valid].tolist()), anchor_boxes=tuple(known[anchors].tolist()))
        for chips in groups
        for chip, valid, anchors in zip(
            chips, _largest_shares(chips, boxes, fits), _largest_shares(chips, boxes, anchor_fits), strict=True
        )
    ]


def _largest_shares(chips: Sequence[View], boxes: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Finds the chip of each level that shows most of a box: (C, n) bool. Removes these boxes from ``fits`` (V, n)."""
    largest = np.zeros((len(chips), len(boxes)), bool)
    for level, fit in enumerate(fits):
        rows = np.array([n for n, chip in enumerate(chips) if chip.level == level], int)
        if len(rows):
            shown, shares = overlaps(boxes, [chips[n] for n in rows])
            best = shares.argmax(axis=0)
            columns = np.flatnonzero(fit & shown[best, np.arange(len(boxes))])
            largest[rows[best[columns]], columns] = True
            fit[columns] = False
    return largest


def adopt_orphans(
    chips: list[View], boxes: np.ndarray, known: np.ndarray, coarsest: View, orphans: np.ndarray
) -> list[View]:
    """Lets chips of the coarsest scale also learn from the orphans that they enclose.

    Args:
        chips: of all scales.
        boxes: (n, 4) ``xyxy``, pixels of the image.
        known: (n,) their positions in the image's list.
        coarsest: the view of the whole image at the coarsest scale.
        orphans: (n,) bool, which boxes are adopted: at least one.

    Returns:
        The chips; those of the coarsest scale list their boxes.
    """
    learns = [orphans | in_learning_range(boxes, limits) for limits in coarsest.ranges]
    planned = []
    for chip in chips:
        if chip.level == coarsest.level:
            encloses = overlaps(boxes, [chip])[1][0] > 1 - 1e-9
            valid, anchors = (tuple(known[learn & encloses].tolist()) for learn in learns)
            chip = chip._replace(valid_boxes=valid, anchor_boxes=anchors)
        planned.append(chip)
    return planned


def overlaps(boxes: np.ndarray, chips: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    """Compares (n, 4) boxes with chips: (C, n) whether a chip shows a pixel of a box, and (C, n) which share of it."""
    windows = np.array([chip.window for chip in chips])[:, None]
    common = np.minimum(windows[..., 2:], boxes[:, 2:]) - np.maximum(windows[..., :2], boxes[:, :2])
    sides = boxes[:, 2:] - boxes[:, :2]
    shares = np.clip(common, 0, None).prod(axis=2) / np.maximum(sides.prod(axis=1), 1e-12)
    # A box thinner than a pixel counts as shown completely.
    return (common >= np.minimum(sides, 1)).all(axis=2), shares
