"""RT-DETR's losses: queries and objects are matched one to one (Zhao et al., CVPR 2024; Carion et al., ECCV 2020)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_det.ops.assignment import TooManyRowsError, assign
from lightning_det.ops.boxes import giou_loss, intersections
from lightning_det.protocols.structures import Batch, State
from lightning_det.system.errors import ImageError

COSTS = {"class": 2.0, "l1": 5.0, "giou": 2.0}
"""Weights of the costs of a match."""

COST_ALPHA, COST_GAMMA = 0.25, 2.0
"""Of the focal cost of a class."""

HIDDEN_SHARE = 0.5
"""An unmatched query of which a greater share lies in an invalid or ignored box carries no loss."""

FAR = 1e6
"""Cost of a match with a query that has no box: above all others, but finite."""


class Queries(NamedTuple):
    """Predictions of ``Q`` queries by ``S`` stages: the encoder first, then every decoder layer."""

    logits: Tensor
    """(S, B, Q, classes) float32."""
    boxes: Tensor
    """(S, B, Q, 4) float32, centre, width and height as shares of the view, in [0, 1]."""
    usable: Tensor
    """(B, Q) bool, False for queries from padding, which a view with fewer cells than queries gets."""


class Truth(NamedTuple):
    """The boxes of a batch, as the losses read them."""

    boxes: Tensor
    """(B, G, 4) ``xyxy``, pixels of the view."""
    shares: Tensor
    """(B, G, 4) centre, width and height, as shares of the view."""
    labels: Tensor
    """(B, G) int64."""
    states: Tensor
    """(B, G) int64."""
    image: Tensor
    """(B,) int64, position of each view's image in its annotation store."""


class Losses(NamedTuple):
    """Sums over a batch, (S,) each, one per stage."""

    classification: Tensor
    l1: Tensor
    giou: Tensor


def truth_of(batch: Batch) -> Truth:
    """Reads the boxes of a batch."""
    sides = batch.boxes[..., 2:] - batch.boxes[..., :2]
    centres = (batch.boxes[..., :2] + batch.boxes[..., 2:]) / 2
    shares = torch.cat([centres, sides], dim=-1) / batch.sizes.flip(1).repeat(1, 2)[:, None]
    return Truth(batch.boxes, shares, batch.labels, batch.states, batch.index)


def to_pixels(shares: Tensor, sizes: Tensor) -> Tensor:
    """Boxes as shares of their views (..., B, Q, 4) to ``xyxy`` in pixels of the views, not clipped.

    Args:
        shares: centre, width and height in [0, 1].
        sizes: (B, 2) height and width of the views.
    """
    centre, half = shares[..., :2], shares[..., 2:] / 2
    corners = torch.cat([centre - half, centre + half], dim=-1)
    return corners * sizes.flip(1).repeat(1, 2)[:, None]


@torch.no_grad()
def match(queries: Queries, boxes: Tensor, truth: Truth) -> Tensor:
    """Assigns a query to every valid and every invalid box, with the lowest sum of costs.

    Args:
        queries: the predictions.
        boxes: (S, B, Q, 4) predicted boxes, ``xyxy`` in pixels of the view.
        truth: the boxes.

    Returns:
        (S, B, G) int64, the query of each box; -1 for ignored boxes and padding.

    Raises:
        ImageError: a view has more objects than usable queries.
    """
    stages, views, number, _ = queries.logits.shape
    p = queries.logits.sigmoid()
    present = COST_ALPHA * (1 - p) ** COST_GAMMA * -(p + 1e-8).log()
    absent = (1 - COST_ALPHA) * p**COST_GAMMA * -(1 - p + 1e-8).log()
    index = truth.labels[None, :, None].expand(stages, -1, number, -1)
    costs = COSTS["class"] * (present - absent).gather(3, index)
    costs = costs + COSTS["l1"] * torch.cdist(queries.boxes, truth.shares[None], p=1)
    costs = costs - COSTS["giou"] * _giou(boxes, truth.boxes)
    costs = costs.transpose(2, 3).nan_to_num(FAR, FAR, -FAR).masked_fill(~queries.usable[:, None], torch.inf)
    rows = (truth.states == State.VALID) | (truth.states == State.INVALID)
    try:
        found = assign(costs.flatten(0, 1), rows.expand(stages, -1, -1).flatten(0, 1))
    except TooManyRowsError as error:
        view = error.problem % views
        raise ImageError(
            int(truth.image[view]),
            f"a view of it shows {error.rows} objects, and the detector has {error.columns} queries for it, one for "
            f"each at most; raise capacity.queries (now up to {number}), or take a higher dataset.resolution or "
            "smaller views if its maps have too few cells",
        ) from None
    return found.unflatten(0, (stages, views))


