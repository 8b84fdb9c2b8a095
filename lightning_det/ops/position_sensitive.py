"""Position-sensitive RoI pooling: each bin of a RoI reads its own channels (R-FCN, equation 1).

All functions take maps (B, C * k * k, H, W), whose channel (c * k + i) * k + j belongs to output channel c and to the
bin of row i and column j, and RoIs (B, R, 4) float32 ``xyxy`` in pixels of the view; they return (B, R, C, k, k).
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

SMALLEST = 0.1
"""Minimum side of a RoI, cells (py-R-FCN)."""


def ps_roi_align(maps: Tensor, rois: Tensor, bins: int, stride: int, samples: int = 2) -> Tensor:
    """Averages bilinear samples at the centres of a grid in each bin, without rounding.

    Args:
        maps: see above.
        rois: see above.
        bins: k.
        stride: pixels of the view per cell.
        samples: per bin and axis.
    """
    batch, count, _ = rois.shape
    image = torch.arange(batch, device=rois.device, dtype=rois.dtype)[:, None, None].expand(-1, count, 1)
    indexed = torch.cat([image, rois], dim=-1).flatten(0, 1)
    # In float32: coordinates in half precision would be off by whole cells.
    pooled = torchvision.ops.ps_roi_align(maps.float(), indexed, bins, 1 / stride, samples)
    return pooled.view(batch, count, -1, bins, bins)


def ps_roi_pool(maps: Tensor, rois: Tensor, bins: int, stride: int) -> Tensor:
    """Averages the whole cells of each bin, as published (py-R-FCN's ``psroi_pooling``).

    Edges are rounded to pixels, bins to cells that contain them; an empty bin is 0. Unlike torchvision's
    ``ps_roi_pool``, it includes the last row and column of the map. The sum over a rectangle is computed from four
    values of the integral image (running sums) of the map.

    Args:
        maps: see above.
        rois: see above.
        bins: k.
        stride: pixels of the view per cell.
    """
    height, width = maps.shape[2:]
    per_bin = maps.float().unflatten(1, (-1, bins, bins))
    # In float64: differences of running sums lose digits.
    sums = F.pad(per_bin.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0)).flatten(-2)
    corner, side = _to_cells(rois, stride)
    edges = corner[..., None] + torch.arange(bins + 1, device=rois.device) * (side[..., None] / bins)  # x and y
    low, high = edges[..., :-1].floor(), edges[..., 1:].ceil()
    x1, x2 = (e[:, :, 0, None, :].clamp(0, width).long() for e in (low, high))
    y1, y2 = (e[:, :, 1, :, None].clamp(0, height).long() for e in (low, high))

    def at(y: Tensor, x: Tensor) -> Tensor:
        # (B, R, k, k) positions, looked up in (B, C, k, k, (H + 1) * (W + 1)).
        index = (y * (width + 1) + x).permute(0, 2, 3, 1)[:, None].expand(-1, sums.shape[1], -1, -1, -1)
        return sums.gather(-1, index)

    total = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    cells = ((x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)).permute(0, 2, 3, 1)[:, None]
    mean = torch.where(cells > 0, total / cells.clamp(min=1), 0.0)
    return mean.permute(0, 4, 1, 2, 3).float()


def deformable_ps_roi_pool(
    maps: Tensor,
    rois: Tensor,
    bins: int,
    stride: int,
    offsets: Tensor | None = None,
    samples: int = 4,
    reach: float = 0.1,
) -> Tensor:
    """Averages bilinear samples from bins that may be shifted.

    Sources: Deformable ConvNets v1, section 2.2, and its released kernel.

    As in the kernel, each sample lies at the top left of its part of the bin, not at the centre, and samples outside
    the map are ignored.

    Args:
        maps: see above.
        rois: see above.
        bins: k.
        stride: pixels of the view per cell.
        offsets: (B, R, T, 2, k, k) shift (x, y) of every bin, as a share of the RoI's sides; T divides C, and
            consecutive channels share a shift. None: no bin is shifted.
        samples: per bin and axis.
        reach: factor that scales the offsets (the paper's gamma).
    """
    height, width = maps.shape[2:]
    corner, side = _to_cells(rois, stride)
    corner = corner - 0.5
    if offsets is None:
        offsets = rois.new_zeros(*rois.shape[:2], 1, 2, bins, bins)
    kinds = offsets.shape[2]
    place = torch.arange(bins, device=rois.device)
    share = torch.arange(samples, device=rois.device) / samples
    shift = offsets.float() * (reach * side)[:, :, None, :, None, None] + corner[:, :, None, :, None, None]
    step = (side / bins)[:, :, None, :, None, None, None]
    # Coordinates of samples (B, R, T, k, k, samples): x by columns, y by rows.
    x = shift[:, :, :, 0, :, :, None] + (place[None, :, None] + share) * step[:, :, :, 0]
    y = shift[:, :, :, 1, :, :, None] + (place[:, None, None] + share) * step[:, :, :, 1]
    counts_x, counts_y = (x >= -0.5) & (x <= width - 0.5), (y >= -0.5) & (y <= height - 0.5)
    counts = counts_y[..., :, None] & counts_x[..., None, :]  # (B, R, T, k, k, samples, samples)

    def grid_coordinate(position: Tensor, length: int) -> Tensor:
        return 2 * position.clamp(0, length - 1) / max(1, length - 1) - 1

    grid = torch.stack(
        torch.broadcast_tensors(grid_coordinate(x, width)[..., None, :], grid_coordinate(y, height)[..., :, None]),
        dim=-1,
    )
    # Every (image, kind, bin) is an image of its own with C / T channels, and RoIs x samples its output.
    grid = grid.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(0, 3).flatten(2, 3)
    counts = counts.permute(0, 2, 3, 4, 1, 5, 6).flatten(0, 3).flatten(2, 3)[:, None]
    source = maps.float().unflatten(1, (kinds, -1, bins, bins)).permute(0, 1, 3, 4, 2, 5, 6).flatten(0, 3)
    values = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=True)
    mean = (values * counts).sum(-1) / counts.sum(-1).clamp(min=1)
    mean = mean.unflatten(0, (rois.shape[0], kinds, bins, bins))  # (B, T, k, k, C / T, R)
    return mean.permute(0, 5, 1, 4, 2, 3).flatten(2, 3)


def _to_cells(rois: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Top left corner (B, R, 2) and sides (B, R, 2), x and y, in cells; edges rounded to pixels, halves up."""
    edges = (rois + 0.5).floor() / stride
    return edges[..., :2], (edges[..., 2:] - edges[..., :2]).clamp(min=SMALLEST)
