"""Resolutions of views: a scale factor, or sides in pixels."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import TypeGuard

Resolution = float | Sequence[int]
"""A pair (short side, cap of the long side) in pixels, -1 for unconstrained, or a plain scale factor."""

LARGEST_FACTOR = 8.0
"""A larger factor must be a number of pixels given by mistake: no detector needs images enlarged that much."""


def check_resolution(resolution: object) -> None:
    """Refuses values that are not a `Resolution`, and factors that are most likely numbers of pixels.

    Raises:
        ValueError: the message says what is valid.
    """
    kinds = "a resolution is a pair (short side, cap of the long side) in pixels, -1 for unconstrained, or a factor"
    if _is_number(resolution):
        if not (resolution > 0 and isfinite(resolution)):
            raise ValueError(f"a scale factor must be positive, got {resolution}; {kinds}")
        if resolution > LARGEST_FACTOR:
            pixels = round(resolution)
            raise ValueError(
                f"{resolution:g} would be a scale factor, which enlarges images {resolution:g} times; if pixels were "
                f"meant, give [{pixels}, {round(pixels * 5 / 3)}] (short side, cap of the long side) or [-1, {pixels}] "
                f"(long side); factors go up to {LARGEST_FACTOR:g}"
            )
        return
    pair = list(resolution) if isinstance(resolution, Sequence) and not isinstance(resolution, str) else []
    if len(pair) != 2 or not all(_is_number(v) and isfinite(v) and (v > 0 or v == -1) for v in pair) or max(pair) <= 0:
        raise ValueError(f"{kinds}, got {resolution!r}")
    short, cap = pair
    if short > cap > 0:
        raise ValueError(
            f"{pair}: the short side cannot be longer than the cap of the long side; give [{cap}, {short}] (short side "
            f"first) or [-1, {cap}] (long side alone)"
        )


def scale_factor(width: int, height: int, resolution: Resolution) -> float:
    """Computes the factor from an image to ``resolution``: the short side's, unless the long side exceeds its cap."""
    if isinstance(resolution, int | float):
        return float(resolution)
    short, cap = resolution
    scale = short / min(width, height) if short > 0 else inf
    if cap > 0 and (scale == inf or round(scale * max(width, height)) > cap):
        scale = cap / max(width, height)
    return scale


def is_finer(first: Resolution, second: Resolution) -> bool:
    """Whether ``first`` is finer on every image. False for a factor and a pair: their order depends on the image."""
    if isinstance(first, int | float) and isinstance(second, int | float):
        return first > second
    if isinstance(first, int | float) or isinstance(second, int | float):
        return False
    ends = [(inf if a == -1 else a, inf if b == -1 else b) for a, b in zip(first, second, strict=True)]
    return all(a > b or a == b == inf for a, b in ends)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
