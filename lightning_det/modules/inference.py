"""Inference: a batch of views to detections in pixels of their images, and those of all views to results."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Merge, Results, Vote
from lightning_det.merging.nms import NMS
from lightning_det.ops.boxes import in_detection_range
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch
from lightning_det.views.view import boxes_to_image, leaves_some_out, near_border, touches_cut, whole_in_a_tile

PUBLISHED_VIEW = 1408 * 2016
"""Pixels of the largest canvas in the published pyramids for COCO. Views up to this size have the published limit of
detections."""

SPARE = 4
"""Factor of a view's limit up to which the detector finds detections if some are removed because of their place.
Otherwise the small objects that tiles show whole would take the places of a large one."""


class Inference(NamedTuple):
    """How detections become results: the same in validation, evaluation and prediction."""

    score_threshold: float = 0.01
    """Candidates in a view need a greater score. A merge may lower scores afterwards: Soft-NMS does."""
    nms_iou: float = 0.5
    """NMS threshold per class within a view; 1 leaves duplicates to the merge."""
    max_detections: int = 100
    """Most detections per image; ``detections_per_megapixel`` raises it for large images."""
    merge: Merge = NMS()
    """Merges the views of an image."""
    vote: Vote | None = None
    """Moves boxes that the merge keeps by those that it removes; None: they stay."""
    view_detections: int | None = None
    """Most detections per view; None: as many as per image."""
    passes: int = 1
    """Number of times boxes are regressed; above 1 only for detectors with ``refines``."""
    detections_per_megapixel: float | None = None
    """Lowest limit per megapixel: of an image, of the part that a view shows, and of a view above `PUBLISHED_VIEW`.

    None: the limits above hold for all."""
    fragments: float | None = 0.8
    """A detection that a cut of the image touches is removed if an uncut detection covers this share of it; None: all
    stay."""

    def per_view(self, height: int, width: int) -> int:
        """Most detections of views in a canvas of this size."""
        count = self.view_detections or self.max_detections
        return count if height * width <= PUBLISHED_VIEW else int(self._scale_limit(count, height * width))

    def of_views(self, batch: Batch) -> Tensor:
        """(B,) int64, most detections of each view of a batch.

        A view that shows a large image has as many as the image, however small it shows it, unless ``view_detections``
        is set.
        """
        count = self.per_view(*batch.images.shape[-2:])
        shown = (batch.windows[:, 2:] - batch.windows[:, :2]).prod(dim=1)
        rate = 0.0 if self.view_detections else (self.detections_per_megapixel or 0.0) / 1e6
        return (rate * shown).ceil().long().clamp(min=count)

    def per_image(self, store: AnnotationStore) -> np.ndarray:
        """(M,) int64, most detections of every image of a store."""
        return self._scale_limit(self.max_detections, store.widths.astype(np.int64) * store.heights)

    def _scale_limit(self, count: int, pixels: int | np.ndarray) -> np.ndarray:
        rate = (self.detections_per_megapixel or 0.0) / 1e6
        return np.maximum(count, np.ceil(rate * np.asarray(pixels)).astype(np.int64))

    def merge_views(self, results: Results, store: AnnotationStore) -> Results:
        """Merges the detections of views into detections of the images of a store."""
        return results.merge_views(self.merge, self.per_image(store), self.vote, self.fragments)


def detect(detector: Detector, batch: Batch, settings: Inference) -> Results:
    """Detects objects in views and keeps those whose size is in the view's valid range.

    The range applies to the sizes of detections, not of proposals, in pixels of the original image. The lower bound
    is exclusive, the upper inclusive (SNIP, section 6.1). Detections that a tile of the view shows whole, and those
    near a border where the view cuts the image if the view says so, are removed too.

    Args:
        detector: set to evaluate.
        batch: views, on the device of the detector.
        settings: of inference.
    """
    limits = settings.of_views(batch)
    asked = int(torch.where(leaves_some_out(batch), SPARE * limits, limits).max())
    # In pixels of the view, and slightly wider: the exact range is applied below, in pixels of the image.
    ranges = batch.ranges * batch.scales[:, None] * batch.ranges.new_tensor([1 - 1e-5, 1 + 1e-5])
    thresholds = settings.score_threshold, settings.nms_iou
    found = detector(batch.images, batch.sizes, *thresholds, asked, ranges, settings.passes)
    boxes = boxes_to_image(found.boxes.float(), batch)
    unwanted = whole_in_a_tile(boxes, batch) | near_border(boxes, batch)
    wanted = found.valid & ~unwanted
    ranks = found.scores.masked_fill(~wanted, -1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep = wanted & (ranks < limits[:, None]) & in_detection_range(boxes, batch.ranges)
    images = batch.index[:, None].expand_as(keep)
    return Results(
        images[keep].cpu().numpy(),
        boxes[keep].cpu().numpy(),
        found.scores[keep].float().cpu().numpy(),
        found.labels[keep].cpu().numpy(),
        batch.index.unique().cpu().numpy(),
        touches_cut(boxes, batch)[keep].cpu().numpy(),
        len(batch) * batch.images.shape[-2:].numel(),
    )
