"""Names classes whose figures mean little, that are too rare to be learned as well as the others, or hardly learned."""

from collections.abc import Mapping
from operator import itemgetter

from lightning_det.annotations.labels import LONGEST
from lightning_det.evaluation.thresholds import FEWEST
from lightning_det.system.errors import one_line

NAMED = 5
"""Maximum number of classes that are named."""


LEARNED = 100
"""A class with fewer boxes to learn from, and with less than `SHARE` of those of the most frequent one, is rare."""

SHARE = 0.1

POOR_AP50 = 0.2
"""A class with a lower AP50 counts as hardly learned."""

POOR_F1 = 0.3
"""A class with a lower F1 at its best threshold does so too."""


def rare_classes(per_class: Mapping[str, Mapping[str, float | None]]) -> str:
    """Says which classes have so few objects that AP, the mean over classes, is to be read with care.

    Args:
        per_class: figures by class, of which ``boxes`` is the number of objects. Classes without any have no AP.

    Returns:
        A sentence; empty without such classes.
    """
    boxes = {name: int(row["boxes"] or 0) for name, row in per_class.items()}
    rare = {name: count for name, count in boxes.items() if 0 < count < FEWEST}
    if not rare:
        return ""
    return (
        f"AP is the mean over {sum(map(bool, boxes.values()))} classes. Some have fewer than {FEWEST} objects in these "
        f"images ({_listed(rare)}), so look at AP by class too."
    )


def rarely_learned(boxes: Mapping[str, int]) -> str:
    """Says which classes have so few boxes beside the others that a training hardly meets them, and the remedy.

    Args:
        boxes: number of boxes to learn from, by class.

    Returns:
        A sentence; empty without such classes.
    """
    limit = min(LEARNED, SHARE * max(boxes.values(), default=0))
    rare = {name: count for name, count in sorted(boxes.items(), key=lambda item: item[1]) if 0 < count < limit}
    if not rare:
        return ""
    return (
        f"some classes have few boxes beside the others ({_listed(rare)}); strategy=[...,class_balanced] shows views "
        "of rare classes more often"
    )


def hardly_learned(per_class: Mapping[str, Mapping[str, float | None]]) -> str:
    """Says which classes a detector hardly finds, although there are enough objects to tell.

    Args:
        per_class: figures by class: ``AP50`` and the number of ``boxes``.

    Returns:
        A sentence; empty without such classes.
    """
    poor = {
        name: f"AP50 {ap50:.2f}"
        for name, row in per_class.items()
        if (row["boxes"] or 0) >= FEWEST and (ap50 := row["AP50"] or 0.0) < POOR_AP50
    }
    if not poor:
        return ""
    return f"Hardly learned: {_listed(poor)}. Train longer, or look at the images and labels of these classes."


def poorly_found(f1: Mapping[str, float]) -> str:
    """Lists the classes with an F1 below `POOR_F1`, each with it and the worst first; empty without such classes.

    Args:
        f1: of each class at its best threshold.
    """
    return _listed({name: f"{value:.2f}" for name, value in sorted(f1.items(), key=itemgetter(1)) if value < POOR_F1})


def _listed(counts: Mapping[str, object]) -> str:
    """Lists classes with their counts or figures, `NAMED` at most."""
    named = ", ".join(f"{one_line(name, LONGEST)} {count}" for name, count in list(counts.items())[:NAMED])
    return f"{named} and {len(counts) - NAMED} more" if len(counts) > NAMED else named
