"""Writes detections in COCO's results format."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Results
from lightning_det.system.files import write_json


def coco_results(store: AnnotationStore, results: Results) -> list[dict[str, Any]]:
    """Converts detections to json: ``image_id`` and ``category_id`` of the source, ``bbox`` (x, y, w, h), ``score``."""
    source_ids = store.label_map.source_ids
    return [
        coco_row(store.source_id(int(results.images[row])), source_ids[results.labels[row]], box, results.scores[row])
        for row, box in enumerate(results.boxes)
    ]


def coco_row(image_id: int | str, category_id: int, box: np.ndarray, score: float) -> dict[str, Any]:
    """One detection of `coco_results`; ``box`` is (4,) ``xyxy``."""
    x1, y1, x2, y2 = box.astype(float).tolist()
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": float(score),
    }


def write_coco_results(file: Path, store: AnnotationStore, results: Results) -> None:
    """Writes `coco_results` as json, which COCO's servers and tools read."""
    write_json(file, coco_results(store, results), indent=None)
