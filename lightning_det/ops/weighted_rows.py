"""Weighted sums of rows of a matrix, and their gradient, as kernels for GPUs.

torch's ``embedding_bag`` computes the same sums. Its gradient sorts the rows first, which costs more than adding them
up in any order.
"""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 256
"""Columns of the matrix that a program handles together."""

SUMS = 8
"""Sums that a program computes one after the other. Neighbouring ones read the same rows, which the cache then has."""


@triton.jit
def _sum_rows(rows, index, weight, out, count, channels, TAPS: tl.constexpr, SUMS: tl.constexpr, WIDTH: tl.constexpr):
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    for number in range(SUMS):
        place = tl.program_id(0).to(tl.int64) * SUMS + number
        valid = (column < channels) & (place < count)
        total = tl.zeros([WIDTH], out.dtype.element_ty)
        for tap in range(TAPS):
            row = tl.load(index + place * TAPS + tap, mask=place < count, other=0)
            factor = tl.load(weight + place * TAPS + tap, mask=place < count, other=0)
            total += factor * tl.load(rows + row * channels + column, mask=valid, other=0)
        tl.store(out + place * channels + column, total, mask=valid)


@triton.jit
def _add_to_rows(
    values, index, weight, rows, count, channels, TAPS: tl.constexpr, SUMS: tl.constexpr, WIDTH: tl.constexpr
):
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    for number in range(SUMS):
        place = tl.program_id(0).to(tl.int64) * SUMS + number
        valid = (column < channels) & (place < count)
        value = tl.load(values + place * channels + column, mask=valid, other=0)
        for tap in range(TAPS):
            row = tl.load(index + place * TAPS + tap, mask=place < count, other=0)
            factor = tl.load(weight + place * TAPS + tap, mask=place < count, other=0)
            tl.atomic_add(rows + row * channels + column, factor * value, mask=valid, sem="relaxed")


def sum_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Computes ``(rows[index] * weight[..., None]).sum(dim=1)``.

    Args:
        rows: (P, C) float32 or float64, on a GPU.
        index: (N, T) int64, rows of each sum.
        weight: (N, T), of the type of ``rows``.

    Returns:
        (N, C), of the type of ``rows``.
    """
    out = rows.new_empty((len(index), rows.shape[1]))
    return _launch(_sum_rows, rows, index, weight, out, len(index))


def add_to_rows(values: Tensor, index: Tensor, weight: Tensor, count: int) -> Tensor:
    """The gradient of the rows by ``values``, that of the sums, see `sum_rows`. Its order of additions is not fixed.

    Args:
        values: (N, C) float32 or float64, on a GPU.
        index: (N, T) int64.
        weight: (N, T), of the type of ``values``.
        count: P, number of rows.

    Returns:
        (P, C), of the type of ``values``.
    """
    rows = values.new_zeros((count, values.shape[1]))
    return _launch(_add_to_rows, values, index, weight, rows, len(index))


def _launch(kernel, given: Tensor, index: Tensor, weight: Tensor, result: Tensor, count: int) -> Tensor:
    channels = given.shape[1]
    width = min(CHANNELS, triton.next_power_of_2(channels))
    grid = (triton.cdiv(count, SUMS), triton.cdiv(channels, width))
    if count and channels:
        given = given.contiguous()  # the rows of a single view may be a transposed matrix; kernels count on their order
        kernel[grid](given, index, weight, result, count, channels, index.shape[1], SUMS, width)
    return result