def set_losses(queries: Queries, sizes: Tensor, truth: Truth) -> Losses:
    """Varifocal loss of the classes, L1 and GIoU loss of the boxes.

    A query that is matched with a valid box learns its class, with the IoU as target, and its box. A query that is
    matched with an invalid box carries no loss, nor does an unmatched one that lies in an invalid or ignored box by
    more than `HIDDEN_SHARE`. All other queries learn that they are background.

    Args:
        queries: the predictions; queries that are not usable carry no loss.
        sizes: (B, 2) height and width of the views.
        truth: the boxes.
    """
    boxes = to_pixels(queries.boxes, sizes)
    query = match(queries, boxes, truth)
    valid = (truth.states == State.VALID).expand(query.shape)
    place = query.clamp(min=0)
    own_boxes, own_shares = _pick(boxes, place), _pick(queries.boxes, place)
    # A box without a query is compared with what it got instead: a loss on padding may be NaN, and NaN * 0 is NaN.
    target_boxes = torch.where(valid[..., None], truth.boxes, own_boxes.detach())
    target_shares = torch.where(valid[..., None], truth.shares.to(own_shares), own_shares.detach())
    giou = giou_loss(own_boxes, target_boxes) * valid
    l1 = F.l1_loss(own_shares, target_shares, reduction="none").sum(dim=-1) * valid
    carries = queries.usable & ~_hidden(boxes.detach(), truth)
    carries = _put(carries, query, query >= 0, valid)
    iou = _iou(own_boxes.detach(), target_boxes)
    classification = _varifocal(queries.logits, query, truth.labels, valid, iou) * carries
    return Losses(*(x.sum(dim=(1, 2)) for x in (classification, l1, giou)))


ALPHA, GAMMA = 0.75, 2.0
"""Weight of background in the varifocal loss, and the exponent that weakens easy background."""


def _varifocal(logits: Tensor, query: Tensor, labels: Tensor, valid: Tensor, iou: Tensor) -> Tensor:
    """(S, B, Q) varifocal loss, summed over classes (Zhang et al., CVPR 2021); the target of a match is its IoU."""
    classes = logits.shape[3]
    place = query * classes + labels
    flat = torch.zeros_like(logits).flatten(2)
    target = _put(flat, place, valid, iou.to(flat)).view_as(logits)
    is_class = _put(flat, place, valid, torch.ones_like(iou).to(flat)).view_as(logits)
    weight = ALPHA * logits.detach().sigmoid() ** GAMMA * (1 - is_class) + target
    return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none").sum(dim=-1)


def _put(x: Tensor, place: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """``x`` (S, B, N) with ``values`` (S, B, G) at ``place`` (S, B, G), ``where`` (S, B, G) holds."""
    spare = torch.cat([x, x[..., :1]], dim=-1)  # gets the values that are not wanted
    return spare.scatter(2, torch.where(where, place, x.shape[2]), values)[..., :-1]


def _hidden(boxes: Tensor, truth: Truth) -> Tensor:
    """(S, B, Q) bool, which predicted boxes lie in a box that nothing may be learned from."""
    hides = (truth.states == State.INVALID) | (truth.states == State.IGNORED)
    common, areas, _ = intersections(boxes, truth.boxes)
    return ((common > HIDDEN_SHARE * areas) & hides[:, None]).any(dim=-1)


def _giou(boxes: Tensor, others: Tensor) -> Tensor:
    """GIoU of every pair, (S, B, Q, G) of boxes (S, B, Q, 4) and (B, G, 4)."""
    common, first, second = intersections(boxes, others)
    union = (first + second - common).clamp(min=1e-9)
    low = torch.minimum(boxes[..., :, None, :2], others[..., None, :, :2])
    high = torch.maximum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    hull = (high - low).prod(dim=-1).clamp(min=1e-9)
    return common / union - (hull - union) / hull


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(...) IoU of two boxes (..., 4) each."""
    common, first, second = (
        x.flatten(-2).squeeze(-1) for x in intersections(boxes[..., None, :], others[..., None, :])
    )
    return common / (first + second - common).clamp(min=1e-9)


def _pick(x: Tensor, place: Tensor) -> Tensor:
    """Rows ``place`` (S, B, G) of ``x`` (S, B, Q, 4)."""
    return x.gather(2, place[..., None].expand(-1, -1, -1, x.shape[3]))
