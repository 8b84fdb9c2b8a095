"""Writes detections in COCO's results format."""

from pathlib import Path
from typing import Any

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Results
from lightning_det.system.files import write_json


def coco_results(store: AnnotationStore, results: Results) -> list[dict[str, Any]]:
    """Converts detections to json: ``image_id`` and ``category_id`` of the source, ``bbox`` (x, y, w, h), ``score``."""
    source_ids = store.label_map.source_ids
    boxes = results.boxes.astype(float)
    return [
        {
            "image_id": store.source_id(int(results.images[row])),
            "category_id": source_ids[results.labels[row]],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(results.scores[row]),
        }
        for row, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]


def write_coco_results(file: Path, store: AnnotationStore, results: Results) -> None:
    """Writes `coco_results` as json, which COCO's servers and tools read."""
    write_json(file, coco_results(store, results), indent=None)
