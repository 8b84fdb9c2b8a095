"""The tensors that pass between data, detectors and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STRIDE = 32
"""Sides of padded canvases are multiples of this, so that every feature map halves evenly. Views of one shape get no
padding."""


class State:
    """How a part of a detector may learn from a box of a view.

    An ``INVALID`` box keeps its class: regions that overlap it can be labelled with the class, but the box has no
    positives of its own, and anchors near it carry no loss (SNIP, section 6.1). The class of whatever
    overlaps an ``IGNORED`` box is unknown (COCO crowd, VOC difficult).

    The values are plain integers, because torch.compile evaluates ``tensor == IntEnum member`` to False.
    """

    PADDING = 0
    VALID = 1
    INVALID = 2
    IGNORED = 3


@dataclass
class Batch:
    """``B`` views of images, padded to one size, with their boxes padded to one count ``G``.

    Boxes are ``xyxy`` in pixels of the view, which starts at the top left of its canvas; windows and ranges are
    in pixels of the original image.

    Every box has a state for each part that learns from boxes: ``states`` for the detector proper and
    ``anchor_states`` for the anchors of its proposal network. They differ only between ``VALID`` and ``INVALID``. A
    detector without a proposal network reads ``states`` only.
    """

    images: Tensor
    """(B, 3, H, W) uint8, RGB, zero outside the view."""
    sizes: Tensor
    """(B, 2) int64, height and width of the view without padding."""
    boxes: Tensor
    """(B, G, 4) float32."""
    labels: Tensor
    """(B, G) int64, classes counted from 0; 0 for padding and for ignored regions of any class."""
    states: Tensor
    """(B, G) int64, values of `State`, for the detector proper, from the view's ``valid_range``."""
    windows: Tensor
    """(B, 4) float32, the part of the original image that the view shows."""
    ranges: Tensor
    """(B, 2) float32, valid range of sqrt(width * height)."""
    flips: Tensor
    """(B,) bool, whether the view is mirrored left to right."""
    index: Tensor
    """(B,) int64, position of the image in its annotation store."""
    inner: Tensor | None = None
    """(B, 4) bool, whether the window cuts the image at its left, top, right and bottom; None: nowhere."""
    tiles: Tensor | None = None
    """(B, 3) float32, columns, rows and side of the tiles that also show the window, see `View`; 0 without tiles."""
    borders: Tensor | None = None
    """(B,) float32, see `View.border`; None: 0."""
    levels: Tensor | None = None
    """(B,) int64, number of the view's resolution in its pyramid; None: not known."""
    anchor_states: Tensor | None = None
    """(B, G) int64, values of `State`, for the anchors of a proposal network, from the view's ``anchor_range`` if it
    has one; None: equal to ``states``."""

    def __post_init__(self) -> None:
        if self.anchor_states is None:
            self.anchor_states = self.states

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy of the batch on ``device``; Lightning and the tests call it."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy of the batch in page-locked memory; torch's DataLoader calls it."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(t) for name, t in tensors.items() if t is not None})

    @property
    def scales(self) -> Tensor:
        """(B,) float32, view pixels per original pixel: the geometric mean over both axes."""
        width = self.windows[:, 2] - self.windows[:, 0]
        height = self.windows[:, 3] - self.windows[:, 1]
        return (self.sizes[:, 0] / height * (self.sizes[:, 1] / width)).sqrt()


class Detections(NamedTuple):
    """Detections of ``B`` views, sorted by falling score and padded to one count ``N``."""

    boxes: Tensor
    """(B, N, 4) float32 ``xyxy``, pixels of the view."""
    scores: Tensor
    """(B, N) float32; 0 for padding."""
    labels: Tensor
    """(B, N) int64, classes counted from 0."""
    valid: Tensor
    """(B, N) bool, False for padding."""


class ImageRecord(NamedTuple):
    """An image as view planners see it: size and annotations, no pixels."""

    width: int
    height: int
    boxes: np.ndarray
    """(n, 4) float64 ``xyxy``, pixels of the image."""
    labels: np.ndarray
    """(n,) integer, classes counted from 0."""
    ignored: np.ndarray
    """(n,) bool, True for regions that carry no loss (COCO crowd, VOC difficult)."""
    proposals: np.ndarray = np.zeros((0, 4), np.float32)
    """(k, 4) float32 ``xyxy``, pixels of the image: mined by a proposal network; empty if none were mined."""
