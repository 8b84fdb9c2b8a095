"""Cascade R-CNN's second stage: RoI heads in a row, each on the boxes of the one before (Cai and Vasconcelos, 2018)."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.detectors.roi_head import Learned, RoIHead
from lightning_det.detectors.rpn import Proposals
from lightning_det.detectors.second_stage import Scored, SecondStage, regress
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.selector import Selector
from lightning_det.protocols.structures import Batch


class CascadeHead(SecondStage):
    """A `RoIHead` per stage; the RoIs of a stage are the boxes that the stage before has regressed.

    A head that learns from RoIs above one IoU regresses best what is above it, and its boxes are better than its RoIs
    (section 4.1). So each stage demands a higher IoU of a positive than the one before. RoIs are labelled and selected
    anew in every stage, ground truth included. No gradient flows through the boxes between stages.

    If the selector ranks RoIs by loss, all proposals go on to the next stage: ranking has predicted their boxes. Other
    selectors leave most RoIs without predictions, so only the selected ones go on.

    At inference, a box is that of the last stage, and its score is the mean probability over all stages.

    Args:
        predictor: network of the first stage, with class-agnostic boxes. All later stages start as copies of it.
        select: selector of the RoIs that carry loss, which each stage calls.
        box_beta: see `RoIHead`.
        positive: for each stage, the lowest IoU at which a RoI gets an object's class.
        box_weights: for each stage, the factors of (dx, dy) and (dw, dh) in its regression targets. Errors become
            smaller from stage to stage, and larger factors keep the targets at unit variance.
        loss_weights: for each stage, the factor of its two losses.
        ignore: see `RoIHead`.

    Raises:
        ValueError: the lists do not fit, or the predictor's boxes depend on the class.
    """

    def __init__(
        self,
        predictor: Predictor,
        select: Selector,
        box_beta: float,
        positive: Sequence[float],
        box_weights: Sequence[Sequence[float]],
        loss_weights: Sequence[float],
        ignore: float = 0.5,
    ):
        _check(predictor, positive, box_weights, loss_weights)
        factors = [(shift, size) for shift, size in box_weights]
        super().__init__(select, factors[-1])
        predictors = [predictor, *(deepcopy(predictor) for _ in positive[1:])]
        heads = [
            RoIHead(own, select, box_beta, lowest, ignore, weights)
            for own, lowest, weights in zip(predictors, positive, factors, strict=True)
        ]
        self.stages = cast(Sequence[RoIHead], nn.ModuleList(heads))
        self.loss_weights = list(loss_weights)

    def predictors(self) -> dict[str, Predictor]:
        """One of each stage."""
        return {f"stages.{number}.predictor": stage.predictor for number, stage in enumerate(self.stages)}

    def losses(self, maps: list[Tensor], proposals: Proposals, batch: Batch) -> tuple[dict[str, Tensor], Selected]:
        """The losses of every `RoIHead`, named by its stage, and the RoIs of the last stage."""
        losses = {}
        for number, (stage, shared) in enumerate(zip(self.stages, self.shared(maps), strict=True)):
            learned = stage.learn(shared, proposals, batch)
            proposals = go_on(learned, stage.box_weights, batch.sizes)
            for name, value in learned.losses.items():
                losses[f"{name}_{number + 1}"] = self.loss_weights[number] * value
        return losses, learned.selected

    def shared(self, maps: list[Tensor]) -> list[Any]:
        """See `Predictor.shared`, for every stage."""
        first = self.stages[0].shared(maps)
        return [first, *(first if s.predictor.per_roi else s.shared(maps) for s in self.stages[1:])]

    def score(self, shared: list[Any], rois: Tensor, sizes: Tensor) -> Scored:
        """Sends RoIs through all stages, see `SecondStage.score`."""
        found = self.stages[0].score(shared[0], rois, sizes)
        scores = [found.scores]
        for before, stage, own in zip(self.stages[:-1], self.stages[1:], shared[1:], strict=True):
            rois = regress(found.rois, found.deltas.squeeze(2), before.box_weights, sizes)
            found = stage.score(own, rois, sizes)
            scores.append(found.scores)
        return found._replace(scores=torch.stack(scores).mean(dim=0))


@torch.no_grad()
def go_on(learned: Learned, box_weights: tuple[float, float], sizes: Tensor) -> Proposals:
    """The boxes that a stage has regressed, as proposals of the next stage in views of (B, 2) ``sizes``."""
    boxes = regress(learned.rois, learned.deltas, box_weights, sizes)
    return Proposals(boxes, learned.valid.to(boxes.dtype), learned.valid)


def _check(
    predictor: Predictor,
    positive: Sequence[float],
    box_weights: Sequence[Sequence[float]],
    loss_weights: Sequence[float],
) -> None:
    counts = {len(positive), len(box_weights), len(loss_weights)}
    if len(counts) > 1 or not positive:
        raise ValueError(
            "roi_head: positive, box_weights and loss_weights have an item for each stage of a cascade, got "
            f"{len(positive)}, {len(box_weights)} and {len(loss_weights)} items"
        )
    if not all(0 < p <= 1 for p in positive):
        raise ValueError(f"roi_head.positive must be IoUs above 0 and at most 1, got {list(positive)}")
    if any(len(pair) != 2 or not all(0 < weight < math.inf for weight in pair) for pair in box_weights):
        given = [*map(list, box_weights)]
        raise ValueError(f"roi_head.box_weights must be pairs of positive, finite numbers, got {given}")
    if not all(0 <= weight < math.inf for weight in loss_weights):
        raise ValueError(f"roi_head.loss_weights must be at least 0 and finite, got {list(loss_weights)}")
    if not predictor.class_agnostic:
        raise ValueError("a cascade moves RoIs whatever their class: set detector.class_agnostic=true")
