"""A view of an image, and its geometry."""

from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_det.protocols.structures import Batch

NEAR = 1 / 64
"""A detection this close to a border, as a share of the window's side, may have been cut by it."""


class Distortion(NamedTuple):
    """A change of colours."""

    brightness: float
    """Value added to the channels, which are in [0, 1]."""
    contrast: float
    """Factor of the channels."""
    saturation: float
    """Factor of S of HSV."""
    hue: float
    """Rotation of H of HSV, in [-0.5, 0.5]."""
    contrast_first: bool
    """Whether contrast comes before saturation and hue, or after them."""


Range = tuple[float, float]
"""Lower bound, included, and upper bound, excluded, of sqrt(width * height) in original pixels."""


class View(NamedTuple):
    """One look at one image: the pixels of ``window``, resized by ``scale``, perhaps mirrored.

    In training, the detector learns from boxes whose sqrt(width * height) in original pixels lies in ``valid_range``;
    at inference, it keeps detections of these sizes. The anchors of a proposal network may have another range.
    """

    scale: float
    """View pixels per original pixel."""
    window: tuple[int, int, int, int]
    """``xyxy`` in pixels of the original image. Integers, so that pixels and boxes are cut at the same place. The
    window may reach beyond the image."""
    valid_range: Range = (0.0, inf)
    """Sizes of the boxes that the detector learns from and of the detections that it keeps."""
    anchor_range: Range | None = None
    """The range of the anchors of a proposal network, if it differs. SNIP's also contains small objects at the middle
    scale, from which the detector proper does not learn there."""
    flip: bool = False
    level: int = 0
    """Number of the view's resolution in its pyramid; mini-batches hold views of one level."""
    valid_boxes: tuple[int, ...] | None = None
    """Positions, in the image's list, of the boxes that the detector learns from. None: range and visibility decide."""
    anchor_boxes: tuple[int, ...] | None = None
    """The same for the anchors of a proposal network, if it differs from ``valid_boxes``."""
    shape: tuple[int, int] | None = None
    """(height, width) that the window is warped to, pixels; None: the window's size times ``scale``."""
    distortion: Distortion | None = None
    """The change of its colours, or None."""
    inner: tuple[bool, bool, bool, bool] = (False, False, False, False)
    """Whether the window cuts the image at its left, top, right and bottom: objects at such a border may be cut."""
    border: float = 0.0
    """Detections whose side is nearer than so many original pixels to such a border are removed, see `inner`."""
    tiles: tuple[int, int, int] | None = None
    """Number of columns and rows, and side in original pixels, of evenly spaced tiles that show the window at a finer
    scale. An object that one of them shows whole is detected in the tile, and not in this view."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the view, pixels."""
        if self.shape is not None:
            return self.shape
        x1, y1, x2, y2 = self.window
        return max(1, round((y2 - y1) * self.scale)), max(1, round((x2 - x1) * self.scale))

    @property
    def ranges(self) -> tuple[Range, Range]:
        """The ranges of the detector proper and of the anchors of a proposal network."""
        return self.valid_range, self.anchor_range or self.valid_range

    @property
    def lists(self) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """The boxes listed for the detector proper and for the anchors of a proposal network; None: not listed."""
        return self.valid_boxes, self.valid_boxes if self.anchor_boxes is None else self.anchor_boxes


def sqrt_areas(boxes: np.ndarray) -> np.ndarray:
    """Computes sqrt(width * height) (n,) of (n, 4) boxes."""
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def in_learning_range(boxes: np.ndarray, limits: Range) -> np.ndarray:
    """Finds the (n, 4) boxes in original pixels inside a range: (n,) bool, lower <= sqrt(width * height) < upper."""
    sides = sqrt_areas(boxes)
    return (sides >= limits[0]) & (sides < limits[1])


def boxes_to_view(boxes: np.ndarray, view: View) -> np.ndarray:
    """Converts (n, 4) boxes from original pixels to pixels of the view, without clipping.

    Pixels are resized from the window to the rounded size, so boxes are scaled by the ratio of the two, which
    differs from ``view.scale`` by up to half a pixel over the view.
    """
    x1, y1, x2, y2 = view.window
    height, width = view.size
    factors = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    moved = (boxes - np.array([x1, y1, x1, y1])) * factors
    if view.flip:
        moved[:, [0, 2]] = width - moved[:, [2, 0]]
    return moved


def touches_cut(boxes: Tensor, batch: Batch) -> Tensor:
    """Finds the (B, N, 4) boxes, in pixels of the original image, at a border that cuts the image: (B, N) bool."""
    if batch.inner is None:
        return torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    windows = batch.windows[:, None]
    margin = ((windows[..., 2:] - windows[..., :2]) * NEAR).repeat(1, 1, 2)
    return (((boxes - windows).abs() <= margin) & batch.inner[:, None]).any(dim=-1)


def near_border(boxes: Tensor, batch: Batch) -> Tensor:
    """Finds the (B, N, 4) boxes, in pixels of the original image, that `View.border` removes: (B, N) bool.

    AutoFocus, section 3.3: what a chip cuts is detected by another chip or at another scale.
    """
    if batch.inner is None or batch.borders is None:
        return torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    near = (boxes - batch.windows[:, None]).abs() < batch.borders[:, None, None]
    return (near & batch.inner[:, None]).any(dim=-1)


def whole_in_a_tile(boxes: Tensor, batch: Batch) -> Tensor:
    """Finds the (B, N, 4) boxes, in pixels of the original image, that a tile of their view shows whole: (B, N)."""
    if batch.tiles is None:
        return torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    corner, extent = batch.windows[:, None, :2], (batch.windows[:, 2:] - batch.windows[:, :2])[:, None]
    count, side = batch.tiles[:, None, :2], torch.minimum(batch.tiles[:, None, 2:], extent)
    step = ((extent - side) / (count - 1).clamp(min=1)).clamp(min=1)
    start, end = boxes[..., :2] - corner, boxes[..., 2:] - corner
    margin = side * NEAR
    # Along each axis, the last tile that begins before the box.
    number = ((start - margin) / step).floor().clamp(min=0).minimum(count - 1)
    inside = (number == count - 1) | (end < number * step + side - margin)
    return inside.all(dim=-1) & (batch.tiles[:, 2:] > 0)


def leaves_some_out(batch: Batch) -> Tensor:
    """Whether detections of each view are removed by `near_border` or `whole_in_a_tile`: (B,) bool."""
    none = torch.zeros(len(batch), dtype=torch.bool, device=batch.windows.device)
    of_tiles = none if batch.tiles is None else batch.tiles[:, 2] > 0
    return of_tiles | (none if batch.borders is None else batch.borders > 0)


def boxes_to_image(boxes: Tensor, batch: Batch) -> Tensor:
    """Converts (B, N, 4) boxes from pixels of the views to pixels of their original images: undoes `boxes_to_view`."""
    sizes = batch.sizes.to(boxes.dtype)[:, None]
    mirrored = torch.stack([sizes[..., 1] - boxes[..., 2], sizes[..., 1] - boxes[..., 0]], dim=-1)
    x = torch.where(batch.flips[:, None, None], mirrored, boxes[..., 0::2])
    y = boxes[..., 1::2]
    window = batch.windows[:, None]
    x = x * ((window[..., 2:3] - window[..., 0:1]) / sizes[..., 1:2]) + window[..., 0:1]
    y = y * ((window[..., 3:4] - window[..., 1:2]) / sizes[..., 0:1]) + window[..., 1:2]
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
