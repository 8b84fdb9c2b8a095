"""FocusChips (Najibi, Singh and Davis, ICCV 2019, section 3.2): rectangles of a view that deserve a closer look."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def focus_chips(
    probabilities: np.ndarray, size: tuple[int, int], stride: int, threshold: float, dilation: int, least: int
) -> np.ndarray:
    """Finds rectangles around all cells of a map that are likely to show small objects.

    Cells of at least ``threshold`` are dilated. Every connected component of cells, corners included, becomes its
    bounding rectangle, which is enlarged around its centre to the least side and pushed into the view. Rectangles
    that touch or overlap become one, until none do.

    Args:
        probabilities: (h, w) of the cells, padding included.
        size: (height, width) of the view without padding, pixels.
        stride: pixels of the view per cell.
        threshold: lowest probability of a cell that is looked at.
        dilation: side of the square that every such cell is dilated to, in cells; odd.
        least: least side of a rectangle, in cells.

    Returns:
        (k, 4) int64 ``xyxy``, pixels of the view. They do not overlap, lie inside the view, enclose every dilated cell,
        and are at least ``least`` cells wide and high, if the view is.
    """
    extent = (-(-size[0] // stride), -(-size[1] // stride))
    on = torch.from_numpy(np.ascontiguousarray(probabilities[: extent[0], : extent[1]])) >= threshold
    on = F.max_pool2d(on[None].float(), dilation, 1, dilation // 2)[0] > 0
    while True:
        cells = [_enlarge(rectangle, least, extent) for rectangle in rectangles(on).tolist()]
        filled = torch.zeros_like(on)
        for x1, y1, x2, y2 in cells:
            filled[y1:y2, x1:x2] = True
        if torch.equal(filled, on):
            break
        on = filled
    chips = np.array(cells, np.int64).reshape(-1, 4) * stride
    # The last cells of a view may reach beyond it.
    limit = np.array([size[1], size[0]])
    chips[:, 2:] = np.minimum(chips[:, 2:], limit)
    chips[:, :2] = np.minimum(chips[:, :2], np.maximum(chips[:, 2:] - least * stride, 0))
    return chips


def rectangles(on: Tensor) -> Tensor:
    """Bounding rectangles (k, 4) int64 ``xyxy``, in cells, of the connected components of (h, w) bool cells.

    Cells that touch at a side or a corner are connected.
    """
    height, width = on.shape
    numbers = torch.arange(1, on.numel() + 1).reshape(1, height, width).double() * on
    while True:  # every cell takes the highest number around it, until a component has one number
        spread = F.max_pool2d(numbers, 3, 1, 1) * on
        if torch.equal(spread, numbers):
            break
        numbers = spread
    _, component = numbers[0][on].unique(return_inverse=True)
    y, x = on.nonzero(as_tuple=True)
    count = int(component.max()) + 1 if len(component) else 0
    ends = [
        torch.zeros(count, dtype=torch.int64).scatter_reduce(0, component, values, how, include_self=False)
        for values, how in ((x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax"))
    ]
    return torch.stack(ends, dim=1)


def _enlarge(rectangle: list[int], least: int, extent: tuple[int, int]) -> tuple[int, int, int, int]:
    """Enlarges a rectangle to the least side around its centre, inside a view of ``extent`` (rows, columns) cells."""
    x1, y1, x2, y2 = rectangle
    (left, right), (top, bottom) = (
        _enlarge_side(*ends, least, cells) for ends, cells in (((x1, x2), extent[1]), ((y1, y2), extent[0]))
    )
    return left, top, right, bottom


def _enlarge_side(start: int, end: int, least: int, cells: int) -> tuple[int, int]:
    side = min(max(end - start, least), cells)
    first = min(max((start + end - side) // 2, 0), cells - side)
    return first, first + side
