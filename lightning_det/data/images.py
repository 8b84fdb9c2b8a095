"""Image files to RGB tensors."""

import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image, UnidentifiedImageError
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, Problem
from lightning_det.data.png import exif_of, is_whole
from lightning_det.system.errors import UserError, one_line, out_of_memory

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""All that is opened, MPO as JPEG, whatever the file's name: Pillow would hand PostScript to Ghostscript to run it."""

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16L", "I;16B", "I;16N"}
"""Kinds of pixels that Pillow turns into RGB, and integers of 16 bits."""

MAX_PIXELS = 2**29
"""Larger images (23,000 x 23,000) are refused before memory is taken for them: cut them into parts."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit would warn at 89 million

ORIENTATION = 0x0112
"""Exif tag."""

LARGE = 2**24
"""Pixels from which on images that are checked are decoded one at a time; of smaller ones, eight need a gigabyte."""

_alone = threading.Lock()

JPEG_END = b"\xff\xd9"
"""What is among the last bytes of a JPEG file, if nothing is cut off."""


class ImageError(UserError):
    """An image file cannot be used; the message names it."""


class Header(NamedTuple):
    """What an image file says about itself before its pixels."""

    stored: tuple[int, int]
    """(width, height) of the pixels in the file."""
    orientation: int
    """How Exif says that they are to be turned and mirrored to be seen: 1 is not at all."""
    whole: bool
    """Whether the file's end is there, and in PNG whether its checksums are right."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as the image is meant to be seen: orientations 5 to 8 turn it by a quarter."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


def decode(path: Path) -> Tensor:
    """Decodes an image file as it is meant to be seen.

    Exif orientation is applied; grey, CMYK, palette and transparent images become RGB, 16 bits become 8. Of several
    pictures in a file (animations, pages) the first is taken. JPEG is decoded by torchvision (twice as fast as Pillow
    on large files), everything else by Pillow.

    Args:
        path: the file.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ImageError: the file is missing, none of `FORMATS`, damaged or larger than `MAX_PIXELS`.
    """
    data = _read(path)
    image = _open(path, data)
    try:
        orientation = _orientation(image)
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            pixels = torchvision.io.decode_jpeg(encoded, mode=torchvision.io.ImageReadMode.RGB).numpy()
        else:
            image.load()
            if image.format == "TIFF":
                orientation = _orientation(image)  # loading has turned it, where Pillow does that
            pixels = np.asarray(_to_rgb(image)).transpose(2, 0, 1)
        del image  # its pixels are copied, and may be a gigabyte
        return torch.from_numpy(np.require(_turned(pixels, orientation), requirements=["C", "W"]))
    except ImageError:
        raise
    except Exception as error:  # on damaged data Pillow's plugins raise whatever they stumble over
        if out_of_memory(error):
            raise
        raise ImageError(f"{path}: damaged image ({_reason(error)})") from error


