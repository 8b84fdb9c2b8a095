"""Opens image files, and refuses those that cannot be used, before any pixel is decoded."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lightning_det.system.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are opened, whatever the file's name; JPEG includes MPO. Pillow would run Ghostscript on PostScript."""

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16L", "I;16B", "I;16N"}
"""Pillow's pixel types that it converts to RGB, and integers of 16 bits."""

MAX_PIXELS = 2**29
"""Larger images (23,000 x 23,000) are refused before memory is allocated for them: cut them into parts."""

STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
"""Tags of TIFF: where the pixels are in the file, and how many bytes they take there."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit would warn at 89 million


class ImageError(UserError):
    """An image file cannot be used; the message names it."""


def open_image(path: Path, source: bytes | IO[bytes]) -> ImageFile:
    """Opens an image without decoding its pixels.

    Args:
        path: of the file, for messages.
        source: content of the file, or the open file.

    Raises:
        ImageError: the image has none of the `FORMATS` or an unsupported pixel type, is damaged, or is larger than
            `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError as error:
        unknown = f"not an image of a kind that is read ({', '.join(FORMATS)})"
        reason = "the file is empty" if path.stat().st_size == 0 else unknown
        raise ImageError(f"{path}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: its header claims more than {MAX_PIXELS} pixels; cut it into parts") from error
    except Exception as error:
        raise ImageError(f"{path}: damaged image ({error_text(error)})") from error
    check_pixels(image, path)
    return image


@contextmanager
def opened(path: Path) -> Iterator[tuple[ImageFile, IO[bytes]]]:
    """Opens an image file without decoding its pixels, for as long as the context lasts.

    Raises:
        ImageError: the file is missing, `open_image` refuses it, or what is done in the context fails on its content.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            yield open_image(path, file), file
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of many kinds for damaged data
        said = error.strerror if isinstance(error, OSError) else None
        raise ImageError(f"{path}: {said or f'damaged image ({error_text(error)})'}") from error


def check_pixels(image: Image.Image, name: str | Path) -> None:
    """Refuses pixels that cannot become RGB of 8 bits, and more of them than `MAX_PIXELS`.

    Args:
        image: opened; it need not be decoded.
        name: of the image, for messages.

    Raises:
        ImageError: saying what to do.
    """
    unbounded = _unbounded_type(image)
    if unbounded is not None:
        raise ImageError(f"{name}: {unbounded}, of which nobody says what is white; convert it to 8 or 16 bits")
    if isinstance(image, TiffImageFile) and _has_holes(image):
        raise ImageError(f"{name}: a sparse TIFF, parts of which were never written; copy it with SPARSE_OK=FALSE")
    if image.mode not in MODES:
        raise ImageError(f"{name}: pixels of kind {image.mode}; convert it to RGB")
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.size[0]} x {image.size[1]} pixels are more than {MAX_PIXELS}; cut it into parts"
        )


def read_bytes(path: Path) -> bytes:
    """Content of an image file.

    Raises:
        ImageError: it is missing or cannot be read.
    """
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def check_regular(path: Path) -> None:
    """Refuses devices and pipes, reading which may never end.

    Raises:
        ImageError: the path exists and is not a regular file.
    """
    # os.path: Path's methods raise errors for names that no file can have.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ImageError(f"{path}: not a regular file")


def error_text(error: Exception) -> str:
    """Returns the message of an error without torchvision's source location, or its type if it has no message."""
    return re.sub(r"^\w+, \S+:\d+, ", "", str(error)) or type(error).__name__


def _has_holes(image: TiffImageFile) -> bool:
    """Whether strips or tiles of a TIFF were never written. Pillow would show other bytes of the file there."""
    values = [image.tag_v2.get(tag, ()) for tag in (STRIP_OFFSETS, TILE_OFFSETS, STRIP_BYTES, TILE_BYTES)]
    # Of files with a single strip, some old ones leave its length open.
    return any(0 in found for found in values[:2]) or any(0 in found and len(found) > 1 for found in values[2:])


def _unbounded_type(image: Image.Image) -> str | None:
    """Describes pixels whose type has no largest value that would be white; None for other pixels."""
    if image.mode == "F":
        return "floating-point pixels"
    # PNG and PPM of 16 bits may open as I too.
    wide = image.mode == "I" and image.format not in ("PNG", "PPM")
    return "integer pixels of 32 bits, or with a sign" if wide else None
