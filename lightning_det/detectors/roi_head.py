"""The second stage of a two-stage detector: classify and refine a selection of RoIs (Fast R-CNN, section 2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.rpn import Proposals
from lightning_det.detectors.second_stage import BOX_WEIGHTS, Scored, SecondStage, own_deltas
from lightning_det.ops.boxes import encode_where, gather_boxes, sqrt_area
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.selector import Ranking, Regions, Selector
from lightning_det.protocols.structures import Batch, State
from lightning_det.selection.matching import label_rois
from lightning_det.system.shares import check_shares


class Judged(NamedTuple):
    """Losses and deltas of ``R`` RoIs per view."""

    classification: Tensor
    """(B, R) float32."""
    box: Tensor
    """(B, R) float32; 0 for background."""
    deltas: Tensor
    """(B, R, 4) float32, for the class of each RoI's label."""


class Ranked(NamedTuple):
    """Results of ranking all candidates of a view, without gradient."""

    losses: Tensor
    """(B, R) float32, classification plus box loss."""
    deltas: Tensor
    """(B, R, 4) float32, see `Judged`."""


class Learned(NamedTuple):
    """Outcome of a training step, and proposals whose deltas it has computed on the way."""

    losses: dict[str, Tensor]
    """Scalars by name."""
    selected: Selected
    """The RoIs that carried the losses."""
    rois: Tensor
    """(B, P, 4) float32 ``xyxy``, pixels of the view: the selected RoIs, or all proposals if they were ranked."""
    deltas: Tensor
    """(B, P, 4) float32, deltas of these RoIs without gradient, see `Judged`."""
    valid: Tensor
    """(B, P) bool, False for padding and for ground truth."""


class RoIHead(SecondStage):
    """Classifies RoIs and regresses their boxes: losses in training, detections at inference.

    Args:
        predictor: network that predicts class logits and box deltas of RoIs.
        select: selector of the RoIs that carry loss.
        box_beta: error at which smooth L1 turns from quadratic to linear, in units of the targets' standard deviations:
            1/9 in torchvision, 1 in Fast R-CNN and R-FCN.
        positive: lowest IoU at which a RoI gets an object's class.
        ignore: background RoIs carry no loss if a greater share of them lies in an ignored box.
        box_weights: factors of the regression targets (dx, dy) and (dw, dh): 1 / their standard deviations.

    Raises:
        ValueError: a threshold is not 0 to 1.
    """

    def __init__(
        self,
        predictor: Predictor,
        select: Selector,
        box_beta: float,
        positive: float = 0.5,
        ignore: float = 0.5,
        box_weights: tuple[float, float] = BOX_WEIGHTS,
    ):
        super().__init__(select, box_weights)
        check_shares(positive=positive, ignore=ignore)
        self.predictor = predictor
        self.box_beta = box_beta
        self.thresholds = {"positive": positive, "ignore": ignore}

    def predictors(self) -> dict[str, Predictor]:
        """The only one."""
        return {"predictor": self.predictor}

    def losses(self, maps: list[Tensor], proposals: Proposals, batch: Batch) -> tuple[dict[str, Tensor], Selected]:
        """Classification and box loss, both divided by the number of selected RoIs in the batch, see `mean_count`.

        Returns:
            The losses, and the RoIs that carried them.
        """
        learned = self.learn(self.shared(maps), proposals, batch)
        return learned.losses, learned.selected

    def learn(self, shared: Any, proposals: Proposals, batch: Batch) -> Learned:
        """`losses`, and the deltas of proposals, with which a cascade goes on; see `shared`."""
        rois, usable = candidates(proposals, batch)
        labels, matched, ious = label_rois(rois, usable, batch.boxes, batch.labels, batch.states, **self.thresholds)
        ranking, ranked = self.select.ranking, None
        if ranking is not None:
            ranked = self._rank(ranking, shared, rois, labels, gather_boxes(batch.boxes, matched))
        current = None if ranked is None else ranked.losses
        index, chosen = self.select(Regions(rois, labels, ious, current))
        known = None if current is None else current.masked_fill(labels < 0, torch.nan)
        rois, labels, matched = gather_boxes(rois, index), labels.gather(1, index), matched.gather(1, index)
        judged = self._judge(shared, rois, labels, gather_boxes(batch.boxes, matched))
        total = (judged.classification + judged.box).detach()
        count = mean_count(chosen.sum())
        losses = {
            "roi_class": (judged.classification * chosen).sum() / count,
            "roi_box": (judged.box * chosen).sum() / count,
        }
        selected = Selected(rois, labels.clamp(min=0), matched, chosen, total, known, "roi")
        given = proposals.boxes.shape[1]  # ground truth follows them
        if ranked is not None:
            return Learned(losses, selected, proposals.boxes, ranked.deltas[:, :given], proposals.valid)
        return Learned(losses, selected, rois, judged.deltas.detach(), chosen & (index < given))

    @torch.no_grad()
    def _rank(self, ranking: Ranking, shared: Any, rois: Tensor, labels: Tensor, boxes: Tensor) -> Ranked:
        """Current losses and deltas of every RoI, without gradient."""
        chunk = self._rank_chunk(ranking, rois)
        parts = zip(*(x.split(chunk, dim=1) for x in (rois, labels, boxes)), strict=True)
        with ranking_mode(self.predictor, ranking.mode):
            judged = [self._judge(shared, *part) for part in parts]
        classification, box, deltas = (torch.cat(x, dim=1) for x in zip(*judged, strict=True))
        return Ranked(classification + box, deltas)

    def _rank_chunk(self, ranking: Ranking, rois: Tensor) -> int:
        """How many of the (B, R, 4) RoIs of each view are ranked at a time."""
        views, count = rois.shape[:2]
        if ranking.keeps is None or not self.predictor.per_roi:  # RoIs take little memory if no layers run on every RoI
            return count
        best = self.predictor.cpu_chunk
        # Batch statistics would be those of other RoIs, and a graph would grow.
        if best is None or rois.device.type != "cpu" or ranking.mode == "train" or torch.compiler.is_compiling():
            return ranking.keeps
        return min(ranking.keeps, max(1, best // views))

    def _judge(self, shared: Any, rois: Tensor, labels: Tensor, boxes: Tensor) -> Judged:
        """Losses and deltas of RoIs with these labels, whose objects have these boxes (B, R, 4)."""
        logits, deltas = self.predictor(shared, rois)
        labels = labels.clamp(min=0)
        classification = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        is_object = labels > 0
        targets = encode_where(is_object, rois, boxes, self.box_weights)
        own = own_deltas(deltas, labels)
        error = F.smooth_l1_loss(own, targets, beta=self.box_beta, reduction="none").sum(dim=-1)
        return Judged(classification.view(labels.shape), error * is_object, own)

    def shared(self, maps: list[Tensor]) -> Any:
        """See `Predictor.shared`."""
        return self.predictor.shared(maps)

    def score(self, shared: Any, rois: Tensor, sizes: Tensor) -> Scored:
        """Scores RoIs and regresses them once, see `SecondStage.score`."""
        logits, deltas = self.predictor(shared, rois)
        return Scored(rois, logits.softmax(dim=-1), deltas)


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