def header(path: Path) -> Header:
    """Reads what a file says about itself.

    Raises:
        ImageError: the file is missing, none of `FORMATS`, or larger than `MAX_PIXELS`.
    """
    _check_kind(path)
    try:
        with path.open("rb") as file:
            image = _open(path, file)
            # New Pillow has turned a TIFF's size already, old Pillow has not.
            stored = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            orientation = _orientation(image)
            return Header(stored, orientation, _is_whole(image.format, file))
    except ImageError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"damaged image ({_reason(error)})"
        raise ImageError(f"{path}: {reason}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file as it is meant to be seen, from its header.

    A JPEG file without an end, or a PNG file with a wrong checksum, is decoded, to tell one that is damaged from one
    that is merely unusual.

    Raises:
        ImageError: the file is missing, none of `FORMATS`, cut off or larger than `MAX_PIXELS`.
    """
    found = header(path)
    return found.size if found.whole else decoded_size(path)


def decoded_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image that has been decoded, of which nothing is kept.

    Of images of `LARGE` pixels and more, threads decode one at a time.

    Raises:
        ImageError: see `decode`.
    """

    def size() -> tuple[int, int]:
        return tuple(decode(path).shape[:0:-1])

    width, height = header(path).stored
    if width * height < LARGE:
        return size()
    # In a new thread, which takes over the memory of the last one: threads keep what they have freed.
    with _alone, ThreadPoolExecutor(1) as pool:
        return pool.submit(size).result()


def size_fault(path: Path, annotated: tuple[int, int], size: tuple[int, int], name: str = "it") -> str:
    """Why an image does not have the size that its annotations state, in words.

    Args:
        path: the file.
        annotated: (width, height) that the annotations state.
        size: (width, height) of the image as it is meant to be seen.
        name: of the image.
    """
    stated, real = (" x ".join(map(str, s)) for s in (annotated, size))
    reason = f"annotated as {stated}, but {name} is {real}"
    try:
        found = header(path)
    except ImageError:
        return reason
    if found.size != tuple(size) or found.stored != tuple(annotated) or found.orientation == 1:
        return reason
    return (
        f"{reason} as it is seen: it is stored as {stated} and turned by its Exif orientation {found.orientation}, so "
        "the annotations seem to be for the unturned pixels. Annotate it as it is seen, or take the orientation out "
        "of the file (exiftool -Orientation= FILE), which leaves its pixels as they are annotated"
    )


def check_all(
    paths: Sequence[Path], function: Callable, description: str, threads: int = 8
) -> tuple[list, dict[int, Problem]]:
    """Runs a function that reads an image file on many files, in threads, with a progress bar.

    Args:
        paths: the files.
        function: raises `ImageError` for a bad file.
        description: what the progress bar says.
        threads: how many files at once.

    Returns:
        Results, None for a bad file, and the problem of every bad file by its position.
    """
    problems: dict[int, Problem] = {}

    def attempt(number_and_path):
        number, path = number_and_path
        try:
            return function(path)
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
            problems[number] = Problem(str(path), "", reason, IMAGE_LEFT_OUT)
            return None

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(attempt, enumerate(paths), chunksize=64)
        return list(progress(results, description, len(paths))), dict(sorted(problems.items()))


def progress(items: Iterable, description: str, total: int, threshold: int = 500) -> Iterable:
    """A progress bar around ``items`` if there are enough of them to wait for."""
    if total < threshold:
        return items
    return track(items, escape(one_line(description)), total=total, transient=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_kind(path: Path) -> None:
    """Refuses what is no regular file: reading a device or a pipe might never end."""
    if os.path.exists(path) and not os.path.isfile(path):  # unlike Path's, no error for names that no file can have
        raise ImageError(f"{path}: not a regular file")


def _read(path: Path) -> bytes:
    _check_kind(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def _open(path: Path, source) -> Image.Image:
    """Opens without decoding; the source is bytes or an open file."""
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError as error:
        unknown = f"not an image of a kind that is read ({', '.join(FORMATS)})"
        reason = "the file is empty" if path.stat().st_size == 0 else unknown
        raise ImageError(f"{path}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: its header claims more than {MAX_PIXELS} pixels; cut it into parts") from error
    except Exception as error:
        raise ImageError(f"{path}: damaged image ({_reason(error)})") from error
    kind = _unusable(image)
    if kind is not None:
        raise ImageError(f"{path}: {kind}, of which nobody says what is white; convert it to 8 or 16 bits")
    if image.mode not in MODES:
        raise ImageError(f"{path}: pixels of kind {image.mode}; convert it to RGB")
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ImageError(
            f"{path}: {image.size[0]} x {image.size[1]} pixels are more than {MAX_PIXELS}; cut it into parts"
        )
    return image


def _is_whole(kind: str, file: IO[bytes]) -> bool:
    if kind == "PNG":
        return is_whole(file)
    file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
    return kind not in ("JPEG", "MPO") or JPEG_END in file.read()


def _unusable(image: Image.Image) -> str | None:
    """Numbers without a largest one; None for pixels of other kinds."""
    if image.mode == "F":
        return "floating-point pixels"
    # PNG and PPM of 16 bits may open as I too.
    return "integer pixels of 32 bits, or with a sign" if image.mode == "I" and image.format == "TIFF" else None


def _orientation(image: Image.Image) -> int:
    """Exif's orientation, 1 to 8; 1, as stored, where it says nothing or cannot be read."""
    try:
        exif = Image.Image.getexif(image)  # PNG's own would decode all of the file
        if image.format == "PNG" and ORIENTATION not in exif:
            exif.load(exif_of(image.fp))
        value = exif.get(ORIENTATION, 1)
    except Exception:  # Pillow raises whatever it stumbles over; the pixels may be well
        return 1
    return value if value in range(1, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of pixels (3, H, W) that is turned and mirrored as Exif says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(1, 2)
    mirrored = (orientation - 1) % 4
    if mirrored in (1, 2):
        pixels = pixels[:, :, ::-1]
    return pixels[:, ::-1] if mirrored in (2, 3) else pixels


def _reason(error: Exception) -> str:
    """An error in words, without the place in torchvision's sources."""
    return re.sub(r"^\w+, \S+:\d+, ", "", str(error)) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits use the whole range of their type; Pillow's own conversion clips at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
