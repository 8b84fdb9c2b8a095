"""Detections in COCO's results format."""

from pathlib import Path

from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.results import Results
from lightning_det.system.files import write_json


def coco_results(store: AnnotationStore, results: Results) -> list[dict]:
    """One object per detection: image_id, category_id (the source's), bbox (x, y, width, height) and score."""
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
    """Writes `coco_results` as json, as COCO's servers and tools read it."""
    write_json(file, coco_results(store, results), indent=None)
