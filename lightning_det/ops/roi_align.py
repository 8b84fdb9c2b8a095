"""RoIAlign over one map or a feature pyramid, without a data-dependent shape."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from lightning_det.ops.roi_align_operator import align
from lightning_det.ops.tracing import is_compiling, is_exporting

CANONICAL_SIZE = 224.0
CANONICAL_STRIDE = 16
"""A RoI of 224 x 224 pixels is read from the map of stride 16 (FPN, equation 1)."""


class Canvas(NamedTuple):
    """Feature maps packed side by side into one map."""

    pixels: Tensor
    """(B, C, h, w)."""
    strides: tuple[int, ...]
    """Pixels of the view per cell of each map, finest first."""
    corners: tuple[tuple[int, int], ...]
    """Top left (x, y) of each map on the canvas, cells."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each map, cells."""


def roi_align(canvas: Canvas, rois: Tensor, size: int, samples: int = 2) -> Tensor:
    """Computes the features of every RoI, from the map that suits its size.

    Indexing RoIs by map would make shapes depend on the data, and the host would wait once per map. Instead, the
    maps are packed side by side into one canvas, each RoI is moved to its map's part of it, and torchvision's kernel
    runs once. Values equal ``torchvision.ops.MultiScaleRoIAlign`` (not aligned to half pixels, so that
    torchvision's weights fit) up to the rounding of the moved coordinates. The exception are RoIs of a pyramid that
    begin less than a cell from the right or bottom border of their map: the kernel widens them to a cell, and reads
    zeros beyond the map. On the canvas there are other values, so they are moved inside.

    Args:
        canvas: the maps, see `pack`.
        rois: (B, R, 4) float32 ``xyxy``, pixels of the view, inside it.
        size: cells per side of the output.
        samples: bilinear samples per cell and axis.

    Returns:
        (B * R, C, size, size).
    """
    batch = torch.arange(rois.shape[0], device=rois.device, dtype=rois.dtype)[:, None, None]
    pixels, strides, corners, sizes = canvas
    if len(strides) == 1:
        placed = rois / strides[0]
    else:
        level = pyramid_level(rois, strides)
        placed = rois / _per_level(level, strides)[..., None]
        x, y = (_per_level(level, c) for c in zip(*corners, strict=True))
        last = torch.stack([_per_level(level, side) - 1 for side in zip(*sizes, strict=True)], dim=-1)
        placed = torch.cat([placed[..., :2].minimum(last), placed[..., 2:]], dim=-1)
        placed = placed + torch.stack([x, y, x, y], dim=-1)
    indexed = torch.cat([batch.expand(-1, rois.shape[1], -1), placed], dim=-1).flatten(0, 1)
    kernel = _roi_align if is_exporting() else align
    # In float32, as under autocast: half precision would move coordinates by parts of a cell.
    return kernel(pixels.float(), indexed.float(), size, samples).to(pixels.dtype)


def _roi_align(pixels: Tensor, rois: Tensor, size: int, samples: int) -> Tensor:
    return torchvision.ops.roi_align(pixels, rois, size, 1.0, samples, aligned=False)


def pyramid_level(rois: Tensor, strides: Sequence[int]) -> Tensor:
    """Chooses the map that each of the (B, R, 4) RoIs is read from: its position (B, R) int64 (FPN, equation 1)."""
    area = (rois[..., 2] - rois[..., 0]) * (rois[..., 3] - rois[..., 1])
    octave = torch.floor(torch.log2(area.clamp(min=0).sqrt() / CANONICAL_SIZE) + 1e-6)
    canonical = round(math.log2(CANONICAL_STRIDE / strides[0]))
    return (octave + canonical).clamp(0, len(strides) - 1).to(torch.int64)


def _per_level(level: Tensor, values: Sequence[float]) -> Tensor:
    """Returns ``values[level]`` without copying a table of values to the device."""
    out = torch.full_like(level, values[0], dtype=torch.float32)
    for number, value in enumerate(values[1:], start=1):
        out = out.masked_fill(level == number, float(value))
    return out


def pack(maps: Sequence[Tensor], strides: Sequence[int]) -> Canvas:
    """Packs feature maps into one: the finest map, with the coarser ones stacked to its right.

    Every map gets a border that repeats its edge, as RoIAlign does at the edge of a separate map.

    Args:
        maps: feature maps (B, C, h, w), finest first; consecutive ones halve the size.
        strides: pixels of the view per cell of each map.
    """
    if len(maps) == 1:
        return Canvas(maps[0], tuple(strides), ((0, 0),), _sizes(maps))
    framed = [_frame(m) for m in maps]
    first, rest = framed[0], framed[1:]
    width = rest[0].shape[3]
    heights = first.shape[2], sum(m.shape[2] for m in rest)
    height = cast(int, torch.sym_max(*heights)) if is_exporting() else max(heights)  # the size is open in exports
    corners, row = [(1, 1)], 1
    for m in rest:
        corners.append((first.shape[3] + 1, row))
        row += m.shape[2]
    column = torch.cat([F.pad(m, (0, width - m.shape[3], 0, 0)) for m in rest], dim=2)
    parts = [F.pad(m, (0, 0, 0, height - m.shape[2])) for m in (first, column)]
    return Canvas(torch.cat(parts, dim=3), tuple(strides), tuple(corners), _sizes(maps))


def _sizes(maps: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((m.shape[3], m.shape[2]) for m in maps)


def _frame(m: Tensor) -> Tensor:
    """A map (B, C, h, w) with a border of one cell that repeats its edge, (B, C, h + 2, w + 2)."""
    if not is_compiling():
        return F.pad(m, (1, 1, 1, 1), mode="replicate")
    # What torch 2.14 tells compilers of the strides of that operator's gradient is wrong.
    m = torch.cat([m[:, :, :1], m, m[:, :, -1:]], dim=2)
    return torch.cat([m[..., :1], m, m[..., -1:]], dim=3)
