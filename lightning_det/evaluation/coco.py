"""Runs COCO's evaluation with pycocotools, or with faster-coco-eval, which gives the same figures in less time."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from lightning_det.annotations.labels import ANY_CLASS
from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.figures import COCO_CUTS, Evaluation, Metric, detection_limits, size_ranges, voc_figure
from lightning_det.evaluation.matches import IOU, Matches, from_faster_coco_eval, from_pycocotools
from lightning_det.evaluation.measurable import count_boxes
from lightning_det.evaluation.results import Results
from lightning_det.evaluation.voc import voc_average_precision

log = logging.getLogger("lightning_det")

Backend = Literal["pycocotools", "faster-coco-eval"]

MANY = 100_000
"""Number of detections whose evaluation takes so long that it is said, about ten seconds."""


def evaluate(
    store: AnnotationStore,
    results: Results,
    size_cuts: Sequence[float] = COCO_CUTS,
    max_detections: int = 100,
    curve: bool = False,
    backend: Backend = "pycocotools",
    metric: Metric | None = None,
) -> Evaluation:
    """Compares detections with annotations, as COCO does, on the images that were evaluated.

    pycocotools' own summary reads the precision at 100 detections whatever the limit is, and reports -1 for any other
    limit. `Evaluation` reads the array.

    Args:
        store: annotations.
        results: detections, merged to one list per image.
        size_cuts: bounds between small, medium and large objects, sqrt(area) in pixels.
        max_detections: most detections per image that count.
        curve: whether to evaluate every octave of object size as well.
        backend: the implementation of COCO's figures; both give the same.
        metric: of VOC, computed beside COCO's.

    Raises:
        ImportError: the backend is not installed.
        ValueError: there is no such backend or metric.
    """
    if len(results) >= MANY:
        log.info("computing AP of %d detections in %d images, which takes a while", len(results), len(results.seen))
    ranges = size_ranges(size_cuts)
    areas = [(low**2, high**2) for low, high in ranges]
    if curve:
        ranges += octaves(store.areas)
        # COCO's ranges include both ends; on the curve every box must count once.
        areas += [(low**2, float(np.nextafter(high**2, 0))) for low, high in ranges[len(areas) :]]
    limits = detection_limits(max_detections)
    (truth, rows), found = _annotations_of(store, results), _detections_of(results)
    with contextlib.redirect_stdout(io.StringIO()):
        run = _prepare(truth, found, backend)
        run.params.areaRng = [list(pair) for pair in areas]
        run.params.areaRngLbl = [str(number) for number in range(len(areas))]
        run.params.maxDets = list(limits)
        run.evaluate()
        run.accumulate()
        # faster-coco-eval returns another array type of the same shape.
        precision, recall = np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])
        matches = _matches(run, rows, store, results, backend)
        agnostic = _all_classes_as_one(run)
    return Evaluation(
        precision,
        recall,
        count_boxes(store, results.seen, areas),
        ranges,
        limits,
        store.label_map.names,
        matches,
        agnostic,
        {} if metric is None else {voc_figure(metric): voc_average_precision(store, results, metric)},
    )


def _all_classes_as_one(run: Any) -> np.ndarray:
    """Evaluates once more without the classes: (T, R) precision of the objects of all sizes."""
    run.params.useCats = 0
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.params.maxDets = run.params.maxDets[-1:]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"])[:, :, 0, 0, 0]


def _matches(run: Any, rows: np.ndarray, store: AnnotationStore, results: Results, backend: Backend) -> Matches:
    """Collects which detection matches which box at IoU 0.5, of the objects of all sizes, from an evaluation.

    faster-coco-eval mixes the matches of all ranges of areas, so it evaluates once more, which takes it little time.
    """
    if backend == "pycocotools":
        images = len(results.seen)
        every = max(1, len(run.params.areaRng) * images)
        first = (part for start in range(0, len(run.evalImgs), every) for part in run.evalImgs[start : start + images])
        return from_pycocotools(first, rows, len(results))
    thresholds = run.params.iouThrs
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.params.iouThrs = np.array([IOU])
    run.evaluate()
    run.accumulate()
    run.params.iouThrs = thresholds
    found = from_faster_coco_eval(run.eval["matched"], rows, store.ignored, len(results))
    return replace(found, counted=found.counted & (_ranks(results) < run.params.maxDets[-1]))


def _ranks(results: Results) -> np.ndarray:
    """Number of the detections of the same image and class that come before each one, (N,) int64."""
    order = np.lexsort((-results.scores, results.labels, results.images))
    images, labels = results.images[order], results.labels[order]
    first = np.ones(len(order), bool)
    first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
    places = np.arange(len(order))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(first, places, 0))
    return ranks


def octaves(areas: np.ndarray) -> list[tuple[float, float]]:
    """Makes ranges (low, high) of sqrt(area), between powers of 2, that contain all ``areas``."""
    sides = np.sqrt(areas[areas > 0])
    if not len(sides):
        return []
    low, high = int(np.floor(np.log2(max(1, sides.min())))), int(np.floor(np.log2(max(1, sides.max()))))
    edges = [0.0 if k == low == 0 else 2.0**k for k in range(low, high + 2)]
    return list(pairwise(edges))


def _annotations_of(store: AnnotationStore, results: Results) -> tuple[dict[str, Any], np.ndarray]:
    """Makes COCO's json of the evaluated images.

    Returns:
        The json, whose annotations are numbered from 1, and (A,) int64, the box in the store of each annotation.
    """
    annotations: list[dict[str, Any]] = []
    rows: list[int] = []
    by_image = np.argsort(results.images, kind="stable")
    ordered = results.images[by_image]
    for image in results.seen:
        detected: list[int] | None = None
        for row in range(store.offsets[image], store.offsets[image + 1]):
            x1, y1, x2, y2 = store.boxes[row]
            label = int(store.labels[row])
            # COCO ignores by class, so a region of any class is one of each class that was detected in the image.
            if label == ANY_CLASS and detected is None:
                own = slice(*np.searchsorted(ordered, [image, image + 1]))
                detected = np.unique(results.labels[by_image[own]]).tolist()
            categories = (detected or []) if label == ANY_CLASS else [label]
            rows += [row] * len(categories)
            annotations += [
                {
                    "id": len(annotations) + number,
                    "image_id": int(image),
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(store.areas[row]),
                    "iscrowd": int(store.ignored[row]),
                }
                for number, category in enumerate(categories, start=1)
            ]
    truth = {
        "info": {},
        "images": [{"id": int(image)} for image in results.seen],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(store.label_map.names)],
    }
    return truth, np.array(rows, np.int64)


def _detections_of(results: Results) -> list[dict[str, Any]]:
    """Converts detections to COCO's annotations, with scores."""
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


def _prepare(truth: dict[str, Any], found: list[dict[str, Any]], backend: Backend) -> Any:
    """Makes the backend's ``COCOeval``, with annotations and detections loaded."""
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
