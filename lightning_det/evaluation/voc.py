"""Average precision as Pascal VOC's development kit computes it (``VOCevaldet.m``, ``VOCap.m``).

No library that this package depends on does: COCO's evaluation matches a detection with the best object that is still
free, VOC's with the object that it overlaps most.
"""

import numpy as np
import torch
from torchvision.ops import box_iou

from lightning_det.annotations.labels import ANY_CLASS
from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.figures import METRICS, Metric
from lightning_det.evaluation.matches import IOU
from lightning_det.evaluation.measurable import count_boxes
from lightning_det.evaluation.results import Results

LEVELS = np.concatenate([np.arange(5) * 0.1, [0.5], 1 - np.arange(4, -1, -1) * 0.1])
"""(11,) recalls of the 11 points, as MATLAB's ``0:0.1:1`` rounds them: the fourth is one bit above 0.3."""


def voc_average_precision(store: AnnotationStore, results: Results, metric: Metric) -> np.ndarray:
    """Computes the AP of every class at IoU 0.5 on the images that were evaluated.

    A detection is compared with the object of its class that it overlaps most. If that object is difficult, or of a
    class that is left out, the detection does not count. If a detection with a higher score has found the same object,
    it is a false alarm, however well it fits another one. All detections count, whatever their number per image.

    The kit's boxes are inclusive pixels, with sides ``xmax - xmin + 1``. `Voc` reads (xmin, ymin, xmax, ymax) as the
    continuous box (xmin - 1, ymin - 1, xmax, ymax), whose sides are the same, so areas and overlaps are the kit's too.

    Args:
        store: annotations.
        results: detections, merged to one list per image. Of equal scores, the first row counts as the higher one.
        metric: which average.

    Returns:
        (K,) float64 from 0 to 1; -1 for classes without objects that count.

    Raises:
        ValueError: there is no such metric.
    """
    if metric not in METRICS:
        raise ValueError(f"test.metric must be {' or '.join(METRICS)}, got {metric!r}")
    best, overlap = _best_overlaps(store, results)
    order = np.argsort(-results.scores, kind="stable")
    best, labels = best[order], results.labels[order]
    hit = overlap[order] >= IOU
    counted = ~(hit & store.ignored[best]) if store.num_boxes else np.ones(len(results), bool)
    right = np.zeros(len(results), bool)
    claims = np.flatnonzero(hit & counted)
    right[claims[np.unique(best[claims], return_index=True)[1]]] = True
    objects = count_boxes(store, results.seen, [(0.0, np.inf)])[:, 0]
    figures = np.full(len(objects), -1.0)
    for label in np.flatnonzero(objects):
        found = right[counted & (labels == label)]
        recall, precision = np.cumsum(found) / objects[label], np.cumsum(found) / np.arange(1, len(found) + 1)
        figures[label] = eleven_points(recall, precision) if metric == "voc07" else area(recall, precision)
    return figures


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Averages the highest precision at or above each recall of `LEVELS`; 0 where the recall is not reached.

    Args:
        recall: (n,) ascending.
        precision: (n,) there.
    """
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(recall, LEVELS)].mean())


def area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Computes the area under the curve of the highest precision at or above each recall.

    Args:
        recall: (n,) ascending.
        precision: (n,) there.
    """
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())


def _best_overlaps(store: AnnotationStore, results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Finds the object that each detection overlaps most, among those of its class, or of any class.

    Returns:
        (N,) int64 rows in the store, the first of equal ones, and (N,) float64 IoU; 0 and 0 without such an object.
    """
    rows, overlaps = np.zeros(len(results), np.int64), np.zeros(len(results))
    order = np.argsort(results.images, kind="stable")
    images, starts = np.unique(results.images[order], return_index=True)
    for image, found in zip(images, np.split(order, starts[1:]), strict=False):
        start, end = store.offsets[image : image + 2]
        if start == end:
            continue
        boxes = torch.from_numpy(results.boxes[found]).double(), torch.from_numpy(store.boxes[start:end])
        same = (store.labels[start:end] == results.labels[found, None]) | (store.labels[start:end] == ANY_CLASS)
        ious = np.where(same, box_iou(*boxes).numpy(), 0.0)
        rows[found], overlaps[found] = start + ious.argmax(axis=1), ious.max(axis=1)
    return rows, overlaps
