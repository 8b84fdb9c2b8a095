"""COCO's figures of one evaluation: precision and recall by class, object size and number of detections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_det.evaluation.matches import Matches

ALL = "all classes"
"""Name of the mean over classes in curves."""

COCO_CUTS = (32.0, 96.0)
"""COCO's bounds between small, medium and large objects, sqrt(area) in pixels."""


@dataclass
class Evaluation:
    """Precision and recall of the detections of some images.

    A figure is None where COCO's table has -1: the images have no box of that class and size, or only ignored ones.
    """

    precision: np.ndarray
    """(T, R, K, A, M) float64 by IoU threshold, recall, class, size range and limit of detections; -1 if undefined."""
    recall: np.ndarray
    """(T, K, A, M) float64, as ``precision`` but without the axis of recall."""
    counts: np.ndarray
    """(K, A) int64, boxes of each class in each size range, without ignored ones."""
    ranges: list[tuple[float, float]]
    """Size ranges, sqrt(area) in pixels: all, small, medium, large, then the octaves of the curve."""
    max_detections: tuple[int, int, int]
    """Limits of detections per image, ascending."""
    names: tuple[str, ...]
    """Names of the classes."""
    matches: Matches
    """Which detection has found which object at IoU 0.5."""

    def ap(self, iou: float | None = None, size_range: int = 0, label: int | None = None) -> float | None:
        """Average precision.

        Args:
            iou: threshold 0.5, 0.55, ..., 0.95; None averages over all of them.
            size_range: position in ``ranges``.
            label: class; None averages over the classes that occur.
        """
        part = self.precision[:, :, :, size_range, -1]
        if iou is not None:
            part = part[[round((iou - 0.5) / 0.05)]]
        return _mean(part if label is None else part[:, :, label])

    def ar(self, size_range: int = 0, limit: int = -1) -> float | None:
        """Average recall.

        Args:
            size_range: position in ``ranges``.
            limit: position in ``max_detections``.
        """
        return _mean(self.recall[:, :, size_range, limit])

    def figures(self) -> dict[str, float | None]:
        """COCO's twelve figures by the names of `figure_names`, 0 to 1."""
        precisions = [self.ap(), self.ap(0.5), self.ap(0.75), *(self.ap(size_range=a) for a in (1, 2, 3))]
        recalls = [*(self.ar(limit=m) for m in (0, 1, 2)), *(self.ar(a) for a in (1, 2, 3))]
        return dict(zip(figure_names(self.max_detections[-1]), [*precisions, *recalls], strict=True))

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """``AP``, ``AP50`` and number of ``boxes`` of every class by name."""
        return {
            name: {"AP": self.ap(label=k), "AP50": self.ap(0.5, label=k), "boxes": int(self.counts[k, 0])}
            for k, name in enumerate(self.names)
        }

    def precision_recall(self, iou: float | None = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """Precision by recall.

        Args:
            iou: threshold 0.5, 0.55, ..., 0.95; None averages over all of them.

        Returns:
            Recalls (R,) from 0 to 1, and the precision (K, R) of every class there; -1 for classes without boxes.
        """
        of_all = self.precision[:, :, :, 0, -1]
        precision = of_all.mean(axis=0) if iou is None else of_all[round((iou - 0.5) / 0.05)]
        return np.linspace(0, 1, len(precision)), precision.T

    def pr_curves(self, iou: float | None = 0.5) -> list[tuple[str, np.ndarray]]:
        """Precision by recall, as `precision_recall`: (R,) of every class with boxes, after their mean, `ALL`."""
        _, precision = self.precision_recall(iou)
        known = np.flatnonzero(self.counts[:, 0])
        mean = [(ALL, precision[known].mean(axis=0))] if len(known) else []
        return mean + [(self.names[k], precision[k]) for k in known]

    def curve(self) -> list[dict[str, Any]]:
        """AP by object size.

        Returns:
            For every octave with boxes ``from``, ``to`` (sqrt(area), pixels), ``AP``, ``AP50`` and number of ``boxes``.
        """
        return [
            {
                "from": self.ranges[a][0],
                "to": self.ranges[a][1],
                "AP": self.ap(size_range=a),
                "AP50": self.ap(0.5, size_range=a),
                "boxes": int(self.counts[:, a].sum()),
            }
            for a in range(4, len(self.ranges))
            if self.counts[:, a].sum() > 0
        ]

    def table(self) -> str:
        """Formats COCO's table of the twelve figures, with the size ranges in use."""
        (_, small), (_, medium) = self.ranges[1], self.ranges[2]
        sizes = {"small": f"< {small:g} px", "medium": f"{small:g}-{medium:g} px", "large": f"> {medium:g} px"}
        lines = []
        for name, value in self.figures().items():
            kind = "Average Precision" if name.startswith("AP") else "Average Recall"
            iou = {"AP50": "0.50     ", "AP75": "0.75     "}.get(name, "0.50:0.95")
            size = next((f"{s:6} ({text})" for s, text in sizes.items() if name.endswith(s)), "all")
            limit = name[2:] if kind == "Average Recall" and name[2:].isdigit() else self.max_detections[-1]
            figure = format_figure(value)
            lines.append(f" {kind:17} @[ IoU={iou} | size={size:20} | maxDets={limit:>3} ] = {figure:>6}  {name}")
        return "\n".join(lines)


def figure_names(max_detections: int) -> list[str]:
    """Names of COCO's twelve figures for a limit of detections per image.

    Average precision: ``AP`` over IoU thresholds 0.5 to 0.95, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium`` and
    ``AP_large``. Average recall: ``AR1``, ``AR10``, ``AR100`` by the limits of detections, and ``AR_small`` and so on.
    """
    sizes = ("small", "medium", "large")
    names = ["AP", "AP50", "AP75", *(f"AP_{size}" for size in sizes)]
    return names + [f"AR{number}" for number in detection_limits(max_detections)] + [f"AR_{size}" for size in sizes]


def detection_limits(max_detections: int) -> tuple[int, int, int]:
    """Limits of detections per image for which recall is measured."""
    return min(1, max_detections), min(10, max_detections), max_detections


def size_ranges(cuts: Sequence[float]) -> list[tuple[float, float]]:
    """Ranges of all, small, medium and large objects, sqrt(area) in pixels."""
    return [(0.0, 1e5), (0.0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], 1e5)]


def format_figure(value: float | None) -> str:
    """Formats a figure for a table, with three decimals."""
    return "undefined" if value is None else f"{value:.3f}"


def _mean(values: np.ndarray) -> float | None:
    """Averages the values that are defined; None if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None
