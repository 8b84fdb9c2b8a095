"""The figures of one evaluation: COCO's, by class, object size and number of detections, and those beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lightning_det.evaluation.matches import Matches

ALL = "all classes"
"""Name of the mean over classes in curves."""

COCO_CUTS = (32.0, 96.0)
"""COCO's bounds between small, medium and large objects, sqrt(area) in pixels."""

AGNOSTIC = ("AP_class_agnostic", "AP50_class_agnostic")
"""AP and AP50 of all classes as one."""

Metric = Literal["voc07", "voc"]
"""VOC's average precision: the mean of 11 points, as until 2009, or the area under the curve, as since 2010."""

METRICS: tuple[Metric, ...] = ("voc07", "voc")


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
    agnostic: np.ndarray
    """(T, R) float64, precision of all classes as one, of objects of all sizes; -1 if undefined. A second detection of
    an object is a false alarm, also if it has another class."""
    voc: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(K,) float64 by name of the figure: VOC's AP of every class, see `voc_average_precision`; -1 if undefined."""

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
        """COCO's twelve figures and those beside them, by the names of `figure_names`, 0 to 1."""
        precisions = [self.ap(), self.ap(0.5), self.ap(0.75), *(self.ap(size_range=a) for a in (1, 2, 3))]
        recalls = [*(self.ar(limit=m) for m in (0, 1, 2)), *(self.ar(a) for a in (1, 2, 3))]
        agnostic = [_mean(self.agnostic), _mean(self.agnostic[0])]
        figures = dict(zip(figure_names(self.max_detections[-1]), [*precisions, *recalls, *agnostic], strict=True))
        return figures | {name: _mean(ap) for name, ap in self.voc.items()}

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """``AP``, ``AP50``, VOC's AP if it is computed, and number of ``boxes`` of every class by name."""
        return {
            name: {
                **{"AP": self.ap(label=k), "AP50": self.ap(0.5, label=k)},
                **{figure: _mean(ap[[k]]) for figure, ap in self.voc.items()},
                "boxes": int(self.counts[k, 0]),
            }
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
        """Formats COCO's table of the twelve figures, with the size ranges in use, and a line for each other figure."""
        (_, small), (_, medium) = self.ranges[1], self.ranges[2]
        sizes = {"small": f"< {small:g} px", "medium": f"{small:g}-{medium:g} px", "large": f"> {medium:g} px"}
        others = {
            **dict.fromkeys(AGNOSTIC, "all classes as one"),
            "voc07_AP50": "VOC until 2009: 11 points",
            "voc_AP50": "VOC since 2010: area",
        }
        lines = []
        for name, value in self.figures().items():
            kind = "Average Recall" if name.startswith("AR") else "Average Precision"
            iou = "0.50     " if "AP50" in name else "0.75     " if name == "AP75" else "0.50:0.95"
            size = next((f"{s:6} ({text})" for s, text in sizes.items() if name.endswith(s)), "all")
            limit = name[2:] if kind == "Average Recall" and name[2:].isdigit() else self.max_detections[-1]
            of = f"{others[name]:35}" if name in others else f"size={size:20} | maxDets={limit:>3}"
            lines.append(f" {kind:17} @[ IoU={iou} | {of} ] = {format_figure(value):>6}  {name}")
        return "\n".join(lines)


def voc_figure(metric: Metric) -> str:
    """Name of a metric's figure."""
    return f"{metric}_AP50"


def figure_names(max_detections: int, metric: Metric | None = None) -> list[str]:
    """Names of COCO's twelve figures for a limit of detections per image, of `AGNOSTIC`, and of a metric of VOC.

    Average precision: ``AP`` over IoU thresholds 0.5 to 0.95, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium`` and
    ``AP_large``. Average recall: ``AR1``, ``AR10``, ``AR100`` by the limits of detections, and ``AR_small`` and so on.
    """
    sizes = ("small", "medium", "large")
    names = ["AP", "AP50", "AP75", *(f"AP_{size}" for size in sizes)]
    names += [f"AR{number}" for number in detection_limits(max_detections)] + [f"AR_{size}" for size in sizes]
    return [*names, *AGNOSTIC, *([] if metric is None else [voc_figure(metric)])]


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
