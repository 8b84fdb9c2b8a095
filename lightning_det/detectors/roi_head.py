"""The second stage of a two-stage detector: classify and refine a selection of RoIs (Fast R-CNN, section 2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.rpn import Proposals
from lightning_det.ops.boxes import clip, decode, encode_where, gather_boxes, in_detection_range, sqrt_area
from lightning_det.ops.largest import largest
from lightning_det.ops.nms import best_after_nms
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.selector import Ranking, Regions, Selector
from lightning_det.protocols.structures import Batch, Detections, State
from lightning_det.selection.matching import label_rois

BOX_WEIGHTS = (10.0, 5.0)

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


class RoIHead(nn.Module):
    """Classifies RoIs and regresses their boxes: losses in training, detections at inference.

    Args:
        predictor: network that predicts class logits and box deltas of RoIs.
        select: selector of the RoIs that carry loss.
        box_beta: error at which smooth L1 turns from quadratic to linear, in units of the targets' standard deviations:
            1/9 in torchvision, 1 in Fast R-CNN and R-FCN.
        positive: lowest IoU at which a RoI gets an object's class.
        ignore: background RoIs carry no loss if a greater share of them lies in an ignored box.
    """

    def __init__(
        self, predictor: Predictor, select: Selector, box_beta: float, positive: float = 0.5, ignore: float = 0.5
    ):
        super().__init__()
        self.predictor = predictor
        self.select = select
        self.box_beta = box_beta
        self.thresholds = {"positive": positive, "ignore": ignore}

    def losses(self, maps: list[Tensor], proposals: Proposals, batch: Batch) -> tuple[dict[str, Tensor], Selected]:
        """Classification and box loss, both divided by the number of selected RoIs in the batch, see `mean_count`.

        Returns:
            The losses, and the RoIs that carried them.
        """
        shared = self.predictor.shared(maps)
        rois, usable = candidates(proposals, batch)
        labels, matched, ious = label_rois(rois, usable, batch.boxes, batch.labels, batch.states, **self.thresholds)
        boxes = gather_boxes(batch.boxes, matched)
        ranking = self.select.ranking
        current = None if ranking is None else self._rank(ranking, shared, rois, labels, boxes)
        index, chosen = self.select(Regions(rois, labels, ious, current))
        known = None if current is None else current.masked_fill(labels < 0, torch.nan)
        rois, boxes = gather_boxes(rois, index), gather_boxes(boxes, index)
        labels, matched = labels.gather(1, index), matched.gather(1, index)
        classification, box = self._losses(shared, rois, labels, boxes)
        total = (classification + box).detach()
        count = mean_count(chosen.sum())
        losses = {
            "roi_class": (classification * chosen).sum() / count,
            "roi_box": (box * chosen).sum() / count,
        }
        return losses, Selected(rois, labels.clamp(min=0), matched, chosen, total, known, "roi")

    @torch.no_grad()
    def _rank(self, ranking: Ranking, shared: Any, rois: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Current loss (B, R) of every RoI, without gradient."""
        # RoIs take little memory if no layers run on every RoI.
        chunk = ranking.keeps if ranking.keeps is not None and self.predictor.per_roi else rois.shape[1]
        parts = zip(*(x.split(chunk, dim=1) for x in (rois, labels, boxes)), strict=True)
        with ranking_mode(self.predictor, ranking.mode):
            return torch.cat([torch.add(*self._losses(shared, *part)) for part in parts], dim=1)

    def _losses(self, shared: Any, rois: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Both losses (B, R) of every RoI; the box loss of background is 0."""
        logits, deltas = self.predictor(shared, rois)
        labels = labels.clamp(min=0)
        classification = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        is_object = labels > 0
        targets = encode_where(is_object, rois, boxes, BOX_WEIGHTS)
        error = F.smooth_l1_loss(own_deltas(deltas, labels), targets, beta=self.box_beta, reduction="none").sum(dim=-1)
        return classification.view(labels.shape), error * is_object

    def candidates(self, maps: list[Tensor], proposals: Proposals, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and class scores of all proposals, see `Detector.candidates`; scores of padding are 0."""
        logits, deltas = self.predictor(self.predictor.shared(maps), proposals.boxes)
        classes = logits.shape[-1] - 1
        scores = logits.softmax(dim=-1)[..., 1:] * proposals.valid[..., None]
        boxes = self._boxes(proposals.boxes, deltas, classes, sizes)
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
        shared = self.predictor.shared(maps)
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
        logits, deltas = self.predictor(shared, proposals.boxes)
        classes = logits.shape[-1] - 1
        scores = logits.softmax(dim=-1)[..., 1:].masked_fill(~proposals.valid[..., None], 0.0)
        if ranges is not None:
            boxes = self._boxes(proposals.boxes, deltas, classes, sizes)
            inside = in_detection_range(boxes.flatten(1, 2), ranges).view(boxes.shape[:-1])
            scores = scores.masked_fill(~inside, 0.0)
        scores = scores.flatten(1)
        top, index = largest(scores, count)
        roi, label = index.div(classes, rounding_mode="floor"), index % classes
        kinds = deltas.shape[2]
        own = gather_boxes(deltas.flatten(1, 2), kinds * roi + (label + 1 if kinds > 1 else 0))
        return _regress(gather_boxes(proposals.boxes, roi), own, top, label, sizes, threshold, ranges)

    def _boxes(self, rois: Tensor, deltas: Tensor, classes: int, sizes: Tensor) -> Tensor:
        """Regressed boxes (B, R, classes, 4), clipped to their views; (B, R, 1, 4) if they are class-agnostic."""
        of_classes = deltas[:, :, -classes:] if deltas.shape[2] > 1 else deltas
        boxes = decode(rois[:, :, None], of_classes, BOX_WEIGHTS).nan_to_num(0.0)
        return clip(boxes.flatten(1, 2), sizes).view(boxes.shape)

    def _next_pass(self, shared: Any, last: Found, sizes: Tensor, threshold: float, ranges: Tensor | None) -> Found:
        """Scores and regresses the boxes of the last pass again; their classes stay."""
        logits, deltas = self.predictor(shared, last.boxes)
        scores = logits.softmax(dim=-1).gather(2, last.labels[..., None] + 1).squeeze(2) * last.usable
        own = own_deltas(deltas, last.labels + 1)
        return _regress(last.boxes, own, scores, last.labels, sizes, threshold, ranges)


def _regress(
    rois: Tensor,
    deltas: Tensor,
    scores: Tensor,
    labels: Tensor,
    sizes: Tensor,
    threshold: float,
    ranges: Tensor | None,
) -> Found:
    # After a diverged step boxes may be NaN, which RoIAlign would turn into invalid addresses in the next pass.
    boxes = clip(decode(rois, deltas, BOX_WEIGHTS).nan_to_num(0.0), sizes)
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


@contextmanager
def ranking_mode(module: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """Puts a module into mode ``train`` or ``eval``, and restores its modes and statistics afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    statistics = [(m, name, b) for m in module.modules() for name, b in m.named_buffers(recurse=False)]
    if mode == "train":
        # Copies are updated instead: backward fails if buffers change that an earlier forward pass has read.
        for part, name, buffer in statistics:
            setattr(part, name, buffer.clone())
    module.train(mode == "train")
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, name, buffer in statistics:
            setattr(part, name, buffer)


def candidates(proposals: Proposals, batch: Batch) -> tuple[Tensor, Tensor]:
    """Proposals and ground truth as RoIs (B, P + G, 4), and whether the view may learn from them (B, P + G).

    Only RoIs inside the view's valid range qualify, proposals and ground truth alike (SNIP, section 6.1).
    """
    rois = torch.cat([proposals.boxes, batch.boxes], dim=1)
    known = (batch.states == State.VALID) | (batch.states == State.INVALID)
    usable = torch.cat([proposals.valid, known], dim=1)
    original_size = sqrt_area(rois) / batch.scales[:, None]
    low, high = batch.ranges[:, :1], batch.ranges[:, 1:]
    in_range = (original_size >= low) & (original_size < high)
    # Ground truth without area (clipped by a window) cannot be regressed from.
    return rois, usable & in_range & (original_size > 0)
