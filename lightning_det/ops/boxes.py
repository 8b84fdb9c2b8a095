"""Box geometry. All boxes are ``xyxy`` with continuous corners: width = x2 - x1, no "+1"."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_RATIO = math.log(1000.0 / 16)
"""Upper bound of the decoded logarithm of a ratio of sides, as in Detectron and torchvision."""


def area(boxes: Tensor) -> Tensor:
    """Area of (..., 4) boxes, (...); negative sides count as 0."""
    width = (boxes[..., 2] - boxes[..., 0]).clamp(min=0)
    return width * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def sqrt_area(boxes: Tensor) -> Tensor:
    """Size of (..., 4) boxes as SNIP's valid ranges measure it: sqrt(w * h)."""
    return area(boxes).sqrt()


def in_detection_range(boxes: Tensor, ranges: Tensor) -> Tensor:
    """Finds the (B, N, 4) detections inside the range of their view: (B, N) bool, lower < `sqrt_area` <= upper.

    Args:
        boxes: (B, N, 4) detections.
        ranges: (B, 2) lower and upper bound of every view.
    """
    sides = sqrt_area(boxes)
    return (sides > ranges[:, :1]) & (sides <= ranges[:, 1:])


def intersections(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the area of intersection of every pair of boxes.

    Written coordinate by coordinate: twice as fast on the CPU as torchvision's ``box_iou``, whose innermost
    dimension is the pair (x, y); the results are equal to the bit.

    Args:
        first: (..., N, 4) boxes.
        second: (..., M, 4) boxes; leading dimensions broadcast.

    Returns:
        Areas of intersection (..., N, M), areas of ``first`` (..., N, 1) and of ``second`` (..., 1, M).
    """
    ax1, ay1, ax2, ay2 = first.unsqueeze(-2).unbind(-1)
    bx1, by1, bx2, by2 = second.unsqueeze(-3).unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height, (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)


def giou_loss(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU (...) of boxes (..., 4) in pairs (Rezatofighi et al., CVPR 2019).

    It is torchvision's ``generalized_box_iou_loss`` to the bit, but does not index by a mask, for which the host would
    wait for the device.
    """
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    sides = torch.where((high > low).all(dim=-1, keepdim=True), high - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    first, second = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, others))
    union = first + second - common
    hull = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    whole = hull[..., 0] * hull[..., 1]
    return 1 - (common / (union + eps) - (whole - union) / (whole + eps))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clips (B, N, 4) boxes to their images, whose (B, 2) ``sizes`` are (height, width)."""
    # A list as an index would be copied to the device, and the host would wait for the copy.
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def encode(references: Tensor, boxes: Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Computes the regression targets (dx, dy, dw, dh) that move ``references`` onto ``boxes`` (R-CNN, appendix C).

    Args:
        references: (..., 4) anchors or proposals with positive width and height.
        boxes: (..., 4) boxes, of the same or a broadcastable shape, with positive width and height.
        weights: factors of (dx, dy) and of (dw, dh). Fast R-CNN's (10, 5) divide by its target stds 0.1 and 0.2.
    """
    sides_r = references[..., 2:] - references[..., :2]
    sides_b = boxes[..., 2:] - boxes[..., :2]
    center_r = references[..., :2] + 0.5 * sides_r
    center_b = boxes[..., :2] + 0.5 * sides_b
    shift = weights[0] * (center_b - center_r) / sides_r
    return torch.cat([shift, weights[1] * torch.log(sides_b / sides_r)], dim=-1)


def encode_where(mask: Tensor, references: Tensor, boxes: Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """`encode` where (...) bool ``mask`` holds, 0 elsewhere.

    Masking the result would not do: padding has no area, so its targets are NaN, and NaN times 0 is NaN.
    """
    unit = F.pad(boxes.new_ones(2), (2, 0))
    mask = mask[..., None]
    return encode(torch.where(mask, references, unit), torch.where(mask, boxes, unit), weights)


def decode(references: Tensor, deltas: Tensor, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Applies (..., 4) ``deltas`` to ``references`` and returns (..., 4) boxes: the inverse of `encode`."""
    sides_r = references[..., 2:] - references[..., :2]
    center_r = references[..., :2] + 0.5 * sides_r
    center = deltas[..., :2] / weights[0] * sides_r + center_r
    half = 0.5 * torch.exp((deltas[..., 2:] / weights[1]).clamp(max=MAX_LOG_RATIO)) * sides_r
    return torch.cat([center - half, center + half], dim=-1)


def gather_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Selects (B, K, 4) rows of (B, N, 4) ``boxes`` by their positions (B, K) ``index``."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
