"""Label assignment of points (FCOS, Tian et al., ICCV 2019, section 3): which are positive, negative or skipped."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_det.protocols.structures import State
from lightning_det.selection.matching import BACKGROUND, CHUNK, SKIP


class Points(NamedTuple):
    """``P`` points of all maps of a pyramid, and the objects that each is responsible for."""

    places: Tensor
    """(P, 2) float32, x and y, pixels of the view."""
    strides: Tensor
    """(P,) float32, distance between neighbouring points of the map."""
    lowest: Tensor
    """(P,) float32: objects whose farthest side is nearer belong to a finer map."""
    highest: Tensor
    """(P,) float32: objects whose farthest side is farther away belong to a coarser map."""


def distances_to_sides(places: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) of points (..., 2) to the left, top, right and bottom sides of boxes (..., 4).

    All are positive for a point inside. Leading dimensions broadcast.
    """
    return torch.cat([places - boxes[..., :2], boxes[..., 2:] - places], dim=-1)


def label_points(points: Points, boxes: Tensor, states: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Labels points with the boxes of their views.

    A point **samples** a box if it lies inside, within ``radius`` strides of the centre along both axes, and if the
    distance to the farthest side is in the range of the point's map. Of the valid and invalid boxes that it samples, a
    point belongs to the smallest.

    - A point of a ``VALID`` box is positive.
    - A point of an ``INVALID`` box carries no loss. Other points in the box are background, as they would be if the
      box were valid.
    - An ``IGNORED`` box may hold objects anywhere, as large as itself. A point inside, which belongs to no valid box,
      carries no loss on the maps that such objects could belong to: those whose lower limit is below the distance to
      the farthest side of the box.
    - All other points are background.

    Args:
        points: shared by the batch.
        boxes: (B, G, 4).
        states: (B, G), see `State`.
        radius: of the region around the centre, in strides of the map; infinite: the whole box.

    Returns:
        labels: (B, P) int64 of 1 (object), `BACKGROUND` and `SKIP`.
        index: (B, P) int64, the box that the point belongs to; 0 where there is none.
    """
    shape = (boxes.shape[0], len(points.places))
    smallest = boxes.new_full(shape, torch.inf)
    index = torch.zeros(shape, dtype=torch.int64, device=boxes.device)
    unknown = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    stride, lowest, highest = (x[:, None] for x in (points.strides, points.lowest, points.highest))
    for start in range(0, boxes.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        state = states[:, None, part]
        left, top, right, bottom = distances_to_sides(points.places[:, None], boxes[:, None, part]).unbind(dim=-1)
        nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
        farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
        off_centre = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
        fits = (farthest > lowest) & (farthest < highest)
        samples = (nearest > 0) & (off_centre < radius * stride) & fits
        known = (state == State.VALID) | (state == State.INVALID)
        size = torch.where(samples & known, (left + right) * (top + bottom), torch.inf)
        least, place = size.min(dim=2)
        index = torch.where(least < smallest, place + start, index)
        smallest = torch.minimum(smallest, least)
        unknown |= ((nearest > 0) & (farthest > lowest) & (state == State.IGNORED)).any(dim=2)
    belongs = smallest < torch.inf
    valid = belongs & (states.gather(1, index) == State.VALID)
    labels = torch.where(belongs | unknown, SKIP, BACKGROUND)
    return labels.masked_fill(valid, 1), index
