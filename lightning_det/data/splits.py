"""What the splits of a dataset have to do with each other and with learning."""

import logging

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap

log = logging.getLogger("lightning_det")


def matched(val: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """The validation split with its classes counted as in the training split; classes are the same if their names are.

    Raises:
        DatasetError: it has classes that are not learned.
    """
    difference = labels.difference(val.label_map)
    if not set(val.label_map.names) <= set(labels.names):
        raise DatasetError(f"dataset.val {difference}, compared with dataset.train; both need the same classes")
    if difference:
        log.warning("dataset.val %s, compared with dataset.train; classes are matched by their names", difference)
    return val.with_labels(labels)


def alike(labels: LabelMap) -> list[str]:
    """Names of classes that differ from another one's in letters' case or spaces only, as slips of the keyboard do."""
    groups: dict[str, list[str]] = {}
    for name in labels.names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def nothing_to_learn(store: AnnotationStore) -> str:
    """Why there is nothing to learn from images all of whose boxes, if there are any, are ignored, in words."""
    if not store.num_boxes:
        return "no box to learn from; choose a split with boxes"
    return (
        f"no box to learn from: all {store.num_boxes} boxes have iscrowd 1 (COCO) or difficult 1 (VOC) and are regions "
        "without loss; if they are single objects, set it to 0"
    )
