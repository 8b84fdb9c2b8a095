"""From the detections of several views of an image to the detections of the image."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torchvision
from torch import Tensor

CHUNK = 80_000
"""Boxes whose groups Soft-NMS works on at once: enough that calls cost little, few enough for a cache."""

SIMILAR = 1.25
"""Most that groups of a chunk differ in size, all being padded to the largest."""

AREA, LOG = 4, 5
"""Rows of Soft-NMS's table, after -x1, -y1, x2, y2: area and logarithm of the score."""

TINY = 1e-30
"""Least area and score, for divisions and logarithms."""


class NMS:
    """Greedy non-maximum suppression per image and class.

    Args:
        iou: a detection goes when its IoU with a better one is greater than this.
    """

    def __init__(self, iou: float = 0.5):
        if not 0 <= iou <= 1:
            raise ValueError(f"test.merge.iou must be 0 to 1, got {iou}")
        self.iou = iou

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Suppresses duplicates.

        Args:
            boxes: (N, 4) float ``xyxy``, pixels of the original image.
            scores: (N,) float.
            groups: (N,) int64, one number per image and class; groups do not touch each other.

        Returns:
            Indices (K,) of what stays and its scores (K,), which other merges may lower.
        """
        # Not batched_nms: up to 1,000 boxes it moves groups apart by adding to their coordinates, which with one group
        # per image and class uses up float32; beyond, it reads all boxes once per group.
        order = torch.argsort(groups, stable=True)
        counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
        parts = [p[torchvision.ops.nms(boxes[p], scores[p], self.iou)] for p in order.split(counts.tolist())]
        keep = torch.cat([order[:0], *parts])
        return keep, scores[keep]


class SoftNMS:
    """Soft-NMS (Bodla et al., ICCV 2017) per image and class: duplicates lose score instead of going.

    In turn the best box left of a group is kept, and the rest lose score by their IoU with it: times exp(-iou² / sigma)
    (``gaussian``), times 1 - iou above a threshold (``linear``), or everything above it (``hard``, which is NMS).

    Args:
        method: see above.
        sigma: of ``gaussian``; less is harsher.
        iou: threshold of ``linear`` and ``hard``.
        floor: what overlaps a kept box and then has a score below this goes.
    """

    def __init__(
        self,
        method: Literal["gaussian", "linear", "hard"] = "gaussian",
        sigma: float = 0.55,
        iou: float = 0.3,
        floor: float = 0.001,
    ):
        if method not in ("gaussian", "linear", "hard"):
            raise ValueError(f"test.merge.method must be gaussian, linear or hard, got {method!r}")
        if sigma <= 0:
            raise ValueError(f"test.merge.sigma must be above 0, got {sigma}")
        if not 0 <= iou <= 1:
            raise ValueError(f"test.merge.iou must be 0 to 1, got {iou}")
        if not 0 < floor < 1:
            raise ValueError(f"test.merge.floor must be between 0 and 1, got {floor}")
        self.method = method
        self.sigma = sigma
        self.iou = iou
        self.floor = floor

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Lowers the scores of duplicates.

        Args:
            boxes: (N, 4) float ``xyxy``, pixels of the original image, on the CPU.
            scores: (N,) float.
            groups: (N,) int64, one number per image and class; groups do not touch each other.

        Returns:
            Indices (K,) of what stays, by group and in turn, and its scores (K,).
        """
        order = torch.argsort(groups, stable=True)
        sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].numpy()
        x1, y1, x2, y2 = boxes.float().unbind(1)
        areas = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0) + TINY
        logs = scores.float().clamp(min=TINY).log()
        table, floor = torch.stack([-x1, -y1, x2, y2, areas, logs]).numpy(), math.log(self.floor)
        # A box below the floor is gone if it lost score, which it did if none began there.
        least = torch.finfo(logs.dtype).min if (logs < floor).any() else floor
        kept, values = np.full(len(order), -1), np.zeros(len(order), np.float32)
        for places, real in _similar(sizes):
            rows = order.numpy()[places]
            columns = table.take(rows, axis=1)
            columns[LOG, ~real] = -np.inf
            best, log = self._in_turn(columns, rows, floor, least)
            turn, group = np.nonzero(log >= least)
            place = places[group, 0] + turn
            kept[place], values[place] = best[turn, group], log[turn, group]
        keep = torch.from_numpy(kept[kept >= 0])
        return keep, scores[keep] * (torch.from_numpy(values[kept >= 0]) - logs[keep]).exp().to(scores.dtype)

    def _in_turn(self, columns: np.ndarray, rows: np.ndarray, floor: float, least: float) -> list[np.ndarray]:
        """The best box of each of G groups of n boxes, again and again.

        Args:
            columns: (6, G, n) float32, see `AREA`; -inf in place of the logarithm where there is no box.
            rows: (G, n) int64, where the boxes come from.
            floor: logarithm of the floor.
            least: boxes with a lower logarithm are gone.

        Returns:
            Rows and logarithms of the scores, (turns, G); where a group has none left, of any that is gone.
        """
        found = []
        while width := int((columns[LOG] >= least).sum(axis=1).max()):
            columns, rows = _compact(columns, rows, least, width)
            flat, begin = columns.reshape(len(columns), -1), np.arange(0, rows.size, width)
            best = np.empty((len(columns), len(rows)), np.float32)
            # torch and numpy on the same memory: torch is fast on much of it, a call of numpy on little.
            corners, area, log = (torch.from_numpy(columns[i]) for i in (slice(4), AREA, LOG))
            best_corners, best_area = (torch.from_numpy(best[i, :, None]) for i in (slice(4), AREA))
            spare = torch.empty_like(corners)
            starts, ends, iou, height, union = spare[:2], spare[2:], spare[2], spare[3], spare[0]
            for _ in range(min(width, 8 + width // 8)):
                place = columns[LOG].argmax(axis=1) + begin
                flat.take(place, axis=1, out=best, mode="clip")  # the default mode writes to a copy first
                found.append((rows.take(place), best[LOG].copy()))
                flat[LOG, place] = -np.inf
                torch.minimum(corners, best_corners, out=spare)
                ends.add_(starts).relu_()
                iou.mul_(height)
                torch.add(area, best_area, out=union).sub_(iou)
                self._lower(log, iou.div_(union))
                if least < floor:
                    log.masked_fill_((iou > 0) & (log < floor), -torch.inf)
        return [np.stack(arrays) for arrays in zip(*found, strict=True)]

    def _lower(self, log: Tensor, iou: Tensor) -> None:
        """Lowers logarithms of scores (G, n) in place, by IoU with the box that was kept."""
        if self.method == "gaussian":
            log.addcmul_(iou, iou, value=-1 / self.sigma)
        elif self.method == "linear":
            log.add_(torch.where(iou > self.iou, torch.log1p(-iou), 0))
        else:
            log.masked_fill_(iou > self.iou, -torch.inf)


def _similar(sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (G, n) of the members of G groups of similar sizes, padded, and which of them are real.

    Args:
        sizes: of the groups, whose members follow each other.
    """
    starts, groups = sizes.cumsum() - sizes, np.argsort(sizes, kind="stable")
    sizes, starts = sizes[groups], starts[groups]
    begin = 0
    while begin < len(sizes):
        end = np.searchsorted(sizes, SIMILAR * sizes[begin], "right")
        end = min(end, begin + max(1, CHUNK // sizes[begin]))
        member = np.arange(sizes[end - 1])
        real = member < sizes[begin:end, None]
        yield np.where(real, starts[begin:end, None] + member, 0), real
        begin = end


def _compact(columns: np.ndarray, rows: np.ndarray, least: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """``columns`` and ``rows`` of the boxes that are left, in order, padded to ``width``."""
    gone = columns[LOG] < least
    place = np.argsort(gone, axis=1, kind="stable")[:, :width] + np.arange(0, gone.size, gone.shape[1])[:, None]
    return columns.reshape(len(columns), -1).take(place, axis=1), rows.take(place)


def keep_best(scores: Tensor, images: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of every image, by image and then by falling score.

    Args:
        scores: (N,) float.
        images: (N,) int64, which image each belongs to.
        count: most per image.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(images[order], stable=True)]
    grouped = images[order]
    # Rank within the image: position minus the position of the image's first.
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(grouped, grouped)
    return order[rank < count]
