"""Greedy non-maximum suppression as a fixpoint: tensor operations alone, none of which waits for the device."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_det.ops.boxes import intersections

ROUNDS = 16
"""Rounds before suppression ends, settled or not. Proposals of real images need 3 to 11."""

ROWS = 512
"""Boxes that are compared with all others at a time, which bounds the memory where operations are not fused."""

BITS = 32
"""Pairs of boxes in a number, see `pack_bits`. With a byte for each pair, a round would read eight times as much."""


def suppress_in_rounds(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    usable: Tensor,
    iou_threshold: float,
    rounds: int = ROUNDS,
) -> tuple[Tensor, Tensor]:
    """Greedy NMS of many sets of boxes at once.

    A box survives if no surviving box before it in the order of scores suppresses it. Greedy NMS decides this box by
    box. Here, all boxes survive at first, and each round applies the rule to all of them. A round settles every box
    whose suppressors are settled, so the result is that of greedy NMS after as many rounds as the longest chain of
    boxes that suppress each other has links. If a round changes nothing, the result is final.

    Args:
        boxes: (S, N, 4) float, ``xyxy``.
        scores: (S, N) float; of equal scores the first box comes first, as in torchvision.
        groups: (S, N) integers; boxes of different groups of a set never suppress each other. None: a set is a group.
        usable: (S, N) bool; unusable boxes neither survive nor suppress.
        iou_threshold: a box is removed when its IoU with a better one is greater than this.
        rounds: at most.

    Returns:
        (S, N) bool, True for the survivors, and () bool, whether the last round has changed something.
    """
    order = scores.masked_fill(~usable, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    ranked = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    usable = usable.gather(1, order)
    suppresses = _suppressions(ranked, None if groups is None else groups.gather(1, order), iou_threshold)
    keep = last = usable
    for _ in range(rounds):
        last, keep = keep, usable & ((suppresses & pack_bits(keep)[:, None]) == 0).all(dim=2)
    return torch.zeros_like(keep).scatter(1, order, keep), (keep != last).any()


def _suppressions(boxes: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """Whether a box (second index) would be removed by others (third index), which are before it.

    The order of operations is that of torchvision's kernels, so results are equal to the bit.

    Returns:
        (S, N, ceil(N / BITS)) int32, packed by `pack_bits`.
    """
    limit = largest_below(iou_threshold, boxes.dtype)
    count = boxes.shape[1]
    place = torch.arange(count, device=boxes.device)
    parts = []
    for start in range(0, max(1, count), ROWS):
        rows = slice(start, start + ROWS)
        before = slice(0, start + ROWS)
        common, own, others = intersections(boxes[:, rows], boxes[:, before])
        removes = (common / (others + own - common) > limit) & (place[before] < place[rows, None])
        if groups is not None:
            removes &= groups[:, rows, None] == groups[:, None, before]
        packed = pack_bits(removes)
        parts.append(F.pad(packed, (0, -(-count // BITS) - packed.shape[-1])))
    return torch.cat(parts, dim=1)


def pack_bits(x: Tensor) -> Tensor:
    """(..., N) bool to (..., ceil(N / BITS)) int32, whose bits are the elements."""
    x = F.pad(x, (0, -x.shape[-1] % BITS)).unflatten(-1, (-1, BITS))
    bits = torch.ones((), dtype=torch.int32, device=x.device) << torch.arange(BITS, dtype=torch.int32, device=x.device)
    return (x * bits).sum(dim=-1, dtype=torch.int32)


def largest_below(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is not above a threshold.

    torchvision's kernel compares IoUs with the threshold in double precision; PyTorch rounds the threshold first.
    """
    if dtype == torch.float64:
        return threshold
    rounded = np.float32(threshold)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded)


def split_groups(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, N, ...) with runs of ``lengths`` along N to (B * runs, longest, ...), padded with zeros."""
    longest = max(lengths)
    runs = (F.pad(run, (0, 0) * (x.ndim - 2) + (0, longest - run.shape[1])) for run in x.split(list(lengths), dim=1))
    return torch.stack(list(runs), dim=1).flatten(0, 1)


def join_groups(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """The inverse of `split_groups` for (B * runs, longest)."""
    runs = x.unflatten(0, (-1, len(lengths))).unbind(dim=1)
    return torch.cat([run[:, :length] for run, length in zip(runs, lengths, strict=True)], dim=1)
