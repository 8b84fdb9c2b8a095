"""Formats a suggestion as the two options that ``write=NAME`` adds to ``conf/``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_det.data.suggested_parts import FOCUS, LARGE
from lightning_det.data.suggestion import CHIP, ENLARGED, SINGLE_LARGEST, TEST_WIDER
from lightning_det.inspection.proposal import Suggestion


def option_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Returns the files of the options ``dataset=NAME`` and ``strategy=suggested`` for this dataset, in ``conf/``."""
    return folder / f"dataset/{name}.yaml", folder / f"strategy/suggested/{name}.yaml"


def dataset_yaml(suggestion: Suggestion, base: str, own: Mapping[str, Any], made_by: str) -> str:
    """Formats the option of a dataset.

    Args:
        suggestion: the suggested settings, and the figures behind them.
        base: name of the dataset's option from which this one inherits.
        own: the user's settings of the dataset, nested.
        made_by: the command that made it.
    """
    head = [f"# Written by: {made_by}", "# All sizes are sqrt(width * height) of objects, in pixels of the image."]
    lines = [*head, f"defaults: [{base}]", *_lines(own), *_lines(suggestion.dataset, comments(suggestion))]
    return "\n".join(lines) + "\n"


def strategy_yaml(suggestion: Suggestion, name: str, made_by: str) -> str:
    """Formats the option that ``strategy=suggested`` stands for with ``dataset=NAME``; arguments as above."""
    recommended = suggestion.recommended
    head = ["# @package _global_", f"# Written by: {made_by}", f"# What strategy=suggested means with dataset={name}."]
    reasons = [f"# {reason}" for reason in recommended.reasons]
    parts = ", ".join([*(f"/strategy/{part}" for part in recommended.strategy), "_self_"])
    return "\n".join([*head, *reasons, f"defaults: [{parts}]", *_lines(recommended.settings)]) + "\n"


def suggestion_yaml(suggestion: Suggestion) -> str:
    """Formats the suggested keys of ``dataset`` with their comments."""
    return "\n".join(_lines(suggestion.dataset, comments(suggestion)))


def comments(suggestion: Suggestion) -> dict[str, str]:
    """Says for each suggested key, dotted where it is nested, which figure is behind it."""
    dataset, figures = suggestion.dataset, suggestion.figures
    small = figures.small_size
    costs = {name: f"{cost.train.megapixels:.2g} megapixels per image" for name, cost in figures.costs.items()}
    wanted = f"{min(figures.factor * small, ENLARGED * small):.0f} px"
    levels = suggestion.tried["sniper"]["levels"]
    shares = ", ".join(f"{100 * level['boxes_share']:.1f} %" for level in levels)
    chips = ", ".join(f"{level['chips_per_image']:.2g}" for level in levels)
    said = {
        "resolution": f"single_scale: a tenth of the objects is below {small:.0f} px, seen at {wanted} unless views "
        f"would exceed {SINGLE_LARGEST / 1e6:g} megapixels; {costs['single_scale']}",
        "pyramid": "multi_scale and snip: from the finest scale of sniper to the image in one chip; "
        f"{costs['snip']} with snip",
        "anchor_sizes": "pixels of the view: fitted to the boxes at all of these scales",
        "anchor_ratios": "height / width: 10, 50 and 90 % of the boxes are below",
        "proposals_per_megapixel": f"at inference; there are {figures.boxes_per_image:.0f} boxes per image",
        "size_cuts": "AP of small, medium and large objects: COCO's borders, or thirds of the boxes",
        "snip": "ranges of sizes that each scale learns from",
        "snip.sub_image": "side of the windows at the finest scale, pixels of the view",
        "sniper.stride": "distance of candidate chips, pixels of the view: a sixteenth of the size",
        "focus": "autofocus",
        "focus.limits": "pixels of the view: up to the second, objects are looked at closer; AutoFocus's "
        f"{list(FOCUS)} in proportion to the ranges of sniper",
        "focus.thresholds": "lowest probability of a closer look, at the finest scale first: AutoFocus's for COCO",
        "focus.least": "smallest side of a closer look, pixels of the coarser view: a chip of sniper",
        "focus.border": "detections so near to an inner border of it are dropped, original pixels",
        "tiles": f"tiles: small objects are seen at {wanted} with factor {figures.factor:.2g}, and the overlap holds "
        f"{LARGE} % of the objects; {costs['tiles']}",
        "sniper": f"chips around objects: {costs['sniper_no_negatives']}",
        "sniper.size": f"pixels of the view; at most {CHIP[1]} objects of {figures.seen:.0f} px, the size that is seen "
        "well, side by side",
        "sniper.scales": f"the first shows small objects at {figures.seen:.0f} px; {chips} chips per image",
        "sniper.valid_ranges": f"{shares} of the boxes",
        "sniper.min_side": "thinner boxes are not learned from, pixels of the view",
        "sniper.pyramid": "scales of inference: those of training",
        "sniper.test_ranges": f"{TEST_WIDER[0]:g} and {TEST_WIDER[1]:g} times the ranges of training",
    }
    return {key: text for key, text in said.items() if key.partition(".")[0] in dataset}


def _lines(settings: Mapping[str, Any], said: Mapping[str, str] | None = None, above: str = "") -> list[str]:
    """Formats nested settings as lines of yaml, each below its comment; lists and numbers are on one line."""
    lines = []
    indent = "  " * above.count(".")
    for key, value in settings.items():
        if comment := (said or {}).get(f"{above}{key}"):
            lines.append(f"{indent}# {comment}")
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_lines(value, said, f"{above}{key}.")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}")
    return lines
