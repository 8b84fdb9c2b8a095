"""Labels of FocusPixels (Najibi, Singh and Davis, ICCV 2019, section 3.1): cells worth looking at more closely."""

import torch
from torch import Tensor

from lightning_det.ops.boxes import sqrt_area
from lightning_det.protocols.structures import State
from lightning_det.selection.matching import BACKGROUND, SKIP

FOCUS = 1
"""Label of a cell with a small object."""


def label_focus(
    boxes: Tensor,
    states: Tensor,
    sizes: Tensor,
    shape: tuple[int, int],
    stride: int,
    limits: tuple[float, float, float],
) -> Tensor:
    """Labels the cells of a feature map: which of them overlap a small object.

    - A cell that overlaps an object of a size between the first and the second limit is `FOCUS`.
    - Any other cell that overlaps an object up to the first limit, which is too small to be seen even closer, or from
      the second limit up to the third, which this view shows well enough, is `SKIP`. So is one in an ``IGNORED`` box,
      and one in the padding.
    - All other cells are `BACKGROUND`.

    A box overlaps cells floor(x1 / stride) to ceil(x2 / stride), both included, as in the authors' code: often one
    more than it touches. In that code the last box of the list decides about a cell that several overlap; here small
    objects win, as in the paper. Whether a box is valid for the detector does not matter.

    Args:
        boxes: (B, G, 4) ``xyxy``, pixels of the view, clipped to it.
        states: (B, G), see `State`.
        sizes: (B, 2), height and width of the views without padding.
        shape: (h, w), rows and columns of the map.
        stride: pixels of the view per cell.
        limits: sizes sqrt(width * height) in pixels of the view, ascending.

    Returns:
        (B, h, w) int64.
    """
    low, small, high = limits
    side = sqrt_area(boxes)
    known = (states == State.VALID) | (states == State.INVALID)
    is_small = known & (side > low) & (side < small)
    unsure = (known & ((side <= low) | ((side >= small) & (side < high)))) | (states == State.IGNORED)
    rows, columns = (_overlapped(boxes[..., axis::2], cells, stride) for axis, cells in ((1, shape[0]), (0, shape[1])))

    def covered(which: Tensor) -> Tensor:
        # A product over boxes: how many of them overlap each cell, (B, h, w).
        return ((rows & which[..., None]).float().transpose(1, 2) @ columns.float()) > 0

    outside = _beyond(sizes[:, 0], shape[0], stride)[:, :, None] | _beyond(sizes[:, 1], shape[1], stride)[:, None]
    labels = torch.where(covered(unsure) | outside, SKIP, BACKGROUND)
    return torch.where(covered(is_small) & ~outside, FOCUS, labels)


def _overlapped(ends: Tensor, cells: int, stride: int) -> Tensor:
    """Cells (B, G, cells) along one axis that boxes overlap, whose sides are at ``ends`` (B, G, 2)."""
    numbers = torch.arange(cells, device=ends.device)
    first, last = (ends[..., 0] / stride).floor(), (ends[..., 1] / stride).ceil()
    return (numbers >= first[..., None]) & (numbers <= last[..., None])


def _beyond(lengths: Tensor, cells: int, stride: int) -> Tensor:
    """Cells (B, cells) along one axis that lie in the padding of views of ``lengths`` (B,) pixels."""
    return torch.arange(cells, device=lengths.device) * stride >= lengths[:, None]
