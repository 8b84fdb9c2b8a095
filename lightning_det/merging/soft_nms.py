"""Soft-NMS (Bodla et al., ICCV 2017) of many small lists at once."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

CHUNK = 200_000
"""Boxes that are processed together: bounds the memory, and fits in the cache."""

COMPACT = 32
"""Number of rounds after which finished boxes are removed from the arrays."""

TINY = 1e-9
"""Added to every area: a box without area would cause a division by zero."""

DONE = -1.0
"""Score of a finished box and of padding. Finite, because factors may be 0, and infinity times 0 is NaN."""

Method = Literal["gaussian", "linear", "hard"]


class SoftNMS:
    """Lowers the scores of duplicates instead of removing them, per image and class.

    In every round the best of the remaining boxes is kept, and the scores of the others are multiplied by a factor that
    depends on the IoU with it: exp(-iou² / sigma) (``gaussian``), 1 - iou above a threshold (``linear``), or 0 above it
    (``hard``, plain NMS).

    Args:
        method: see above.
        sigma: parameter of ``gaussian``; SNIPER uses 0.55.
        iou: threshold of ``linear`` and ``hard``.
        floor: a box whose score decays below this is removed.
    """

    def __init__(self, method: Method = "gaussian", sigma: float = 0.55, iou: float = 0.3, floor: float = 0.001):
        if method not in ("gaussian", "linear", "hard"):
            raise ValueError(f"test.merge.method must be gaussian, linear or hard, got {method!r}")
        if sigma <= 0 or not 0 <= iou <= 1 or floor <= 0:
            raise ValueError(f"test.merge needs sigma > 0, 0 <= iou <= 1 and floor > 0, got {sigma}, {iou} and {floor}")
        self.method = method
        self.sigma = sigma
        self.iou = iou
        self.floor = floor

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Lowers scores. Arguments as in `lightning_det.merging.NMS`; the tensors are not changed.

        Returns:
            Indices (K,) of the detections that are kept and their new scores (K,), by group and falling score.
        """
        rows = _by_group(groups.numpy(), scores.numpy())
        _, starts, counts = np.unique(groups.numpy()[rows], return_index=True, return_counts=True)
        kept = scores.numpy().copy()
        if not len(rows):
            return groups.new_zeros(0), scores.new_zeros(0)
        # Groups of similar length together, each padded to the longest of them.
        order = np.argsort(counts, kind="stable")
        for part in np.split(order, _borders(counts[order])):
            place = np.arange(counts[part].max())
            real = place < counts[part][:, None]
            index = rows[np.where(real, starts[part][:, None] + place, starts[part][:, None])]
            kept[index[real]] = self._decay(boxes.numpy()[index], np.where(real, kept[index], 0))[real]
        left = np.flatnonzero(kept > 0)
        order = left[_by_group(groups.numpy()[left], kept[left])]
        return torch.from_numpy(order), torch.from_numpy(kept[order])

    def _decay(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Computes the final scores (G, n) of (G, n, 4) boxes; 0 for removed boxes and for padding."""
        final, every = np.zeros_like(scores), np.arange(len(scores))
        # Coordinate by coordinate: loops over contiguous memory are fast.
        x1, y1, x2, y2 = (np.ascontiguousarray(boxes[..., i]) for i in range(4))
        areas = (x2 - x1) * (y2 - y1) + TINY
        scores = np.where(scores > 0, scores, DONE).astype(scores.dtype)
        columns = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
        state = [x1, y1, x2, y2, areas, columns, scores, scores.copy()]
        for turn in range(scores.shape[1]):
            if turn % COMPACT == 0:
                state = _compact(state, self.floor)
                if not state[0].size:
                    break
                x1, y1, x2, y2, areas, columns, firsts, left = state
                iou, spare = np.empty_like(left), np.empty_like(left)
            best = every, left.argmax(axis=1)
            top = left[best]
            # A box that has decayed below the floor is not kept and lowers no other score.
            keep = ((top >= self.floor) | (top == firsts[best])) & (top > 0)
            final[every[keep], columns[best][keep]] = top[keep]
            left[best] = DONE
            a1, b1, a2, b2, area = (coordinate[best][:, None] for coordinate in (x1, y1, x2, y2, areas))
            a2 = np.where(keep[:, None], a2, -np.inf)
            np.subtract(np.minimum(x2, a2, out=iou), np.maximum(x1, a1, out=spare), out=iou)
            np.maximum(iou, 0, out=iou)
            np.subtract(np.minimum(y2, b2), np.maximum(y1, b1, out=spare), out=spare)
            iou *= np.maximum(spare, 0, out=spare)
            np.subtract(np.add(areas, area, out=spare), iou, out=spare)
            np.divide(iou, spare, out=iou)
            left *= self._factor(iou)
        return final

    def _factor(self, iou: np.ndarray) -> np.ndarray:
        """Computes the factors of the scores; overwrites ``iou``."""
        if self.method == "gaussian":
            iou *= iou
            iou *= -1 / self.sigma
            return np.exp(iou, out=iou)
        return np.where(iou > self.iou, 1 - iou if self.method == "linear" else 0, 1).astype(iou.dtype)


def _by_group(groups: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows by group, those of a group by falling score, and equal ones in order, as ``np.lexsort`` has them."""
    if scores.dtype != np.float32 or not len(groups) or groups.min() < 0 or groups.max() >= 2**31:
        return np.lexsort((-scores, groups))
    # One sort of whole numbers takes half the time: the bits of positive floats, read as a number, rise with them.
    bits = (np.maximum(scores, 0) + 0.0).view(np.int32)  # + 0.0: no negative zero, whose bits are a negative number
    return np.argsort((groups.astype(np.int64) << 32) - bits, kind="stable")


def _compact(state: list[np.ndarray], floor: float) -> list[np.ndarray]:
    """Removes most of the finished boxes from the arrays; no column is left if all boxes are finished."""
    firsts, left = state[-2:]
    alive = (left >= floor) | ((left == firsts) & (left > 0))
    width = int(alive.sum(axis=1).max())
    # Remaining boxes first, in order.
    order = np.argsort(~alive, axis=1, kind="stable")[:, :width]
    return [np.take_along_axis(array, order, axis=1) for array in state]


def _borders(counts: np.ndarray) -> np.ndarray:
    """Positions that split groups of ascending lengths into parts of similar length and about `CHUNK` boxes at most."""
    borders, begin = [], 0
    while begin < len(counts):
        similar = np.searchsorted(counts, 1.25 * counts[begin] + 1, "right")
        begin = max(begin + 1, min(similar, begin + CHUNK // counts[begin]))
        borders.append(begin)
    return np.array(borders[:-1], int)
