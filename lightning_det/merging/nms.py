"""Merges the detections of several views of an image by NMS, and removes parts of objects."""

import torch
from torch import Tensor

from lightning_det.ops.boxes import intersections
from lightning_det.ops.nms import nms_of_groups

PAIRS = 1_000_000
"""Pairs of a part and a whole that are compared at once: bounds the memory."""


class NMS:
    """Greedy non-maximum suppression per image and class.

    Args:
        iou: a detection is removed when its IoU with a better one is greater than this.
    """

    def __init__(self, iou: float = 0.5):
        if not 0 <= iou <= 1:
            raise ValueError(f"test.merge.iou must be 0 to 1, got {iou}")
        self.iou = iou

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Suppresses duplicates.

        Args:
            boxes: (N, 4) float ``xyxy``, pixels of the original image.
            scores: (N,) float.
            groups: (N,) int64, one number per image and class; boxes of different groups never suppress each other.

        Returns:
            Indices (K,) of the detections that are kept and their scores (K,), which other merges may lower.
        """
        keep = nms_of_groups(boxes, scores, groups, self.iou)
        return keep, scores[keep]


def remove_fragments(boxes: Tensor, scores: Tensor, groups: Tensor, cut: Tensor, share: float) -> Tensor:
    """Removes detections that show only a part of an object; returns the indices of the others.

    A detection at a border where its view cuts the image may show only a part of an object. It is removed if another
    detection of its group covers it, is not cut itself, and has at least half of its score.

    Args:
        boxes: (N, 4) float ``xyxy``, pixels of the original image.
        scores: (N,) float.
        groups: (N,) int64, as in `NMS`.
        cut: (N,) bool, which detections may be parts.
        share: least share of the cut detection's area that the other one must cover.
    """
    keep = torch.ones_like(cut)
    rows = torch.isin(groups, groups[cut].unique()).nonzero().squeeze(1)
    rows = rows[torch.argsort(groups[rows], stable=True)]
    counts = torch.unique_consecutive(groups[rows], return_counts=True)[1]
    for own in rows.split(counts.tolist()):
        parts, wholes = own[cut[own]], own[~cut[own]]
        for some in parts.split(max(1, PAIRS // max(1, len(wholes)))):
            common, areas, _ = intersections(boxes[some], boxes[wholes])
            covered = (common >= share * areas) & (scores[wholes] >= scores[some, None] / 2)
            keep[some] = ~covered.any(dim=1)
    return keep.nonzero().squeeze(1)


def keep_best(scores: Tensor, images: Tensor, count: int | Tensor) -> Tensor:
    """Finds the ``count`` highest scores of every image; returns indices sorted by image, then by falling score.

    Args:
        scores: (N,) float.
        images: (N,) int64, which image each belongs to.
        count: maximum per image, or (M,) int64 the maximum of each image.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(images[order], stable=True)]
    grouped = images[order]
    # Rank within the image: position minus the position of the image's first detection.
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(grouped, grouped)
    return order[rank < (count if isinstance(count, int) else count[grouped])]
