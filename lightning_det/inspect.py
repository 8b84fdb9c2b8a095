"""``python -m lightning_det.inspect``: is the dataset in order, and what does a strategy make of it?"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap, Problem
from lightning_det.annotations.labels import LONGEST
from lightning_det.config.build import build_data, build_module, limited, own_priors, read_split
from lightning_det.data.anchors import SAMPLE, boxes_in_views, misfit, reach, suggested_sizes
from lightning_det.data.dataset import Look, ViewDataset
from lightning_det.data.inspection import (
    PERCENTILES,
    count_orphans,
    count_unlearned,
    coverage,
    damaged_images,
    larger_than_tiles,
    statistics,
)
from lightning_det.data.opening import ImageError
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.splits import nothing_to_learn
from lightning_det.data.suggestion import as_yaml, sample, suggest, try_out
from lightning_det.plotting.boxes import page
from lightning_det.plotting.curves import plot_sizes
from lightning_det.plotting.views import draw_view
from lightning_det.protocols.structures import State
from lightning_det.runs.command import checked, chosen, command, run_folder, save_config
from lightning_det.runs.mining import proposals_file, with_proposals
from lightning_det.system.errors import ConfigError, one_line
from lightning_det.system.files import write_json

log = logging.getLogger("lightning_det")

CELL = 400
"""Side of a picture on the page, pixels."""


def inspect(cfg: DictConfig) -> dict[str, Any]:
    """Inspects as the configuration says; results go into Hydra's run folder."""
    cfg = checked(cfg)
    folder = run_folder()
    save_config(cfg, folder)
    splits, problems, labels = {}, [], {}
    for which in dict.fromkeys([cfg.split, "train", "val", "test"]):
        if which != cfg.split and cfg.dataset[which] is None:
            continue
        try:
            store, found = read_split(cfg, which)
        except DatasetError as error:
            if which == cfg.split:
                raise
            problems.append(Problem(f"dataset.{which}", "", str(error), "split cannot be used"))
            continue
        found += damaged_images(store) if cfg.decode else []
        store = limited(store, cfg.dataset.limit if which == "train" else cfg.dataset.limit_val)
        splits[which] = statistics(store) | {"problems": len(found)}
        if store.ignored.all():
            splits[which]["nothing_to_learn"] = nothing_to_learn(store)
        problems = list(dict.fromkeys([*problems, *found]))
        labels[which] = store.label_map
        if which == cfg.split:
            chosen = store

    for which in [w for w in labels if w != "train" and "train" in labels]:
        if not set(labels[which].names) <= set(labels["train"].names):
            reason = f"{labels['train'].difference(labels[which])}, compared with dataset.train"
            problems.append(Problem(f"dataset.{which}", "", reason, "split cannot be used"))
    file = None if cfg.proposals == "auto" else proposals_file(cfg, folder)
    data = build_data(cfg, with_proposals(chosen, file), None)
    looks = plan_epoch(data.train, data.train_views, cfg.seed)
    sides = (chosen.boxes[:, 2:] - chosen.boxes[:, :2])[~chosen.ignored]
    sizes = np.sqrt(sides.prod(axis=1))
    suggestion = suggest(sizes, chosen.widths, chosen.heights)
    detector = detector_of(cfg, chosen.label_map)
    if suggestion is not None:
        tried = try_out(chosen, suggestion, cfg.dataset.resolution or suggestion["resolution"], cfg.seed)
        suggestion = {"dataset": with_anchors(suggestion, cfg, chosen, detector), **tried}
    sampled = sample(chosen, cfg.seed, SAMPLE) if len(chosen) else chosen
    learned = boxes_in_views(sampled, plan_epoch(sampled, data.train_views, cfg.seed), **data.visibility)
    met = None if detector is None else reach(learned, detector)
    poor = misfit(learned, detector, len(cfg.dataset.anchor_sizes), cfg.seed, own_priors(cfg)) if met else ""
    report = {
        **splits[cfg.split],
        "split": cfg.split,
        "problems": [p.to_dict() for p in problems],
        **coverage(chosen, looks, **data.visibility),
        "boxes_valid_at_no_scale": count_orphans(chosen, data.train_views),
        "boxes_without_chip": count_unlearned(chosen, data.train_views),
        "larger_than_tiles": larger_than_tiles(chosen, data.train_views),
        "anchors": None if met is None else met._asdict(),
        "anchors_misfit": poor,
        "suggestion": suggestion,
        "splits": splits,
    }
    write_json(folder / "inspect.json", report)
    marks = cfg.dataset.size_cuts
    plot_sizes(sizes, folder / "sizes.png", marks, f"object sizes, {cfg.split}")
    drawn = draw_page(ViewDataset(chosen, **data.visibility), looks, cfg.pictures)
    if drawn is not None:
        Image.fromarray(drawn).save(folder / "views.png")
    print_report(report, problems)
    print(folder)
    return report


def detector_of(cfg: DictConfig, labels: LabelMap) -> nn.Module | None:
    """The detector of the configuration, untrained; None where it cannot be built, which is no matter of the data."""
    try:
        return build_module(cfg, labels, learning=False).detector
    except ConfigError as error:
        log.warning("anchors are not measured: %s", error)
        return None


