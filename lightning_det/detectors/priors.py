"""Prior boxes of single-shot detectors (SSD, section 2.2), in the numeric convention of its Caffe code."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn


class Priors(nn.Module):
    """Boxes on a grid per prediction map.

    Per cell: a square of the map's size, one of the geometric mean of it and the next map's size, then for each ratio
    a wide box and a tall one. They are not clipped to the image.

    Args:
        sizes: sides of the squares, one per map and one more, pixels of the view. None: `spread` over ``objects``.
        ratios: width / height above 1, for all maps alike or one list per map.
        steps: distance between cell centres of each map, pixels of the view. None: image size / map size. Published
            are 8, 16, 32, 64, 100 and 300; on the 2 x 2 cells of DSOD's last map they put 12 of 16 priors outside the
            image.
        longest: upper limit of all sides, pixels of the view. None: no limit; torchvision's is the side of the image.
        objects: sizes of objects, smallest first, pixels of the view; only the first and the last are used.
        maps: number of prediction maps to spread sizes over; given by the detector.
    """

    def __init__(
        self,
        sizes: Sequence[float] | None = None,
        ratios: Sequence[float] | Sequence[Sequence[float]] = (2.0,),
        steps: Sequence[float] | None = None,
        longest: float | None = None,
        objects: Sequence[float] = (),
        maps: int = 1,
    ):
        super().__init__()
        if sizes is None:
            if not objects or min(objects) <= 0 or list(objects) != sorted(objects):
                raise ValueError(
                    f"priors need their sizes, or positive sizes of objects, smallest first, got {list(objects)}"
                )
            sizes = spread(objects[0], objects[-1], maps)
        count = len(sizes) - 1
        lists = [list(r) for r in ratios if isinstance(r, Sequence)]
        if lists and len(lists) != len(ratios):
            raise ValueError(f"ratios of priors must be numbers, or a list for every map, got {list(ratios)}")
        if not (longest is None or longest > 0) or not all(step > 0 for step in steps or ()):
            raise ValueError(f"steps and the longest side of priors must be above 0, got {steps} and {longest}")
        by_map = lists or [[r for r in ratios if not isinstance(r, Sequence)]] * count
        bad = min(sizes) <= 0 or any(r <= 0 for own in by_map for r in own)
        if bad or count < 1 or len(by_map) != count or (steps is not None and len(steps) != count):
            raise ValueError(
                "priors need positive sizes for every map and one more, and as many steps and positive ratios "
                f"(lists) as maps; got sizes {list(sizes)}, ratios {list(ratios)}, steps {steps}"
            )
        self.ratios = by_map
        self.longest = longest
        self.steps = None if steps is None else list(steps)
        self.per_cell = [2 + 2 * len(r) for r in by_map]
        for number, own in enumerate(by_map):
            cell = _cell(sizes[number], sizes[number + 1], own)
            if longest is not None:
                cell = cell.clamp(-longest / 2, longest / 2)
            self.register_buffer(f"cell{number}", cell, persistent=False)

    @property
    def cells(self) -> list[Tensor]:
        """Boxes (n, 4) of a cell of each map, around its centre."""
        return [self.get_buffer(f"cell{number}") for number in range(len(self.per_cell))]

    def with_sizes(self, objects: Sequence[float]) -> "Priors":
        """The same priors, spread over other sizes of objects."""
        return Priors(None, self.ratios, self.steps, self.longest, objects, len(self.per_cell))

    def forward(self, image_size: tuple[int, int], maps: Sequence[Tensor]) -> Tensor:
        """Priors (P, 4) float32 ``xyxy`` in pixels of the view: by map, row, column, and box of a cell.

        Args:
            image_size: (height, width) of the padded batch.
            maps: prediction maps (B, C, h, w).
        """
        return torch.cat([self._grid(number, image_size, (m.shape[-2], m.shape[-1])) for number, m in enumerate(maps)])

    def _grid(self, number: int, image_size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        cell = self.get_buffer(f"cell{number}")
        steps = [self.steps[number]] * 2 if self.steps else [i / s for i, s in zip(image_size, shape, strict=True)]
        y, x = ((torch.arange(n, device=cell.device) + 0.5) * step for n, step in zip(shape, steps, strict=True))
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([centre_x, centre_y] * 2, dim=-1)
        return (centre[:, :, None] + cell).reshape(-1, 4)


def _cell(size: float, larger: float, ratios: Sequence[float]) -> Tensor:
    """Boxes (n, 4) of a cell around its centre."""
    sides = [(size, size), (sqrt(size * larger),) * 2]
    for ratio in ratios:
        wide = size * sqrt(ratio), size / sqrt(ratio)
        sides += [wide, wide[::-1]]
    half = torch.tensor(sides) / 2
    return torch.cat([-half, half], dim=1)


def spread(smallest: float, largest: float, maps: int) -> list[float]:
    """``maps + 1`` sizes in equal ratios: from the smallest to the largest, which is the last map's, and one beyond."""
    ratio = (largest / smallest) ** (1 / max(1, maps - 1))
    return [smallest * ratio**number for number in range(maps + 1)]
