"""The detections of one image, for programs."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.store import AnnotationStore
from lightning_det.evaluation.files import coco_row
from lightning_det.evaluation.results import Results
from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """The detections of an image, by falling score."""

    boxes: np.ndarray
    """(n, 4) float32 ``xyxy``, pixels of the image as it is displayed."""
    scores: np.ndarray
    """(n,) float32, 0 to 1."""
    labels: np.ndarray
    """(n,) int64, positions in ``classes``."""
    image: str
    """The file, or which one of the images it was."""
    size: tuple[int, int]
    """(height, width) of the image, pixels."""
    label_map: LabelMap = field(repr=False)
    """The detector's classes, and their ids in the files of its dataset."""

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: int | slice | np.ndarray) -> "ImageDetections":
        """Some of the detections: ``found[found.scores > 0.5]``, ``found[:10]``; a loop gets them one by one."""
        kept = np.atleast_1d(np.arange(len(self))[rows])
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept])

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        return f"<{len(self)} detections in {self.image}{': ' if counts else ''}{counts}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the detections' classes (n,)."""
        return tuple(self.classes[label] for label in self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes of the detector."""
        return self.label_map.names

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Detections in COCO's results format: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h) and ``score``.

        ``category_id`` is the class's id in the files that the detector was trained on.

        Args:
            image_id: of the image, as your annotations have it.
        """
        ids = self.label_map.source_ids
        rows = zip(self.labels, self.boxes, self.scores, strict=True)
        return [coco_row(image_id, ids[label], box, score) for label, box, score in rows]

    def to_supervision(self) -> "supervision.Detections":
        """The detections for Roboflow's `supervision`, which draws, tracks and counts them.

        Raises:
            UserError: it is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError("to_supervision needs supervision: pip install 'lightning-det[supervision]'") from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )


def detections_of(results: Results, store: AnnotationStore) -> list[ImageDetections]:
    """Divides detections by image, each image's by falling score.

    Args:
        results: with views merged.
        store: the images.
    """
    order = np.lexsort((-results.scores, results.images))
    ends = np.searchsorted(results.images[order], np.arange(len(store) + 1))
    sizes = zip(store.heights.tolist(), store.widths.tolist(), strict=True)
    found = []
    for number, size in enumerate(sizes):
        rows = order[ends[number] : ends[number + 1]]
        boxes, scores, labels = results.boxes[rows], results.scores[rows], results.labels[rows]
        found.append(ImageDetections(boxes, scores, labels, store.files[number], size, store.label_map))
    return found
