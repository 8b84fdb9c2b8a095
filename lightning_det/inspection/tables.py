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
from lightning_det.data.suggestion import as_yaml
from lightning_det.system.errors import one_line

log = logging.getLogger("lightning_det")

SHOWN_CLASSES = 10
"""Maximum number of classes that are listed with their number of boxes."""


def print_report(report: dict[str, Any], problems: Sequence[Problem], base: str) -> None:
    """Prints a report.

    Args:
        report: see `make_report`.
        problems: problems of all splits.
        base: name of the dataset's option, from which the suggested option inherits.
    """
    console = Console()
    print_splits(console, report["splits"])
    print_statistics(console, report)
    print_views(console, report)
    print_anchors(console, report)
    if problems:
        console.print(f"{len(problems)} problems:")
        for problem in problems:
            print(f"  {problem} -> {problem.action}{', whatever dataset.on_bad is' * problem.harmless}")
    else:
        console.print("no problems")
    if report["suggestion"]:
        print_suggestion(console, report["suggestion"], base)


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


def print_views(console: Console, report: dict[str, Any]) -> None:
    """Prints the views of an epoch by pyramid level: the boxes learned from, and the cost in pixels."""
    columns = ("level", "learns from sizes", "views", "without boxes", "boxes learned", "pixels")
    levels = Table(*columns, title="views of one epoch")
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
    if report["boxes_valid_at_no_scale"]:
        console.print(
            f"{report['boxes_valid_at_no_scale']} boxes are valid at no scale, and {report['boxes_without_chip']} of "
            "them get no chip (views.train.windows.orphans)"
        )
    if report["larger_than_tiles"]:
        log.warning("%s", report["larger_than_tiles"])


def print_anchors(console: Console, report: dict[str, Any]) -> None:
    """Prints how well anchors match the boxes of the views, and a warning if they do not."""
    if reached := report["anchors"]:
        console.print(
            f"anchors: boxes in these views have a median size of {reached['median_size']:.0f} px and a mean IoU of "
            f"{reached['mean_iou']:.2f} with the best anchor; {100 * reached['missed']:.1f} % are met by none at 0.5"
        )
    if report["anchors_misfit"]:
        log.warning("%s", report["anchors_misfit"])


def print_suggestion(console: Console, suggestion: dict[str, Any], base: str) -> None:
    """Prints the views of SNIP and SNIPER with the suggested values, and these values as yaml."""
    sniper, snip = suggestion["sniper"], suggestion["snip"]
    table = Table("scale", "learns from sizes", "of the boxes", "chips per image", title="suggested for SNIPER")
    for row in sniper["levels"]:
        counts = (f"{100 * row['boxes_share']:.1f} %", f"{row['chips_per_image']:.2f}")
        table.add_row(str(row["scale"]), range_text(*row["valid_range"]), *counts)
    console.print(table)
    console.print(f"{100 * sniper['boxes_share_of_none']:.2f} % of the boxes are valid at no scale")
    if len(sniper["levels"]) == 1:
        console.print("these objects are large enough in the whole image: SNIP and SNIPER gain little here")
    for name, row in (("SNIPER", sniper), ("SNIP", snip)):
        console.print(
            f"{name}: {row['views_per_image']:.2f} views per image; pixels per epoch: "
            f"{row['pixels_vs_resolution']:.3f} of one pass at dataset.resolution, "
            f"{row['pixels_vs_800x1333']:.3f} of one 800 x 1333 pass"
        )
    for name, row in (("SNIPER", sniper["inference"]), ("SNIP", snip["inference"])):
        height, width = row["largest_view"]
        tiles = f"; {100 * row['images_share_in_tiles']:.0f} % of the images have views that are cut into tiles"
        console.print(
            f"{name} is tested on {row['views_per_image']:.2f} views per image, the largest {width} x {height} pixels"
            f"{tiles if row['images_share_in_tiles'] else ''}"
        )
    print(f"# suggested for conf/dataset/NAME.yaml, below `defaults: [{base}]`; tried on {suggestion['images']} images")
    print("# option: dataset=NAME")
    print(as_yaml(suggestion["dataset"]))


def range_text(low: float, high: float | None) -> str:
    """Formats a range of sizes; ``high`` is infinite if it is None or -1."""
    endless = high is None or high == -1
    return "all" if low == 0 and endless else f"{low:g} to {'inf' if endless else f'{high:g}'} px"
