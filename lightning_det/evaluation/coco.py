"""COCO's figures, by pycocotools or its faster equal."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Results

Backend = Literal["pycocotools", "faster-coco-eval"]

COCO_CUTS = (32.0, 96.0)
"""Where COCO parts small from medium and medium from large, sqrt(area) in pixels."""


@dataclass
class Evaluation:
    """Everything that one pass over the detections gives.

    Figures are None where there is nothing to measure, where COCO's table has -1: no box of that class or size among
    the images that were looked at, or ignored ones only.
    """

    precision: np.ndarray
    """(T, R, K, A, M): IoU threshold, recall, class, size range, detections per image."""
    recall: np.ndarray
    """(T, K, A, M)."""
    counts: np.ndarray
    """(K, A) boxes of each class in each size range, ignored ones left out."""
    ranges: list[tuple[float, float]]
    """Size ranges, sqrt(area) in pixels: all, small, medium, large, then those of the curve."""
    max_detections: tuple[int, int, int]
    names: tuple[str, ...]
    """Of the classes."""

    def ap(self, iou: float | None = None, size: int = 0, label: int | None = None) -> float | None:
        """Average precision.

        Args:
            iou: threshold 0.5, 0.55, ..., 0.95; None averages over all.
            size: position in ``ranges``.
            label: class; None averages over those that occur.
        """
        part = self.precision[:, :, :, size, -1]
        if iou is not None:
            part = part[[round((iou - 0.5) / 0.05)]]
        return _mean(part if label is None else part[:, :, label])

    def ar(self, size: int = 0, budget: int = -1) -> float | None:
        """Average recall, of the ``budget``-th entry of ``max_detections`` per image."""
        return _mean(self.recall[:, :, size, budget])

    def figures(self) -> dict[str, float | None]:
        """COCO's twelve, see `figure_names`."""
        precisions = [self.ap(), self.ap(0.5), self.ap(0.75), *(self.ap(size=size) for size in (1, 2, 3))]
        recalls = [*(self.ar(budget=budget) for budget in (0, 1, 2)), *(self.ar(size) for size in (1, 2, 3))]
        return dict(zip(figure_names(self.max_detections[-1]), [*precisions, *recalls], strict=True))

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """AP, AP50 and number of boxes of every class by name."""
        return {
            name: {"AP": self.ap(label=k), "AP50": self.ap(0.5, label=k), "boxes": int(self.counts[k, 0])}
            for k, name in enumerate(self.names)
        }

    def precision_recall(self, iou: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """Recalls (R,) from 0 to 1, and the precision (K, R) of every class there; -1 for classes without boxes.

        Args:
            iou: threshold 0.5, 0.55, ..., 0.95.
        """
        precision = self.precision[round((iou - 0.5) / 0.05), :, :, 0, -1]
        return np.linspace(0, 1, len(precision)), precision.T

    def curve(self) -> list[dict[str, float]]:
        """AP of every octave of object size that holds boxes: from, to (pixels), AP, AP50, boxes."""
        return [
            {
                "from": self.ranges[a][0],
                "to": self.ranges[a][1],
                "AP": self.ap(size=a),
                "AP50": self.ap(0.5, size=a),
                "boxes": int(self.counts[:, a].sum()),
            }
            for a in range(4, len(self.ranges))
            if self.counts[:, a].sum() > 0
        ]

    def table(self) -> str:
        """COCO's table, with the sizes that were used."""
        (_, small), (_, medium) = self.ranges[1], self.ranges[2]
        sizes = {"small": f"< {small:g} px", "medium": f"{small:g}-{medium:g} px", "large": f"> {medium:g} px"}
        lines = []
        for name, value in self.figures().items():
            kind = "Average Precision" if name.startswith("AP") else "Average Recall"
            iou = {"AP50": "0.50     ", "AP75": "0.75     "}.get(name, "0.50:0.95")
            size = next((f"{s:6} ({text})" for s, text in sizes.items() if name.endswith(s)), "all")
            budget = name[2:] if kind == "Average Recall" and name[2:].isdigit() else self.max_detections[-1]
            said = shown(value)
            lines.append(f" {kind:17} @[ IoU={iou} | size={size:20} | maxDets={budget:>3} ] = {said:>6}  {name}")
        return "\n".join(lines)


def figure_names(max_detections: int) -> list[str]:
    """Of COCO's twelve figures, see `Evaluation.figures`."""
    budgets = _budgets(max_detections)
    sizes = ("small", "medium", "large")
    names = ["AP", "AP50", "AP75", *(f"AP_{size}" for size in sizes)]
    return names + [f"AR{number}" for number in budgets] + [f"AR_{size}" for size in sizes]


def _budgets(max_detections: int) -> list[int]:
    return [min(1, max_detections), min(10, max_detections), max_detections]


def _sizes(cuts: Sequence[float]) -> list[tuple[float, float]]:
    """All, small, medium and large."""
    return [(0.0, 1e5), (0.0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], 1e5)]


def undefined_figures(
    store: AnnotationStore, size_cuts: Sequence[float], max_detections: int, seen: np.ndarray | None = None
) -> list[str]:
    """Names of the figures for which some images have nothing to measure.

    Args:
        store: annotations.
        size_cuts: see `evaluate`.
        max_detections: see `evaluate`.
        seen: positions of the images that are looked at; None: all are.
    """
    seen = np.arange(len(store)) if seen is None else seen
    counts = _counts(store, seen, [(low**2, high**2) for low, high in _sizes(size_cuts)]).sum(axis=0)
    empty = dict(zip(("", "_small", "_medium", "_large"), counts == 0, strict=True))
    return [name for name in figure_names(max_detections) if empty[name[name.find("_") :] if "_" in name else ""]]


