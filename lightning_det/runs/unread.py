"""Warns of settings of a training that nothing reads, or that cannot be reached."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from lightning_det.config.build import build
from lightning_det.config.module import without_weights
from lightning_det.config.signatures import locate, parameters
from lightning_det.runs.idle import idle_keys
from lightning_det.runs.overlay import reachable_keys, touches

log = logging.getLogger("lightning_det")

SIZES = (
    "capacity",
    "miner",
    "dataset.resolution",
    "dataset.pyramid",
    "dataset.snip",
    "dataset.sniper",
    "dataset.focus",
    "dataset.tiles",
    "dataset.anchor_sizes",
    "dataset.anchor_ratios",
    "dataset.proposals_per_megapixel",
)
"""Settings that count only where a part of the run refers to them: not every detector and strategy has such a part."""


HEAD_WIDTH = "detector.head_width"


def report_unread(cfg: DictConfig, overridden: Sequence[str]) -> None:
    """Warns of sizes, and of a few other settings, that the user set and that no part of a training reads.

    It is no error: scripts give all detectors the same sizes.

    Args:
        cfg: the checked configuration of a training, not resolved.
        overridden: dotted keys that the user set.
    """
    unread = unread_settings(cfg, overridden)
    if unread:
        log.warning("train: no part of this run reads these settings: %s", ", ".join(unread))


def report_unreachable(cfg: DictConfig) -> None:
    """Warns if more RoIs of a view should carry loss than it has proposals. Boxes of objects are RoIs too, but few.

    Args:
        cfg: the checked configuration of a training.
    """
    wanted, proposals = (OmegaConf.select(cfg, key) for key in ("selection.rois.count", "detector.rpn.after_nms"))
    if wanted is None or proposals is None or wanted <= proposals[0]:
        return
    log.warning(
        "train: selection.rois.count=%d is out of reach: a view has at most %d proposals in training "
        "(detector.rpn.after_nms), and the boxes of its objects. 'capacity.after_nms=[%d,%d]' gives it enough of them",
        wanted,
        proposals[0],
        wanted,
        proposals[1],
    )


def unread_settings(cfg: DictConfig, overridden: Sequence[str]) -> list[str]:
    """Lists the keys of `report_unread`, in the order of the command line."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    priors = plain["detector"].get("priors")
    if isinstance(priors, dict) and priors.get("sizes") is not None:
        priors.pop("objects", None)  # sizes take their place, see `Priors`
    idle = {*idle_keys(plain)}
    if {"capacity.head", HEAD_WIDTH} & {*overridden} and _has_roi_stage(cfg):
        idle.add(HEAD_WIDTH)
        plain["detector"].pop("head_width", None)
    elsewhere = ("capacity", "dataset", "miner", "selection")
    places: list[tuple[str, ...]] = [(node,) for node in plain if node not in elsewhere]
    known = parameters(locate("detector", plain["detector"]["_target_"]))
    places += [("selection", kind) for kind in plain["selection"] if known is None or f"select_{kind}" in known]
    places.append(("dataset", "source"))
    if plain["proposals"] == "auto":  # what mining reads itself, see `lightning_det.runs.mining`
        places += [("miner",), ("dataset", "anchor_sizes"), ("capacity", "proposals_per_megapixel")]
    read = reachable_keys(plain, places)
    sizes = [tuple(size.split(".")) for size in SIZES]
    return [
        key
        for key, place in ((key, tuple(key.split("."))) for key in dict.fromkeys(overridden))
        if key in idle
        or (any(place[: len(size)] == size for size in sizes) and not any(touches(place, other) for other in read))
    ]


def _has_roi_stage(cfg: DictConfig) -> bool:
    """Whether RoIs go through the last stage of the backbone, and not through layers of `HEAD_WIDTH`."""
    if cfg.detector._target_ != "lightning_det.detectors.FasterRCNN.c4":
        return False
    with torch.device("meta"):
        return build(without_weights(cfg.backbone, files_only=False), "backbone").roi_stage is not None
