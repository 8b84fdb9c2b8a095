"""Parts of images at another size."""

from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from lightning_det.data.windows import ROWS, Pixels

HUGE = 2**26
"""Parts of at least this many pixels are shrunk in two steps and band by band, or a copy would not fit into memory."""

GAP = 2
"""The second of the two steps shrinks at least by this factor."""


def resize_part(pixels: Pixels, rows: slice, columns: slice, shape: tuple[int, int]) -> Tensor:
    """Returns a part of an image at another size, antialiased, bilinear.

    Huge parts are first averaged over blocks of whole pixels: ``reducing_gap=2`` of Pillow's `Image.resize`, whose
    result this is.

    Args:
        pixels: (3, H, W) uint8.
        rows: of the part, within the image.
        columns: likewise.
        shape: (height, width) of the result.

    Returns:
        (3, *shape) uint8.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    factor = max(1, height // (shape[0] * GAP)), max(1, width // (shape[1] * GAP))
    huge = height * width >= HUGE and factor != (1, 1)
    if huge or shape == (1, 1):  # of which torch fails an assertion
        return _resize_averaged(pixels, rows, columns, shape, factor if huge else (1, 1))
    part = pixels[:, rows, columns].contiguous()
    return part if (height, width) == shape else tvf.resize(part, list(shape), antialias=True)


def for_picture(pixels: Pixels, scale: float | None = None) -> tuple[np.ndarray, float]:
    """Returns an image to draw on, shrunk if it is huge: other programs could hardly open the picture.

    Args:
        pixels: (3, H, W) uint8.
        scale: at most 1: factor of its size; None: 1, or one divided by the smallest number that leaves at most
            `HUGE` pixels.

    Returns:
        (h, w, 3) uint8 and the factor by which it was resized.
    """
    height, width = pixels.shape[1:]
    rows, columns = slice(0, height), slice(0, width)
    if scale is None:
        factor = ceil((height * width / HUGE) ** 0.5)
        if factor > 1:
            return _average(pixels, rows, columns, (factor, factor)), 1 / factor
        scale = 1.0
    shape = max(1, round(scale * height)), max(1, round(scale * width))
    return resize_part(pixels, rows, columns, shape).permute(1, 2, 0).numpy(), scale


def _resize_averaged(
    pixels: Pixels, rows: slice, columns: slice, shape: tuple[int, int], factor: tuple[int, int]
) -> Tensor:
    """Averages blocks of ``factor`` (rows, columns) pixels, then resizes."""
    box = 0, 0, (columns.stop - columns.start) / factor[1], (rows.stop - rows.start) / factor[0]
    averaged = Image.fromarray(_average(pixels, rows, columns, factor))
    small = averaged.resize(shape[::-1], Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _average(pixels: Pixels, rows: slice, columns: slice, factor: tuple[int, int]) -> np.ndarray:
    """Averages blocks of ``factor`` (rows, columns) pixels of a part, band by band; returns (h, w, 3) uint8."""
    down, across = factor
    step = down * max(1, ROWS // down)
    bands = []
    for top in range(rows.start, rows.stop, step):
        band = pixels[:, top : min(top + step, rows.stop), columns].permute(1, 2, 0).contiguous().numpy()
        bands.append(np.asarray(Image.fromarray(band).reduce((across, down))))
    return np.concatenate(bands)
