"""The second stage of a two-stage detector: scores and boxes of RoIs, and the detections made of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.rpn import Proposals
from lightning_det.ops.boxes import clip, decode, gather_boxes, in_detection_range
from lightning_det.ops.largest import largest
from lightning_det.ops.nms import best_after_nms
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.selector import Selector
from lightning_det.protocols.structures import Batch, Detections

BOX_WEIGHTS = (10.0, 5.0)
"""Fast R-CNN's factors of the regression targets, see `lightning_det.ops.boxes.encode`."""

CANDIDATES = 4096
"""Lowest number of (box, class) pairs per view that enter the final NMS, see `candidate_count`."""

REFINED = 300
"""Most (box, class) pairs per view that are regressed again: the best after NMS at `NEAR_DUPLICATE`."""

NEAR_DUPLICATE = 0.95
"""IoU above which two boxes would be refined to nearly the same box."""


class Found(NamedTuple):
    """``K`` (box, class) pairs per view."""

    boxes: Tensor
    """(B, K, 4) float32 ``xyxy``, pixels of the view, clipped to it."""
    scores: Tensor
    """(B, K) float32."""
    labels: Tensor
    """(B, K) int64, classes counted from 0."""
    usable: Tensor
    """(B, K) bool, whether score and size of the box allow a detection."""


class Scored(NamedTuple):
    """Predictions for ``R`` RoIs per view at inference."""

    rois: Tensor
    """(B, R, 4) float32 ``xyxy``, pixels of the view: where the deltas start."""
    scores: Tensor
    """(B, R, 1 + classes) float32, probabilities of background and classes."""
    deltas: Tensor
    """(B, R, 1 + classes, 4) float32, or (B, R, 1, 4) if they are class-agnostic."""


