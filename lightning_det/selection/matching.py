"""Label assignment: which regions (anchors, RoIs) are positive, negative or skipped.

Regions are labelled 1 + class, `BACKGROUND` or `SKIP`. Boxes arrive padded to G >= 1 with a `State` each.
Nothing here depends on how many are real: shapes are static, and nothing waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_det.ops.boxes import intersections
from lightning_det.protocols.structures import State

BACKGROUND = 0
SKIP = -1
"""Label of a region that carries no loss."""

CHUNK = 16
"""Boxes per pass over the regions: bounds the memory of dense images with many anchors."""


class Match(NamedTuple):
    """How every region of a batch relates to the boxes of its image."""

    iou: Tensor
    """(B, R) float32, highest IoU with a usable box; 0 without one."""
    box: Tensor
    """(B, R) int64, index of that box among the G boxes of its view."""
    forced: Tensor
    """(B, R) bool, whether the region is the best of all regions (ties included) for some usable box."""
    hidden: Tensor
    """(B, R) bool, whether the region lies on a box that nothing may be learned from."""


def match(
    regions: Tensor,
    boxes: Tensor,
    states: Tensor,
    usable: Tensor,
    invalid: float,
    ignored: float,
    inside: Tensor | None = None,
) -> Match:
    """Finds the usable box of highest IoU for every region, and the regions that nothing may be learned from.

    Args:
        regions: (R, 4), shared by the batch, or (B, R, 4).
        boxes: (B, G, 4).
        states: (B, G), see `State`.
        usable: (B, G) bool, the boxes to match.
        invalid: a region is hidden when its IoU with an ``INVALID`` box is greater (SNIP, section 6.1: 0.3).
        ignored: a region is hidden when a greater share of it lies in an ``IGNORED`` box. The share of the
            region, not IoU, as in COCO's evaluation: one person in a crowd covers little of the crowd's box.
        inside: (B, R) bool, the regions that may match; None: all.
    """
    shape = (boxes.shape[0], regions.shape[-2])
    best = regions.new_zeros(shape)
    index = torch.zeros(shape, dtype=torch.int64, device=regions.device)
    forced = torch.zeros(shape, dtype=torch.bool, device=regions.device)
    hidden = torch.zeros(shape, dtype=torch.bool, device=regions.device)
    for start in range(0, boxes.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        state = states[:, None, part]
        common, region_area, box_area = intersections(regions, boxes[:, part])
        iou = common / (region_area + box_area - common).clamp(min=1e-12)
        hides = ((iou > invalid) & (state == State.INVALID)) | (
            (common > ignored * region_area) & (state == State.IGNORED)
        )
        hidden |= hides.any(dim=2)

        iou = iou * usable[:, None, part]
        if inside is not None:
            iou = iou * inside[..., None]
        chunk_best, chunk_index = iou.max(dim=2)
        # Without ``peak > 0``, a box that touches no region would force all of them.
        peak = iou.amax(dim=1, keepdim=True)
        forced |= ((iou == peak) & (peak > 0)).any(dim=2)
        index = torch.where(chunk_best > best, chunk_index + start, index)
        best = torch.maximum(best, chunk_best)
    return Match(best, index, forced, hidden)


def label_anchors(
    anchors: Tensor,
    boxes: Tensor,
    states: Tensor,
    positive: float = 0.7,
    negative: float = 0.3,
    ignore: float = 0.3,
    usable: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels anchors for a proposal network (Faster R-CNN, section 3.1.2; SNIP, section 6.1).

    An anchor is positive when its IoU with a valid box reaches ``positive``, or when no usable anchor has a higher IoU
    with that box; negative when its IoU with every valid box is below ``negative``; skipped in between, and
    wherever it overlaps an invalid or ignored box by more than ``ignore``, even if it would be positive.

    Args:
        anchors: (A, 4).
        boxes: (B, G, 4).
        states: (B, G), see `State`.
        positive: lowest IoU of a positive.
        negative: IoU below which an anchor is background.
        ignore: ``invalid`` and ``ignored`` of `match`.
        usable: (B, A) bool, the other anchors are skipped; None: all are usable.

    Returns:
        labels: (B, A) int64 of 1 (object), `BACKGROUND` and `SKIP`.
        index: (B, A) int64, the matched box.
        iou: (B, A) float32, the IoU with it; 0 where there is none.
    """
    found = match(anchors, boxes, states, states == State.VALID, invalid=ignore, ignored=ignore, inside=usable)
    labels = torch.where(found.iou < negative, BACKGROUND, SKIP)
    labels = labels.masked_fill((found.iou >= positive) | found.forced, 1)
    skipped = found.hidden if usable is None else found.hidden | ~usable
    return labels.masked_fill(skipped, SKIP), found.box, found.iou


def label_rois(
    rois: Tensor,
    usable: Tensor,
    boxes: Tensor,
    classes: Tensor,
    states: Tensor,
    positive: float = 0.5,
    ignore: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels RoIs for a classification head (Fast R-CNN, section 2.3; SNIP, section 6.1).

    Valid and invalid boxes both give their class to RoIs. The caller leaves out RoIs of unsuitable size with
    ``usable``.

    Args:
        rois: (B, R, 4).
        usable: (B, R) bool; the other RoIs are skipped.
        boxes: (B, G, 4).
        classes: (B, G) int64, counted from 0.
        states: (B, G), see `State`.
        positive: lowest IoU of a RoI that gets its box's class.
        ignore: background RoIs are skipped when a greater share of them lies in an ignored box.

    Returns:
        labels: (B, R) int64 of 1 + class, `BACKGROUND` and `SKIP`.
        index: (B, R) int64, the matched box.
        iou: (B, R) float32, the IoU with it; 0 where there is none.
    """
    known = (states == State.VALID) | (states == State.INVALID)
    # No IoU exceeds 1: an INVALID box hides no RoI.
    found = match(rois, boxes, states, known, invalid=1.0, ignored=ignore)
    is_positive = found.iou >= positive
    labels = torch.where(is_positive, classes.gather(1, found.box) + 1, BACKGROUND)
    return labels.masked_fill((found.hidden & ~is_positive) | ~usable, SKIP), found.box, found.iou
