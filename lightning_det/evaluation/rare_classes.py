"""Names classes that are too rare in the evaluated images for their figures to mean much."""

from collections.abc import Mapping

from lightning_det.annotations.labels import LONGEST
from lightning_det.evaluation.thresholds import FEWEST
from lightning_det.system.errors import one_line

NAMED = 5
"""Maximum number of classes that are named."""


def rare_classes(per_class: Mapping[str, Mapping[str, float | None]]) -> str:
    """Says which classes have so few objects that AP, the mean over classes, is to be read with care.

    Args:
        per_class: figures by class, of which ``boxes`` is the number of objects. Classes without any have no AP.

    Returns:
        A sentence; empty without such classes.
    """
    boxes = {name: int(row["boxes"] or 0) for name, row in per_class.items()}
    rare = [f"{one_line(name, LONGEST)} {count}" for name, count in boxes.items() if 0 < count < FEWEST]
    if not rare:
        return ""
    more = f" and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
    return (
        f"AP is the mean over {sum(map(bool, boxes.values()))} classes. Some have fewer than {FEWEST} objects in these "
        f"images ({', '.join(rare[:NAMED])}{more}), so look at AP by class too."
    )
