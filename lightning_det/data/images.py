"""Image files to RGB tensors."""

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, Problem
from lightning_det.errors import UserError, out_of_memory

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

MAX_PIXELS = 2**29
"""Larger images (23,000 x 23,000) are refused before memory is taken for them: cut them into parts."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit would warn at 89 million

ORIENTATION = 0x0112
"""Exif tag."""

END = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What the last bytes of a file hold by its format, if nothing is cut off."""


class ImageError(UserError):
    """An image file cannot be used; the message names it."""


def decode(path: Path) -> Tensor:
    """Decodes an image file as it is meant to be seen.

    Exif orientation is applied; grey, CMYK, palette and transparent images become RGB, 16 bits become 8. JPEG is
    decoded by torchvision (twice as fast as Pillow on large files), everything else by Pillow.

    Args:
        path: the file.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ImageError: the file is missing, no image, damaged or larger than `MAX_PIXELS`.
    """
    data = _read(path)
    image = _open(path, data)
    try:
        if image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation_is_exif(image):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            mode = torchvision.io.ImageReadMode.RGB
            return torchvision.io.decode_jpeg(encoded, mode=mode, apply_exif_orientation=True)
        pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # on damaged data Pillow's plugins raise whatever they stumble over
        if out_of_memory(error):
            raise
        raise ImageError(f"{path}: damaged image ({_reason(error)})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file as it is meant to be seen, from its header.

    A JPEG or PNG file without an end is decoded, to tell one that was cut off from one that is merely unusual.

    Raises:
        ImageError: the file is missing, no image, cut off or larger than `MAX_PIXELS`.
    """
    _check_kind(path)
    try:
        with path.open("rb") as file:
            image = _open(path, file)
            # New Pillow has turned a TIFF's size already, old Pillow has not.
            size = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            # Orientations 5 to 8 turn the image by a quarter.
            size = size[::-1] if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8) else size
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
            whole = END.get(image.format, b"") in file.read()
    except ImageError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"damaged image ({_reason(error)})"
        raise ImageError(f"{path}: {reason}") from error
    if not whole:
        decode(path)
    return size


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
    return track(items, description, total=total, transient=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_kind(path: Path) -> None:
    """Refuses what is no regular file: reading a device or a pipe might never end."""
    if path.exists() and not path.is_file():
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
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "not an image that Pillow knows"
        raise ImageError(f"{path}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: its header claims more than {MAX_PIXELS} pixels; cut it into parts") from error
    except Exception as error:
        raise ImageError(f"{path}: damaged image ({_reason(error)})") from error
    if image.mode == "F":
        raise ImageError(
            f"{path}: floating-point pixels, of which nobody says what is white; convert it to 8 or 16 bits"
        )
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ImageError(
            f"{path}: {image.size[0]} x {image.size[1]} pixels are more than {MAX_PIXELS}; cut it into parts"
        )
    return image


def _orientation_is_exif(image: Image.Image) -> bool:
    """Whether torchvision, which knows Exif alone, turns a JPEG as Pillow does, which reads it from XMP too."""
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif.get(ORIENTATION, 1) == image.getexif().get(ORIENTATION, 1)


def _reason(error: Exception) -> str:
    """An error in words, without the place in torchvision's sources."""
    return re.sub(r"^\w+, \S+:\d+, ", "", str(error)) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits use the whole range of their type; Pillow's own conversion clips at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image.convert("RGB")
