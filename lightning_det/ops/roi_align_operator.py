"""RoIAlign as one operator.

torchvision's kernels read a channel of a map from places far apart, and the backward ones recompute every interpolation
weight for every channel: a quarter of the time of a Faster R-CNN step on a CPU, an eighth on a GPU. RoIAlign is linear
in the map, and its matrix of interpolation weights is the same for all channels. So the result is a sparse product that
reads all channels of a pixel at once, and the gradient is the product with the transposed matrix.
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


@torch.library.custom_op("lightning_det::roi_align", mutates_args=())
def align(canvas: Tensor, rois: Tensor, size: int, samples: int) -> Tensor:
    """``torchvision.ops.roi_align`` (scale 1, not aligned to half pixels), up to the order in which numbers are added.

    It is a custom operator, because a sparse tensor breaks a compiled graph. What it says of the strides of its results
    is true of them, unlike what torchvision's operator says.

    Args:
        canvas: (B, C, H, W).
        rois: (N, 5), image number and ``xyxy`` in pixels of the map.
        size: cells per side.
        samples: bilinear samples per cell and axis.

    Returns:
        (N, C, size, size), in channels-last format.
    """
    channels, height, width = canvas.shape[1:]
    on_gpu = canvas.device.type != "cpu"
    if on_gpu and not _has_kernels(canvas.device):
        cells = torchvision.ops.roi_align(canvas, rois, size, 1.0, samples, aligned=False)
        return cells.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    index, weight = taps(rois, height, width, size, samples)
    pixels, weight = canvas.permute(0, 2, 3, 1).reshape(-1, channels), weight.to(canvas.dtype)
    if on_gpu:
        from lightning_det.ops.weighted_rows import sum_rows

        cells = sum_rows(pixels, index, weight)
    else:
        cells = F.embedding_bag(index, pixels, per_sample_weights=weight, mode="sum")
    return cells.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _has_kernels(device: torch.device) -> bool:
    """Whether a device has kernels for sparse products here: not without Triton, nor where results must not vary."""
    wanted = device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    return wanted and find_spec("triton") is not None


@align.register_fake
def _(canvas: Tensor, rois: Tensor, size: int, samples: int) -> Tensor:
    return canvas.new_empty((rois.shape[0], size, size, canvas.shape[1])).permute(0, 3, 1, 2)


@torch.library.custom_op("lightning_det::roi_align_gradient", mutates_args=())
def gradient_of_canvas(gradient: Tensor, rois: Tensor, shape: list[int], size: int, samples: int) -> Tensor:
    """The gradient of `align`'s canvas of a (B, C, H, W) ``shape``, in channels-last format, by that of its result."""
    batch, channels, height, width = shape
    on_gpu = gradient.device.type != "cpu"
    if on_gpu and not _has_kernels(gradient.device):
        numbers = (1.0, size, size, batch, channels, height, width, samples, False)
        pixels = torch.ops.torchvision._roi_align_backward(gradient, rois, *numbers)
        return pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    index, weight = taps(rois, height, width, size, samples)
    per_cell = gradient.to(weight.dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    count = batch * height * width
    if on_gpu:
        from lightning_det.ops.weighted_rows import add_to_rows

        pixels = add_to_rows(per_cell, index, weight, count)
    else:
        rows = torch.arange(len(per_cell)).repeat_interleave(index.shape[1])
        places = torch.stack([index.flatten(), rows])
        matrix = torch.sparse_coo_tensor(places, weight.flatten(), (count, len(per_cell)), check_invariants=False)
        pixels = torch.sparse.mm(matrix, per_cell)
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2).to(gradient.dtype)


@gradient_of_canvas.register_fake
def _(gradient: Tensor, rois: Tensor, shape: list[int], size: int, samples: int) -> Tensor:
    batch, channels, height, width = shape
    return gradient.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    canvas, rois, ctx.size, ctx.samples = inputs
    ctx.save_for_backward(rois)
    ctx.shape = list(canvas.shape)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    """The RoIs get no gradient, as in torchvision."""
    (rois,) = ctx.saved_tensors
    return gradient_of_canvas(gradient, rois, ctx.shape, ctx.size, ctx.samples), None, None, None


align.register_autograd(_backward, setup_context=_keep)


def taps(rois: Tensor, height: int, width: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Finds the pixels that every output cell reads, and their weights.

    Args:
        rois: (N, 5) float, image number and ``xyxy`` in pixels of the map; half precision is raised to float32.
        height: of the map.
        width: of the map.
        size: cells per side.
        samples: bilinear samples per cell and axis.

    Returns:
        Positions in the flattened (B, H, W) and weights, both (N * size * size, T) with T = (2 * samples) ** 2.
    """
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    x, weight_x = _axis(rois[:, 1], rois[:, 3], width, size, samples)
    y, weight_y = _axis(rois[:, 2], rois[:, 4], height, size, samples)
    image = rois[:, 0].to(torch.int64)[:, None, None, None, None]
    # Bilinear weights and the mean over a grid of samples are products over both axes: (N, cy, cx, ty, tx).
    index = (image * height + y[:, :, None, :, None]) * width + x[:, None, :, None, :]
    weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    return index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)


def _axis(low: Tensor, high: Tensor, length: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Pixels and weights along one axis, (N, size, 2 * samples), with torchvision's rules at the border."""
    # In torchvision's order: another would move samples by rounding.
    cell = ((high - low).clamp(min=1.0) / size)[:, None, None]
    inner = (torch.arange(samples, device=low.device) + 0.5) * cell / samples
    position = (low[:, None, None] + torch.arange(size, device=low.device)[:, None] * cell + inner).flatten(1)
    inside = (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    first = position.floor()
    share = position - first
    weight = torch.stack([1 - share, share], dim=-1) * inside[..., None] / samples
    pixel = torch.stack([first, (first + 1).clamp(max=length - 1)], dim=-1).to(torch.int64)
    shape = (len(low), size, 2 * samples)
    return pixel.view(shape), weight.view(shape)
