"""Prints the report as sentences and tables on the terminal."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_det.annotations import Problem
from lightning_det.annotations.labels import LONGEST
from lightning_det.data.inspection import PERCENTILES
from lightning_det.system.errors import one_line
from lightning_det.views.resolution import Resolution

log = logging.getLogger("lightning_det")

SHOWN_CLASSES = 10
"""Maximum number of classes that are listed with their number of boxes."""


def print_report(report: dict[str, Any], problems: Sequence[Problem], advised: bool = True) -> None:
    """Prints a report without its suggestion.

    Args:
        report: see `make_report`.
        problems: problems of all splits.
        advised: whether to compare the anchors with the boxes; not needed if better ones are written as an option.
    """
    console = Console()
    print_splits(console, report["splits"])
    print_statistics(console, report)
    print_views(console, report)
    if advised:
        print_anchors(console, report)
    if problems:
        console.print(f"{len(problems)} problems:")
        for problem in problems:
            print(f"  {problem} -> {problem.action}{', whatever dataset.on_bad is' * problem.harmless}")
    else:
        console.print("no problems")


def print_splits(console: Console, splits: dict[str, dict[str, Any]]) -> None:
    """Prints the numbers of images, boxes and problems of each split."""
    for name, counts in splits.items():
        console.print(
            f"{name}: {counts['images']} images ({counts['images_without_boxes']} without boxes), "
            f"{counts['boxes']} boxes, {counts['ignored_regions']} ignored regions, {counts['problems']} problems"
        )
        if "nothing_to_learn" in counts:
            console.print(f"{name} has {counts['nothing_to_learn']}")


def print_statistics(console: Console, report: dict[str, Any]) -> None:
    """Prints percentiles of sizes, and the most frequent classes."""
    table = Table("", *(f"{p} %" for p in PERCENTILES), title=f"percentiles, {report['split']}")
    for key in ("image_width", "image_height", "box_width", "box_height", "box_size", "boxes_per_image"):
        table.add_row(key.replace("_", " "), *(f"{v:g}" for v in np.round(report[key], 1)))
    classes = sorted(report["classes"].items(), key=lambda item: -item[1])
    most = ", ".join(f"{one_line(name, LONGEST)} {count}" for name, count in classes[:SHOWN_CLASSES])
    more = f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
    console.print(table, Text(f"classes: {most}{more}"))
    if report["rare_classes"]:
        log.warning("%s", report["rare_classes"])


def print_views(console: Console, report: dict[str, Any]) -> None:
    """Prints the views of an epoch by pyramid level: the boxes learned from, and the cost in pixels."""
    columns = ("level", "learns from sizes", "views", "without boxes", "boxes learned", "pixels")
    levels = Table(*columns, title="views of one epoch, as configured")
    for row in report["levels"]:
        counts = (row["views"], row["views_without_valid_boxes"], row["boxes_learned"])
        cost = f"{row['pixels_vs_800x1333']:.3f}"
        levels.add_row(str(row["level"]), range_text(*row["valid_range"]), *map(str, counts), cost)
    console.print(levels)
    console.print(
        f"{report['views_per_image']:.2f} views per image; {report['boxes_learned']} boxes are learned from in some "
        f"view, {report['boxes_unlearned']} in none; pixels per epoch: {report['pixels_vs_800x1333']:.3f} of one "
        f"800 x 1333 pass"
    )
    if report["classes_unlearned"]:
        console.print(Text(f"no view learns from any box of {one_line(', '.join(report['classes_unlearned']), 200)}"))
    if report["boxes_valid_at_no_scale"]:
        console.print(
            f"{report['boxes_valid_at_no_scale']} boxes are valid at no scale, and {report['boxes_without_chip']} of "
            "them get no chip (views.train.windows.orphans)"
        )
    for name in ("larger_than_tiles", "unneeded_views", "in_several_ranges", "hidden_from_focus"):
        if report[name]:
            log.warning("%s", report[name])


def print_anchors(console: Console, report: dict[str, Any]) -> None:
    """Prints how well anchors match the boxes of the views, and warns if they do not."""
    if reached := report["anchors"]:
        console.print(
            f"anchors: boxes in these views have a median size of {reached['median_size']:.0f} px and a mean IoU of "
            f"{reached['mean_iou']:.2f} with the best anchor; {100 * reached['missed']:.1f} % are met by none at 0.5"
        )
    if report["anchors_misfit"]:
        log.warning("%s", report["anchors_misfit"])


def scale_text(scale: Resolution) -> str:
    """Formats a scale: a factor, or the side that an image is resized to."""
    if isinstance(scale, int | float):
        return f"x {scale:g}"
    short, long = scale
    return " ".join([f"short side {short:g} px,"] * (short > 0) + [f"long side {long:g} px"] * (long > 0)).rstrip(",")


def range_text(low: float, high: float | None) -> str:
    """Formats a range of sizes; ``high`` is infinite if it is None or -1."""
    endless = high is None or high == -1
    return "all" if low == 0 and endless else f"{low:g} to {'inf' if endless else f'{high:g}'} px"
