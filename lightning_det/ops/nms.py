"""Non-maximum suppression of a whole batch as one operator with a fixed output shape."""

import torch
import torchvision
from torch import Tensor

from lightning_det.ops.largest import largest

GPU_CHUNK = 4096
"""Boxes per kernel call on a GPU; an image with more boxes gets its own call. The kernel's last part is sequential, and
its time per box grows with the number of boxes (on an H200 0.24 microseconds with 8,700 boxes, 0.82 with 32,768)."""


@torch.library.custom_op("lightning_det::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS within each group of each image, by torchvision's kernel.

    It is a custom operator, because its work depends on the data but the shape of its output does not. So the training
    step keeps static shapes, compiles as one graph, and waits for the device only here.

    Args:
        boxes: (B, N, 4) float, ``xyxy``.
        scores: (B, N) float.
        groups: (B, N) int64, small non-negative numbers; boxes of different groups never suppress each other.
        usable: (B, N) bool; unusable boxes neither survive nor suppress.
        iou_threshold: a box is removed when its IoU with a better one of its group is greater than this; at 1 none is.

    Returns:
        (B, N) bool, True for the survivors.
    """
    if iou_threshold >= 1:
        return usable.clone()
    keep = torch.zeros_like(usable)
    per_call = 1 if boxes.device.type == "cpu" else max(1, GPU_CHUNK // max(1, boxes.shape[1]))
    for start in range(0, boxes.shape[0], per_call):
        part = slice(start, start + per_call)
        chosen = usable[part].flatten().nonzero().squeeze(1)
        if chosen.numel() == 0:
            continue
        # Groups of different images must not meet: image-major group numbers.
        images = torch.arange(usable[part].shape[0], device=boxes.device)[:, None]
        numbers = (images * (groups.max() + 1) + groups[part]).flatten()[chosen]
        survivors = _suppress(boxes[part].flatten(0, 1)[chosen], scores[part].flatten()[chosen], numbers, iou_threshold)
        keep[part].view(-1)[chosen[survivors]] = True
    return keep


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    if boxes.device.type == "cpu":
        # torchvision's CPU kernel compares every survivor with every later box, whatever its group, so one
        # call per group is faster than the coordinate trick as soon as there are many boxes.
        return torchvision.ops.batched_nms(boxes.float(), scores.float(), groups, iou_threshold)
    # Offsets in double precision: in single precision they would round IoUs that lie near the threshold.
    boxes = boxes.double()
    offsets = groups.to(boxes) * (boxes.max() + 1)
    return torchvision.ops.nms(boxes + offsets[:, None], scores.double(), iou_threshold)


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(usable)


def best_after_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, usable: Tensor, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Finds the ``count`` best survivors of each image.

    Args:
        boxes: (B, N, 4) float, ``xyxy``.
        scores: (B, N) float.
        groups: (B, N) int64, as in `nms_mask`.
        usable: (B, N) bool.
        iou_threshold: as in `nms_mask`.
        count: how many to return at most.

    Returns:
        ``index`` (B, K) int64 and ``valid`` (B, K) bool with K = min(count, N), by falling score, survivors first.
    """
    keep = nms_mask(boxes, scores, groups, usable, iou_threshold)
    top, index = largest(scores.masked_fill(~keep, -torch.inf), count)
    return index, top > -torch.inf