class SecondStage(nn.Module):
    """Base of `RoIHead` and `CascadeHead`: makes detections of the RoIs that they score.

    Args:
        select: selector of the RoIs that carry loss.
        box_weights: factors of (dx, dy) and of (dw, dh) in the deltas that `score` returns.
    """

    def __init__(self, select: Selector, box_weights: tuple[float, float]):
        super().__init__()
        self.select = select
        self.box_weights = box_weights

    def predictors(self) -> dict[str, Predictor]:
        """All predictors by their names in this module."""
        raise NotImplementedError

    def losses(self, maps: list[Tensor], proposals: Proposals, batch: Batch) -> tuple[dict[str, Tensor], Selected]:
        """Losses of a training batch by name, and RoIs that carried them."""
        raise NotImplementedError

    def shared(self, maps: list[Tensor]) -> Any:
        """Computes what all RoIs of a batch share, see `Predictor.shared`."""
        raise NotImplementedError

    def score(self, shared: Any, rois: Tensor, sizes: Tensor) -> Scored:
        """Scores RoIs (B, R, 4) in views whose (height, width) without padding are ``sizes`` (B, 2)."""
        raise NotImplementedError

    def candidates(self, maps: list[Tensor], proposals: Proposals, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and class scores of all proposals, see `Detector.candidates`; scores of padding are 0."""
        rois, probabilities, deltas = self.score(self.shared(maps), proposals.boxes, sizes)
        scores = probabilities[..., 1:] * proposals.valid[..., None]
        boxes = self._boxes(rois, deltas, scores.shape[-1], sizes)
        return boxes.squeeze(2) if boxes.shape[2] == 1 else boxes, scores

    def detect(
        self,
        maps: list[Tensor],
        proposals: Proposals,
        sizes: Tensor,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Detections of views whose (height, width) without padding are ``sizes`` (B, 2).

        With more than one pass, detections become RoIs that are scored and regressed again, and the boxes of all passes
        are pooled (iterative box regression: Gidaris and Komodakis, ICCV 2015, section 4; OHEM, section 6).
        The score of a box is that of the RoI from which it was regressed.

        Boxes whose size is outside ``ranges`` (B, 2), pixels of the view, are removed before the best are picked and
        before NMS, so that they displace no others (SNIP, section 6.1).
        """
        shared = self.shared(maps)
        count = candidate_count(max_detections)
        found = [self._first_pass(shared, proposals, sizes, score_threshold, count, ranges)]
        for _ in range(passes - 1):
            # Near duplicates would be refined to the same box.
            hopeful = best(found[-1], NEAR_DUPLICATE, REFINED)
            found.append(self._next_pass(shared, hopeful, sizes, score_threshold, ranges))
        boxes, scores, labels, valid = best(
            Found(*(torch.cat(x, dim=1) for x in zip(*found, strict=True))), nms_iou, max_detections
        )
        return Detections(boxes, scores * valid, labels, valid)

    def _first_pass(
        self, shared: Any, proposals: Proposals, sizes: Tensor, threshold: float, count: int, ranges: Tensor | None
    ) -> Found:
        """The ``count`` best pairs of a proposal and a class, with their regressed boxes."""
        rois, probabilities, deltas = self.score(shared, proposals.boxes, sizes)
        classes = probabilities.shape[-1] - 1
        scores = probabilities[..., 1:].masked_fill(~proposals.valid[..., None], 0.0)
        if ranges is not None:
            boxes = self._boxes(rois, deltas, classes, sizes)
            inside = in_detection_range(boxes.flatten(1, 2), ranges).view(boxes.shape[:-1])
            scores = scores.masked_fill(~inside, 0.0)
        scores = scores.flatten(1)
        top, index = largest(scores, count)
        roi, label = index.div(classes, rounding_mode="floor"), index % classes
        kinds = deltas.shape[2]
        own = gather_boxes(deltas.flatten(1, 2), kinds * roi + (label + 1 if kinds > 1 else 0))
        boxes = regress(gather_boxes(rois, roi), own, self.box_weights, sizes)
        return _found(boxes, top, label, threshold, ranges)

    def _boxes(self, rois: Tensor, deltas: Tensor, classes: int, sizes: Tensor) -> Tensor:
        """Regressed boxes (B, R, classes, 4), clipped to their views; (B, R, 1, 4) if they are class-agnostic."""
        of_classes = deltas[:, :, -classes:] if deltas.shape[2] > 1 else deltas
        boxes = decode(rois[:, :, None], of_classes, self.box_weights).nan_to_num(0.0)
        return clip(boxes.flatten(1, 2), sizes).view(boxes.shape)

    def _next_pass(self, shared: Any, last: Found, sizes: Tensor, threshold: float, ranges: Tensor | None) -> Found:
        """Scores and regresses the boxes of the last pass again; their classes stay."""
        rois, probabilities, deltas = self.score(shared, last.boxes, sizes)
        scores = probabilities.gather(2, last.labels[..., None] + 1).squeeze(2) * last.usable
        boxes = regress(rois, own_deltas(deltas, last.labels + 1), self.box_weights, sizes)
        return _found(boxes, scores, last.labels, threshold, ranges)


def regress(rois: Tensor, deltas: Tensor, weights: tuple[float, float], sizes: Tensor) -> Tensor:
    """Moves RoIs (B, R, 4) by their deltas (B, R, 4), and clips them to views of (B, 2) ``sizes``."""
    # After a diverged step boxes may be NaN, which RoIAlign would turn into invalid addresses.
    return clip(decode(rois, deltas, weights).nan_to_num(0.0), sizes)


def _found(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, ranges: Tensor | None) -> Found:
    sides = boxes[..., 2:] - boxes[..., :2]
    usable = (scores > threshold) & (sides >= 1e-2).all(dim=-1)
    return Found(boxes, scores, labels, usable if ranges is None else usable & in_detection_range(boxes, ranges))


def candidate_count(max_detections: int) -> int:
    """Number of (box, class) pairs per view that enter the final NMS, of which ``max_detections`` may survive."""
    return max(CANDIDATES, 4 * max_detections)


def best(found: Found, nms_iou: float, count: int) -> Found:
    """The ``count`` best of each view after NMS per class."""
    index, valid = best_after_nms(*found, nms_iou, count)
    return Found(gather_boxes(found.boxes, index), found.scores.gather(1, index), found.labels.gather(1, index), valid)


def own_deltas(deltas: Tensor, labels: Tensor) -> Tensor:
    """Deltas (B, R, 4) for labels (B, R), out of (B, R, 1 + classes, 4) or class-agnostic (B, R, 1, 4) deltas."""
    if deltas.shape[2] == 1:
        return deltas.squeeze(2)
    return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
