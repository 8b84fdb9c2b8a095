"""Anchors of the feature maps of two-stage detectors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Anchors(nn.Module):
    """Anchors on a grid per feature map, in torchvision's numeric convention.

    Cell anchors have integer corners, are at least two pixels wide and high, and are centred on the top left corner of
    their cell. The grid step is the integer quotient of image and map size. So weights of torchvision mean the same.

    Args:
        sizes: one list per feature map: sides of the square anchors, pixels of the view.
        ratios: height / width of the anchors of every size.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float] = (0.5, 1.0, 2.0)):
        super().__init__()
        if not sizes or not all(sizes) or min(min(s) for s in sizes) <= 0 or not ratios or min(ratios) <= 0:
            raise ValueError(f"anchors need positive sizes per map and positive ratios, got {sizes} and {ratios}")
        self.sizes = [list(s) for s in sizes]
        self.ratios = list(ratios)
        for number, own in enumerate(sizes):
            self.register_buffer(f"cell{number}", _cell_anchors(own, ratios), persistent=False)
        self._cache: dict[tuple[object, ...], list[Tensor]] = {}

    @property
    def cells(self) -> list[Tensor]:
        """Anchors (n, 4) of a cell of each map, around its top left corner."""
        return [self.get_buffer(f"cell{number}") for number in range(len(self.sizes))]

    @property
    def per_cell(self) -> list[int]:
        """Number of anchors per cell of each map."""
        return [len(cell) for cell in self.cells]

    @property
    def count(self) -> int:
        """Number of sizes on all maps."""
        return sum(map(len, self.sizes))

    def with_sizes(self, sizes: Sequence[float], ratios: Sequence[float] | None = None) -> "Anchors":
        """The same anchors with other sizes, one per map or all of them on the only map, and perhaps other ratios."""
        return Anchors([sizes] if len(self.sizes) == 1 else [[s] for s in sizes], ratios or self.ratios)

    def forward(self, image_size: tuple[int, int], maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (h * w * per_cell, 4) of every map (B, C, h, w), ordered by row, column, and anchor of a cell."""
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        if torch.compiler.is_compiling():  # the graph computes them: a cache would change under it
            return self._grids(image_size, shapes, maps[0].device)
        key = (tuple(image_size), shapes, maps[0].device)
        if key not in self._cache:
            if len(self._cache) >= 32:  # multi-scale training has many canvas sizes
                self._cache.clear()
            self._cache[key] = self._grids(image_size, shapes, maps[0].device)
        return self._cache[key]

    def _grids(
        self, image_size: tuple[int, int], shapes: Sequence[tuple[int, int]], device: torch.device
    ) -> list[Tensor]:
        cells = (cell.to(device).float() for cell in self.cells)  # a detector in half precision has anchors in single
        return [_grid(cell, shape, image_size) for cell, shape in zip(cells, shapes, strict=True)]


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    sides = torch.tensor([float(s) for s in sizes])
    stretch = torch.tensor([float(r) for r in ratios]).sqrt()
    widths = (sides[None, :] / stretch[:, None]).flatten()
    heights = (sides[None, :] * stretch[:, None]).flatten()
    corners = torch.stack([widths, heights], dim=1).div(2).round().clamp(min=1)  # torchvision's may have no area
    return torch.cat([-corners, corners], dim=1)


def _grid(cell: Tensor, shape: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    ys = torch.arange(shape[0], device=cell.device) * (image_size[0] // shape[0])
    xs = torch.arange(shape[1], device=cell.device) * (image_size[1] // shape[1])
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4)