def with_anchors(
    suggestion: dict[str, Any], cfg: DictConfig, store: AnnotationStore, detector: nn.Module | None
) -> dict[str, Any]:
    """A suggestion with ``anchor_sizes``, as many as the detector takes."""
    count = len(cfg.dataset.anchor_sizes)
    sizes = None if detector is None else suggested_sizes(store, suggestion, detector, count, cfg.seed)
    added = {} if sizes is None else {"anchor_sizes": sizes}
    return {key: suggestion[key] for key in ("resolution", "pyramid")} | added | suggestion


def draw_page(dataset: ViewDataset, looks: Sequence[Look], count: int) -> np.ndarray | None:
    """Some views, spread over the dataset and over the levels; None where no image can be read."""
    by_level: dict[int, list[Look]] = {}
    for look in looks:
        by_level.setdefault(look.view.level, []).append(look)
    chosen = []
    for group in by_level.values():
        positions = np.linspace(0, len(group) - 1, -(-count // len(by_level))).round().astype(int)
        chosen += [group[p] for p in np.unique(positions)]
    tiles, titles = [], []
    for look in sorted(chosen[:count], key=lambda look: (look.image, look.view.level)):
        try:
            sample = dataset.__getitems__([look])[0]
        except ImageError:
            continue  # named among the problems
        pixels = sample.pixels.permute(1, 2, 0).numpy()
        tiles.append(draw_view(pixels, sample.targets, dataset.store.label_map.names, CELL))
        states = sample.targets.states
        titles.append(
            f"image {dataset.store.ids[look.image]}, x {look.view.scale:.2f}: learns {(states == State.VALID).sum()}, "
            f"not {(states == State.INVALID).sum()}"
        )
    return page(tiles, titles) if tiles else None


def print_report(report: dict[str, Any], problems: Sequence[Problem]) -> None:
    """The report in words and tables."""
    console = Console()
    for which, counts in report["splits"].items():
        console.print(
            f"{which}: {counts['images']} images ({counts['images_without_boxes']} without boxes), "
            f"{counts['boxes']} boxes, {counts['ignored_regions']} ignored regions, {counts['problems']} problems"
        )
        if "nothing_to_learn" in counts:
            console.print(f"{which} has {counts['nothing_to_learn']}")
    table = Table("", *(f"{p} %" for p in PERCENTILES), title=f"percentiles, {report['split']}")
    for key in ("image_width", "image_height", "box_width", "box_height", "box_size", "boxes_per_image"):
        table.add_row(key.replace("_", " "), *(f"{v:g}" for v in np.round(report[key], 1)))
    classes = sorted(report["classes"].items(), key=lambda item: -item[1])
    most = ", ".join(f"{one_line(name, LONGEST)} {count}" for name, count in classes[:10])
    console.print(table, Text(f"classes: {most}{f' and {len(classes) - 10} more' if len(classes) > 10 else ''}"))
    columns = ("level", "learns from sizes", "views", "without boxes", "boxes learned", "pixels")
    levels = Table(*columns, title="views of one epoch")
    for row in report["levels"]:
        counts = (row["views"], row["views_without_valid_boxes"], row["boxes_learned"])
        levels.add_row(
            str(row["level"]), bounds(*row["valid_range"]), *map(str, counts), f"{row['pixels_vs_800x1333']:.3f}"
        )
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
    if report["anchors"]:
        met = report["anchors"]
        console.print(
            f"anchors: boxes in these views have a median size of {met['median_size']:.0f} px and a mean IoU of "
            f"{met['mean_iou']:.2f} with the best anchor; {100 * met['missed']:.1f} % are met by none at 0.5"
        )
    if report["anchors_misfit"]:
        log.warning("%s", report["anchors_misfit"])
    if problems:
        console.print(f"{len(problems)} problems:")
        for problem in problems:
            print(f"  {problem} -> {problem.action}{', whatever dataset.on_bad is' * problem.harmless}")
    else:
        console.print("no problems")
    if report["suggestion"]:
        print_suggestion(console, report["suggestion"])


def print_suggestion(console: Console, suggestion: dict[str, Any]) -> None:
    """What SNIP and SNIPER would show with the suggested values, and these as yaml."""
    sniper, snip = suggestion["sniper"], suggestion["snip"]
    table = Table("scale", "learns from sizes", "of the boxes", "chips per image", title="suggested for SNIPER")
    for row in sniper["levels"]:
        counts = (f"{100 * row['boxes_share']:.1f} %", f"{row['chips_per_image']:.2f}")
        table.add_row(str(row["scale"]), bounds(*row["valid_range"]), *counts)
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
        tiles = f"; {100 * row['images_share_in_tiles']:.0f} % of the images have views that go in tiles"
        console.print(
            f"{name} is tested on {row['views_per_image']:.2f} views per image, the largest {width} x {height} pixels"
            f"{tiles if row['images_share_in_tiles'] else ''}"
        )
    base = chosen(["dataset"])["dataset"][-1]
    print(f"# suggested for conf/dataset/NAME.yaml, below `defaults: [{base}]`; tried on {suggestion['images']} images")
    print("# options: dataset=NAME and, for a folder conf/ of your own, hydra.searchpath=[file://conf]")
    print(as_yaml(suggestion["dataset"]))


def bounds(low: float, high: float | None) -> str:
    """A range of sizes in words; None and -1 are infinite."""
    endless = high is None or high == -1
    return "all" if low == 0 and endless else f"{low:g} to {'inf' if endless else f'{high:g}'} px"


main = command("inspect")(inspect)

if __name__ == "__main__":
    main()
