"""Pixels of images that are read part by part, so that large ones need not fit into memory."""

import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from lightning_det.data.images import LARGE, decode
from lightning_det.data.opening import ImageError, error_text, opened
from lightning_det.data.orientation import read_orientation

CACHE = 256
"""Memory that GDAL keeps decoded blocks in, megabytes: 512 rows of an image of 100,000 columns."""

ROWS = 1024
"""Rows that are read at once where all of an image is."""

GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": CACHE}
"""Settings: no file beside the image is read, which could change what it shows."""

PLAIN_TAGS: dict[int, set[Any]] = {258: {(8,), (8, 8, 8), (8, 8, 8, 8)}, 262: {1, 2}, 338: {None, (), (0,), (2,)}}
"""Tags of TIFF and the values with which GDAL and Pillow give equal pixels: bits per sample; black is zero, or RGB;
samples besides colour are none, of no known meaning, or transparency that the colours are not multiplied by."""


class Pixels(Protocol):
    """Pixels (3, H, W) uint8 RGB of an image as it is displayed: a tensor, or a file that is read part by part."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W)."""

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, decoded."""

    def __getitem__(self, place: Any, /) -> Tensor:
        """Pixels (3, h, w) of a place (all channels, rows, columns), three slices without steps."""


class TiffWindows:
    """A TIFF file whose parts are read when they are needed, through GDAL. Every process opens it for itself.

    Args:
        path: of the file.
        size: (width, height), pixels.
        channels: samples per pixel that are colours: 1 or 3.
    """

    def __init__(self, path: Path, size: tuple[int, int], channels: int):
        self.path = path
        self.shape = (3, size[1], size[0])
        self.nbytes = 3 * size[0] * size[1]
        self._channels = channels
        self._opened: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def __getitem__(self, place: tuple[slice, slice, slice], /) -> Tensor:
        """Reads pixels (3, h, w) uint8.

        Raises:
            ImageError: the file is damaged there, or gone.
        """
        import rasterio
        from rasterio.windows import Window

        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(place[1:], self.shape[1:], strict=True)
        )
        if top >= bottom or left >= right:
            return torch.zeros(3, max(0, bottom - top), max(0, right - left), dtype=torch.uint8)
        window = Window(left, top, right - left, bottom - top)
        try:
            with rasterio.Env(**GDAL):
                pixels = self._file().read(list(range(1, self._channels + 1)), window=window)
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"{self.path}: damaged image ({error_text(error.__cause__ or error)})") from error
        return torch.from_numpy(pixels).expand(3, -1, -1)

    def check(self) -> None:
        """Reads all pixels, to find damage.

        Raises:
            ImageError: there is some.
        """
        for top in range(0, self.shape[1], ROWS):
            self[:, top : top + ROWS, :]

    def _file(self) -> Any:
        """The open file. A forked process would share the position in a file that its parent has opened."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(self.path)
        return self._opened[1]


def open_pixels(path: Path) -> Pixels:
    """Opens an image: a large TIFF file to be read part by part if rasterio is installed; others are decoded.

    Raises:
        ImageError: see `decode`.
    """
    return open_windows(path) or decode(path)


def open_windows(path: Path) -> TiffWindows | None:
    """Opens a TIFF file of at least `LARGE` pixels to be read part by part; None for other files.

    The file must consist of blocks (tiles or strips) that are smaller, and of pixels that GDAL and Pillow read alike:
    grey or RGB of 8 bits, as they are displayed.

    Raises:
        ImageError: the file is missing, or `open_image` refuses it.
    """
    with opened(path) as (image, _):
        size = image.size
        if size[0] * size[1] < LARGE or not _is_plain(image) or find_spec("rasterio") is None:
            return None
        windows = TiffWindows(path, size, 1 if image.mode == "L" else 3)
    return windows if _has_small_blocks(windows) else None


def _is_plain(image: Image.Image) -> bool:
    if not isinstance(image, TiffImageFile) or image.mode not in ("L", "RGB", "RGBX", "RGBA"):
        return False
    tags = image.tag_v2
    return read_orientation(image) == 1 and all(tags.get(tag) in values for tag, values in PLAIN_TAGS.items())


def _open(path: Path) -> Any:
    import rasterio

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it logs are the causes of its errors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # no place on Earth is needed
        return rasterio.open(path.resolve(), driver="GTiff")


def _has_small_blocks(windows: TiffWindows) -> bool:
    """Whether GDAL can read the file in blocks of less than `LARGE` pixels each."""
    import rasterio

    try:
        with rasterio.Env(**GDAL), _open(windows.path) as file:
            plain = file.dtypes[0] == "uint8" and (file.height, file.width) == windows.shape[1:]
            return plain and int(np.prod(file.block_shapes[0])) < LARGE
    except (rasterio.errors.RasterioError, UnicodeError):  # Pillow may read it, or says what is wrong
        return False
