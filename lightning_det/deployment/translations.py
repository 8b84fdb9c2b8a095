"""Operators that ONNX lacks, written with operators that it has."""

from collections.abc import Callable
from typing import Any

import torch

NOWHERE = -3e38
"""Score of a box in the groups that it does not belong to; lower than any score."""

SOMEWHERE = -2e38
"""Threshold between `NOWHERE` and any score."""


def translations() -> dict[Callable, Callable]:
    """Operators of torch, and the functions that write them as ONNX operators, for `torch.onnx.export`."""
    return {
        torch.ops.lightning_det.nms_mask.default: _nms_mask,
        torch.ops.torchvision.ps_roi_align.default: _ps_roi_align,
    }


def _operators() -> Any:
    """ONNX's operators as functions, which take constants of Python too, unlike what their annotations say."""
    from onnxscript import opset18

    return opset18


def _nms_mask(boxes: Any, scores: Any, groups: Any, usable: Any, iou_threshold: float) -> Any:
    """`lightning_det.ops.nms.nms_mask`: a group is a class of NonMaxSuppression, with scores for its own boxes only.

    The offsets by which torchvision keeps groups apart would round the boxes in single precision.
    """
    op = _operators()
    if iou_threshold >= 1:
        return op.Identity(usable)
    classes = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
    belongs = op.And(op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(classes, [1])), op.Unsqueeze(usable, [1]))
    per_class = op.Where(belongs, op.Unsqueeze(scores, [1]), op.Constant(value_float=NOWHERE))
    limit = op.Shape(scores, start=1)  # none: all boxes of a class may survive
    found = op.NonMaxSuppression(boxes, per_class, limit, [float(iou_threshold)], [SOMEWHERE])
    survivors = op.Gather(found, [0, 2], axis=1)  # of (image, class, box)
    ones = op.Expand(op.Constant(value_int=1), op.Shape(found, end=1))
    return op.Cast(op.ScatterND(op.Mul(groups, 0), survivors, ones), to=9)  # bool


def _ps_roi_align(
    maps: Any, rois: Any, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int
) -> Any:
    """Torchvision's ``ps_roi_align``: RoIAlign of all channels, of which each bin keeps its own.

    Its second result, which channel each value is from, serves the gradient only.
    """
    op = _operators()
    bins = pooled_height * pooled_width
    indices = op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7)  # int64
    aligned = op.RoiAlign(
        maps,
        op.Slice(rois, [1], [5], [1]),
        indices,
        coordinate_transformation_mode="half_pixel",
        output_height=pooled_height,
        output_width=pooled_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )
    # (N, C, bins of the channel, bins of the output): the diagonal of the last two.
    square = op.Reshape(aligned, [0, -1, bins, bins])
    own = op.ReduceSum(op.Mul(square, op.EyeLike(op.ConstantOfShape([bins, bins]), dtype=1)), [3], keepdims=0)
    return op.Reshape(own, [0, -1, pooled_height, pooled_width]), indices
