"""Images as a program has them: files, arrays, Pillow's images and tensors."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_det.data.images import from_pillow
from lightning_det.data.opening import ImageError
from lightning_det.data.sizes import image_size
from lightning_det.data.text import is_text
from lightning_det.data.windows import Pixels, open_pixels

ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Tensor | Image.Image
"""A file; an array (H, W, 3) uint8 RGB, where (H, W) and (H, W, 1) are grey and (H, W, 4) is RGBA; a tensor
(3, H, W), (1, H, W) or (4, H, W), uint8 or float in [0, 1]; or an image of Pillow. Transparency is ignored."""

KINDS = "a path, an array (H, W, 3) uint8 RGB, a tensor (3, H, W), or an image of Pillow"

CHANNELS = (1, 3, 4)
"""Grey, RGB and RGBA."""


class Picture(NamedTuple):
    """An image whose pixels are made when they are needed."""

    name: str
    """For messages and results: the file, or which one of the images it is."""
    width: int
    """Pixels, as it is displayed."""
    height: int
    read: Callable[[], Pixels]
    """Makes the pixels, (3, H, W) uint8 RGB, in memory of their own; large files may be read part by part."""

    def kept(self) -> "Picture":
        """The same with its pixels in memory, whatever becomes of their source."""
        pixels = self.read()[:, :, :]
        return self._replace(read=lambda: pixels)

    def without_pixels(self) -> "Picture":
        """Its name and size."""
        return self._replace(read=_no_pixels)


def _no_pixels() -> Tensor:
    raise RuntimeError("the pixels of this image are gone")


def picture_of(image: ImageLike, number: int) -> Picture:
    """Checks an image, without decoding it where it is a file.

    Args:
        image: of any kind of `ImageLike`.
        number: its position among the images, for its name.

    Raises:
        ImageError: it cannot be used; the message names it, and what would do.
    """
    name = f"image {number}"
    if isinstance(image, str | os.PathLike):
        return _of_file(Path(image))
    if isinstance(image, Image.Image):
        pixels = from_pillow(image, name)  # its orientation decides about its size
        return Picture(name, pixels.shape[2], pixels.shape[1], lambda: pixels)
    if isinstance(image, Tensor):
        _check_tensor(image, name)
        return Picture(name, image.shape[2], image.shape[1], partial(_from_tensor, image))
    if isinstance(image, np.ndarray):
        _check_array(image, name)
        return Picture(name, image.shape[1], image.shape[0], partial(_from_array, image))
    raise ImageError(f"{name}: a {type(image).__name__} is no image; give {KINDS}, or a list of them")


def _of_file(path: Path) -> Picture:
    if not is_text(str(path)):
        raise ImageError(f"{str(path)!a}: a name that is not UTF-8, which results cannot hold; rename the file")
    if os.path.isdir(path):
        raise ImageError(f"{path}: a folder; give its images, such as sorted(Path({str(path)!r}).glob('*.jpg'))")
    width, height = image_size(path)

    def read() -> Pixels:
        pixels = open_pixels(path)
        if pixels.shape[1:] != (height, width):
            raise ImageError(f"{path}: changed while it was read; let it be written to its end first")
        return pixels

    return Picture(str(path), width, height, read)


def _check_array(image: np.ndarray, name: str) -> None:
    shape = tuple(image.shape)
    if image.dtype != np.uint8:
        raise ImageError(f"{name}: an array of {image.dtype}; an array needs uint8, 0 to 255 (a tensor may be float)")
    if len(shape) == 3 and shape[2] not in CHANNELS and shape[0] in CHANNELS:
        raise ImageError(f"{name}: an array {shape} with channels first; give array.transpose(1, 2, 0)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in CHANNELS) or 0 in shape:
        raise ImageError(f"{name}: an array {shape}; needed is (H, W, 3) RGB, (H, W, 4) RGBA, or (H, W) grey")


def _check_tensor(image: Tensor, name: str) -> None:
    shape = tuple(image.shape)
    if len(shape) == 3 and shape[0] not in CHANNELS and shape[2] in CHANNELS:
        raise ImageError(f"{name}: a tensor {shape} with channels last; give tensor.permute(2, 0, 1)")
    if len(shape) != 3 or shape[0] not in CHANNELS or 0 in shape:
        raise ImageError(f"{name}: a tensor {shape}; needed is (3, H, W) RGB, (4, H, W) RGBA, or (1, H, W) grey")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ImageError(f"{name}: a tensor of {image.dtype}; needed is uint8, or float in [0, 1]")
    if image.is_floating_point() and not ((image >= 0) & (image <= 1)).all():  # NaN is not either
        low, high = float(image.min()), float(image.max())
        raise ImageError(f"{name}: a float tensor from {low:.3g} to {high:.3g}; needed is [0, 1], not normalised")


def _from_array(image: np.ndarray) -> Tensor:
    channels = image[..., None] if image.ndim == 2 else image
    return _to_rgb(torch.from_numpy(np.array(channels)).permute(2, 0, 1))


def _from_tensor(image: Tensor) -> Tensor:
    pixels = image.detach().cpu()
    return _to_rgb((pixels.float() * 255).round().to(torch.uint8) if pixels.is_floating_point() else pixels.clone())


def _to_rgb(pixels: Tensor) -> Tensor:
    """(1, H, W) grey or (4, H, W) RGBA to (3, H, W), as `decode` does."""
    return pixels.expand(3, -1, -1).contiguous() if len(pixels) == 1 else pixels[:3].contiguous()
