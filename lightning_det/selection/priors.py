"""Label assignment of priors and hard negative mining for single-shot detectors (SSD, section 2.2)."""

import torch
from torch import Tensor

from lightning_det.ops.boxes import intersections
from lightning_det.ops.greedy import match_greedily
from lightning_det.protocols.selector import Ranking, Regions, Selection, Selector
from lightning_det.protocols.structures import State
from lightning_det.selection.matching import BACKGROUND, CHUNK, SKIP, match

LEAST = 1e-6
"""IoU above which a box can be given to a prior."""

EQUAL = 1e-13
"""This times a prior's index is subtracted from its IoU, so that ties go to the first prior. It is too small to change
the order of IoUs that differ in single precision."""

RIVALS = 64
"""Number of its best priors that a box competes for. A box gets none if other boxes take all of them."""


def label_priors(
    priors: Tensor,
    boxes: Tensor,
    classes: Tensor,
    states: Tensor,
    positive: float = 0.5,
    ignore: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels priors: every box first gets a prior of its own, then every other prior gets its best box.

    Args:
        priors: (P, 4).
        boxes: (B, G, 4).
        classes: (B, G) int64, counted from 0.
        states: (B, G), see `State`; only valid boxes are matched.
        positive: lowest IoU of a prior that gets a box's class without being its best.
        ignore: background priors are skipped when their IoU with an invalid box, or their share in an ignored box, is
            greater.

    Returns:
        labels: (B, P) int64 of 1 + class, `BACKGROUND` and `SKIP`.
        index: (B, P) int64, the matched box.
        iou: (B, P) float32, highest IoU with a valid box.
    """
    usable = states == State.VALID
    found = match(priors, boxes, states, usable, invalid=ignore, ignored=ignore)
    given = assign_best(priors, boxes, usable)
    is_given = given >= 0
    index = torch.where(is_given, given, found.box)
    is_positive = is_given | (found.iou >= positive)
    labels = torch.where(is_positive, classes.gather(1, index) + 1, BACKGROUND)
    return labels.masked_fill(found.hidden & ~is_positive, SKIP), index, found.iou


def assign_best(priors: Tensor, boxes: Tensor, usable: Tensor) -> Tensor:
    """Gives every box one prior of its own, greedily: the remaining pair of highest IoU is assigned first.

    Ties go to the first prior. Only the G best priors of a box can matter, since other boxes take at most G - 1 of
    them; no more than `RIVALS` are considered.

    Args:
        priors: (P, 4).
        boxes: (B, G, 4).
        usable: (B, G) bool.

    Returns:
        (B, P) int64, the box of each prior, or -1.
    """
    count = usable.shape[1]
    best = min(count, len(priors), RIVALS)
    # Priors inside or around a box tie, and the order of ties in topk depends on the device.
    order = torch.arange(len(priors), device=boxes.device, dtype=torch.float64) * EQUAL
    values, places = [], []
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        common, area, other = intersections(boxes[:, part], priors)
        iou = common / (area + other - common).clamp(min=1e-12) * usable[:, part, None]
        top = (iou.double() - order).topk(best, dim=2)
        values.append(top.values)
        places.append(top.indices)
    return match_greedily(torch.cat(values, dim=1), torch.cat(places, dim=1), len(priors), LEAST)


class HardNegativeSelector(Selector):
    """Keeps all positives, and the background priors of highest loss (SSD, section 2.2).

    Args:
        ratio: negatives per positive of an image, at most. An image without positives has no negatives either.
    """

    ranking = Ranking("train", None)
    """The loss of background is its classification loss alone."""
    background_alone = False

    def __init__(self, ratio: float = 3.0):
        if ratio <= 0:
            raise ValueError(f"hard negatives need a ratio above 0, got {ratio}")
        self.ratio = ratio

    def __call__(self, regions: Regions) -> Selection:
        """Selects positives and hard negatives; S = R."""
        labels, losses = regions.labels, regions.losses
        if losses is None:
            raise ValueError("HardNegativeSelector ranks regions by loss, and got no losses")
        index = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
        positive, negative = labels > 0, labels == 0
        rank = losses.masked_fill(~negative, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
        quota = self.ratio * positive.sum(dim=1, keepdim=True)
        return Selection(index, positive | (negative & (rank < quota)))