def unmeasured(store: AnnotationStore, seen: np.ndarray | None = None) -> str:
    """Why all figures of some images would be undefined, in words; empty if they would not.

    Args:
        store: annotations.
        seen: positions of the images that are looked at; None: all are.
    """
    if seen is not None and len(seen) < len(store):
        found = _counts(store, seen, [(0.0, np.inf)]).any()
        return "" if found else f"no box is in the {len(seen)} of {len(store)} images that are looked at"
    if store.num_boxes == 0:
        return "there are no boxes"
    if store.ignored.all():
        return f"all {store.num_boxes} boxes are ignored ones (crowds, difficult objects)"
    return ""


def shown(value: float | None) -> str:
    """A figure for a table."""
    return "undefined" if value is None else f"{value:.3f}"


def evaluate(
    store: AnnotationStore,
    results: Results,
    size_cuts: Sequence[float] = COCO_CUTS,
    max_detections: int = 100,
    curve: bool = False,
    backend: Backend = "pycocotools",
) -> Evaluation:
    """Compares detections with annotations, as COCO does.

    Only the images that the results have seen count. pycocotools' own summary reads its precision at 100 detections
    whatever was asked for and reports -1 for any other number; this one reads the array.

    Args:
        store: annotations.
        results: detections of one list per image.
        size_cuts: where small ends and where large begins, sqrt(area) in pixels.
        max_detections: most detections per image that count.
        curve: also measure every octave of object size.
        backend: the implementation; both give the same figures.
    """
    ranges = _sizes(size_cuts)
    areas = [(low**2, high**2) for low, high in ranges]
    if curve:
        ranges += octaves(store.areas)
        # COCO's ranges include both ends; on the curve every box counts once.
        areas += [(low**2, np.nextafter(high**2, 0)) for low, high in ranges[len(areas) :]]
    truth, found = _truth(store, results), _found(results)
    with contextlib.redirect_stdout(io.StringIO()):
        run = _prepare(truth, found, backend)
        run.params.areaRng = [list(pair) for pair in areas]
        run.params.areaRngLbl = [str(number) for number in range(len(areas))]
        run.params.maxDets = _budgets(max_detections)
        run.evaluate()
        run.accumulate()
    return Evaluation(
        # faster-coco-eval returns flat memory in pycocotools' shape
        np.asarray(run.eval["precision"]),
        np.asarray(run.eval["recall"]),
        _counts(store, results.seen, areas),
        ranges,
        tuple(run.params.maxDets),
        store.label_map.names,
    )


def octaves(areas: np.ndarray) -> list[tuple[float, float]]:
    """Ranges (low, high) of sqrt(area), each twice the one before, that hold all ``areas``; powers of 2."""
    sides = np.sqrt(areas[areas > 0])
    if not len(sides):
        return []
    low, high = int(np.floor(np.log2(max(1, sides.min())))), int(np.floor(np.log2(max(1, sides.max()))))
    edges = [0.0 if k == low == 0 else 2.0**k for k in range(low, high + 2)]
    return list(pairwise(edges))


def _counts(store: AnnotationStore, seen: np.ndarray, ranges: list[tuple[float, float]]) -> np.ndarray:
    """Boxes (K, A) of every class whose area lies in each range, both ends included."""
    of_image = np.repeat(np.arange(len(store)), np.diff(store.offsets))
    counted = ~store.ignored & np.isin(of_image, seen)
    labels, areas = store.labels[counted], store.areas[counted]
    inside = [(areas >= low) & (areas <= high) for low, high in ranges]
    classes = len(store.label_map)
    return np.stack([np.bincount(labels[i], minlength=classes) for i in inside], axis=1)


def _truth(store: AnnotationStore, results: Results) -> dict:
    annotations = []
    for image in results.seen:
        for row in range(store.offsets[image], store.offsets[image + 1]):
            x1, y1, x2, y2 = store.boxes[row]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(image),
                    "category_id": int(store.labels[row]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(store.areas[row]),
                    "iscrowd": int(store.ignored[row]),
                }
            )
    return {
        "info": {},
        "images": [{"id": int(image)} for image in results.seen],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(store.label_map.names)],
    }


def _found(results: Results) -> list[dict]:
    boxes = results.boxes.astype(np.float64)
    return [
        {
            "id": number + 1,
            "image_id": int(results.images[number]),
            "category_id": int(results.labels[number]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": float(results.scores[number]),
        }
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]


def _prepare(truth: dict, found: list[dict], backend: Backend):
    """The backend's evaluator with both sides loaded."""
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif backend == "faster-coco-eval":
        try:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        except ImportError as error:
            raise ImportError("test.backend=faster-coco-eval: pip install 'lightning-det[fast]'") from error
    else:
        raise ValueError(f"test.backend must be pycocotools or faster-coco-eval, got {backend!r}")
    sides = []
    for annotations in (truth["annotations"], found):
        side = COCO()
        side.dataset = truth | {"annotations": annotations}
        side.createIndex()
        sides.append(side)
    return COCOeval(*sides, "bbox")


def _mean(values: np.ndarray) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None
