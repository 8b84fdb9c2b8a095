"""Checks of a dataset's splits: common classes, misspelt classes, boxes to learn from."""

import logging
from collections.abc import Sequence

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.annotations.labels import LONGEST
from lightning_det.system.errors import one_line

log = logging.getLogger("lightning_det")

NAMED = 10
"""Maximum number of classes that a message names."""


def match_classes(val: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """Renumbers the classes of the validation split as in the training split, matched by name.

    Raises:
        DatasetError: it has classes that the training split does not have.
    """
    difference = labels.difference(val.label_map)
    if not set(val.label_map.names) <= set(labels.names):
        raise DatasetError(f"dataset.val {difference}, compared with dataset.train; both need the same classes")
    if difference:
        log.warning("dataset.val %s, compared with dataset.train; classes are matched by their names", difference)
    return val.with_labels(labels)


def find_misspelt(labels: LabelMap) -> list[str]:
    """Finds class names that differ from another one only in case or spaces, and are probably misspelt."""
    groups: dict[str, list[str]] = {}
    for name in labels.names:
        groups.setdefault(_letters(name), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def respelt(names: Sequence[str], labels: LabelMap) -> list[str]:
    """Finds other class names of a dataset that differ from some names only in case or spaces."""
    wanted = set(map(_letters, names))
    return [name for name in labels.names if name not in names and _letters(name) in wanted]


def _letters(name: str) -> str:
    """A name in lower case and without spaces."""
    return "".join(name.casefold().split())


def only_others(store: AnnotationStore) -> str:
    """Says that the boxes of a split are of classes that ``dataset.classes`` leaves out."""
    names = [one_line(name, LONGEST) for name in store.other_classes]
    shown = ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)
    return f"all {sum(store.other_classes.values())} boxes are of classes that dataset.classes leaves out ({shown})"


def nothing_to_learn(store: AnnotationStore) -> str:
    """Explains why nothing can be learned from a split that has no boxes, or only ignored ones."""
    if store.other_classes and (not store.num_boxes or sum(store.other_classes.values()) >= store.num_boxes):
        return f"no box to learn from: {only_others(store)}; choose others, or a split that has them"
    if not store.num_boxes:
        return "no box to learn from; choose a split with boxes"
    return (
        f"no box to learn from: all {store.num_boxes} boxes have iscrowd 1 (COCO) or difficult 1 (VOC) and are regions "
        "without loss; if they are single objects, set it to 0"
    )
