"""Image files to RGB tensors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from lightning_det.data.opening import ImageError, check_pixels, error_text, open_image, opened, read_bytes
from lightning_det.data.orientation import apply_orientation, read_orientation, swaps_sides
from lightning_det.data.png import is_complete
from lightning_det.system.errors import out_of_memory

LARGE = 2**24
"""Images with at least this many pixels are decoded with few copies, and checked one at a time: eight smaller ones at
once need a gigabyte."""

BAND = 1024
"""Rows of a large image that are converted at once."""

BIT_DEPTH = 24
"""Position of the bits per sample in a PNG file."""

JPEG_END = b"\xff\xd9"
"""Marker near the end of a JPEG file that is not cut off."""


class Header(NamedTuple):
    """Size and orientation of an image file, read without decoding its pixels."""

    stored: tuple[int, int]
    """(width, height) of the pixels in the file."""
    orientation: int
    """Exif's orientation, 1 to 8: how the pixels are rotated and mirrored for display; 1: as stored."""
    complete: bool
    """Whether the file is complete and, if it is PNG, has correct checksums."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image as it is displayed."""
        width, height = self.stored
        return (height, width) if swaps_sides(self.orientation) else (width, height)


def decode(path: Path) -> Tensor:
    """Decodes an image file as it is displayed.

    Exif orientation is applied; grey, CMYK, palette and transparent images become RGB, 16 bits become 8. The first of
    several pictures in a file (animations, pages) is taken. JPEG is decoded by torchvision (twice as fast as Pillow
    on large files), and so are large PNG files in colour (which takes half of the memory); everything else by Pillow.
    Images of `LARGE` pixels and more stay in the order in which they were decoded, channels last, because a copy could
    exceed memory.

    Args:
        path: the file.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ImageError: the file is missing or damaged, or `open_image` refuses it.
    """
    data = read_bytes(path)
    image = open_image(path, data)
    try:
        decoder = _decoder(image, data)
        if decoder is not None:
            orientation = read_orientation(image)
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels = decoder(encoded, mode=torchvision.io.ImageReadMode.RGB).numpy()
        else:
            pixels, orientation = _load(image)
        del image  # up to a gigabyte of pixels, which are copied
        return _turned(pixels, orientation)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of many kinds for damaged data
        if out_of_memory(error):
            raise
        raise ImageError(f"{path}: damaged image ({error_text(error)})") from error


def _decoder(image: Image.Image, data: bytes) -> Callable[..., Tensor] | None:
    """Torchvision's decoder of a file, where it is faster or takes less memory than Pillow; None: Pillow decodes."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        return torchvision.io.decode_jpeg
    width, height = image.size
    large_png = image.format == "PNG" and image.mode in ("RGB", "RGBA") and width * height >= LARGE
    return torchvision.io.decode_png if large_png and data[BIT_DEPTH] == 8 else None


def from_pillow(image: Image.Image, name: str = "image") -> Tensor:
    """Converts one of Pillow's images as `decode` does its file: as it is displayed, (3, H, W) uint8 RGB.

    Args:
        image: one without an Exif orientation, such as one that was turned already, stays as it is.
        name: of the image, for messages.

    Raises:
        ImageError: its pixels are of a kind that `open_image` refuses, or its file is damaged.
    """
    check_pixels(image, name)
    try:
        return _turned(*_load(image))
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ImageError(f"{name}: damaged image ({error_text(error)})") from error


def _load(image: Image.Image) -> tuple[np.ndarray, int]:
    """Decodes (3, H, W) uint8 RGB pixels as stored, and their orientation."""
    orientation = read_orientation(image)  # before the file of a PNG is closed
    image.load()
    if image.format == "TIFF":
        orientation = read_orientation(image)  # newer versions of Pillow turn it while loading
    width, height = image.size
    if width * height < LARGE or image.mode.startswith("I"):
        return np.asarray(_to_rgb(image)).transpose(2, 0, 1), orientation
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):  # Pillow's own conversion needs two copies more
        bottom = min(top + BAND, height)
        pixels[top:bottom] = np.asarray(_to_rgb(image.crop((0, top, width, bottom))))
    return pixels.transpose(2, 0, 1), orientation


def _turned(pixels: np.ndarray, orientation: int) -> Tensor:
    """Pixels as they are displayed, in memory of their own."""
    turned = apply_orientation(pixels, orientation)
    large = turned[0].size >= LARGE and min(turned.strides) > 0  # torch has no negative strides
    return torch.from_numpy(np.require(turned, requirements=["W"] if large else ["C", "W"]))


def header(path: Path) -> Header:
    """Reads size and orientation of an image file.

    Raises:
        ImageError: the file is missing, or `open_image` refuses it.
    """
    with opened(path) as (image, file):
        # Newer versions of Pillow swap a TIFF's sides according to its orientation, older ones do not.
        stored = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
        return Header(stored, read_orientation(image), _is_complete(image.format, file))


def _is_complete(kind: str | None, file: IO[bytes]) -> bool:
    if kind == "PNG":
        return is_complete(file)
    file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
    return kind not in ("JPEG", "MPO") or JPEG_END in file.read()


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any of the modes that are opened, as RGB of 8 bits."""
    if image.mode.startswith("I"):
        # 16 bits use the whole range of their type; Pillow's own conversion clips at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
