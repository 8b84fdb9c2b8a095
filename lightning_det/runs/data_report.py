"""Reports, before the first training step, boxes from which no view learns."""

import logging

import numpy as np
from omegaconf import DictConfig

from lightning_det.annotations import AnnotationStore
from lightning_det.annotations.labels import LONGEST
from lightning_det.config.module import own_priors
from lightning_det.data.anchors import SAMPLE, boxes_in_views, misfit
from lightning_det.data.datamodule import ViewData
from lightning_det.data.inspection import (
    count_orphans,
    count_unlearned,
    coverage,
    hidden_from_focus,
    in_several_ranges,
    larger_than_tiles,
)
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.trial import sample
from lightning_det.protocols.detector import Detector
from lightning_det.system.errors import one_line

log = logging.getLogger("lightning_det")

NAMED = 10
"""Maximum number of classes that a line names."""


def report_views(cfg: DictConfig, store: AnnotationStore, data: ViewData) -> None:
    """Logs how many boxes no scale or tile shows, or most at several scales, and if there are no negative chips.

    Args:
        cfg: the whole configuration.
        store: images to learn from.
        data: plans their views.
    """
    orphans = count_orphans(store, data.train_views)
    if orphans:
        unlearned = count_unlearned(store, data.train_views)
        log.info(
            "train: %d boxes are valid at no scale: %d go to the coarsest, %d get no chip (windows.orphans)",
            orphans,
            orphans - unlearned,
            unlearned,
        )
    if larger := larger_than_tiles(store, data.train_views):
        log.warning("train: %s", larger)
    if shared := in_several_ranges(store, data.train_views):
        log.warning("train: %s", shared)
    if cfg.focus is not None and (hidden := hidden_from_focus(sample(store, cfg.seed, SAMPLE), data.train_views)):
        log.warning("train: %s", hidden)
    if data.train_views.uses_proposals and cfg.proposals is None:
        log.info("train: no proposals, so positive chips only (proposals=auto mines them first)")


def report_repetitions(cfg: DictConfig, store: AnnotationStore, data: ViewData) -> None:
    """Logs how many views ``data.repeat_threshold`` adds to the first epoch, and which classes they show.

    Args:
        cfg: the whole configuration.
        store: images to learn from.
        data: plans their views.
    """
    if data.balance is None:
        return
    looks = plan_epoch(store, data.train_views, cfg.seed)
    further = data.balance.repeat(store, data.train_views.at(0), looks, cfg.seed, 0)
    before, added = data.balance.count(store, looks), data.balance.count(store, further)
    rare = np.flatnonzero(before < data.balance.threshold * len(looks))
    shown = sorted(rare[before[rare] > 0].tolist(), key=lambda label: before[label])
    if not shown:
        log.warning(
            "train: every class is in at least %g of the %d views, so none is repeated; raise data.repeat_threshold",
            data.balance.threshold,
            len(looks),
        )
        return
    names = store.label_map.names
    counts = [f"{one_line(names[k], LONGEST)} {before[k]} -> {before[k] + added[k]}" for k in shown[:NAMED]]
    log.info(
        "train: an epoch has %d views, and about %d more that repeat rare classes; views by class: %s%s",
        len(looks),
        len(further),
        ", ".join(counts),
        f" and {len(shown) - NAMED} more" if len(shown) > NAMED else "",
    )


def report_boxes(cfg: DictConfig, detector: Detector, store: AnnotationStore, data: ViewData) -> None:
    """Logs how many boxes the first epoch does not learn from, and warns if many have no anchor that matches them.

    Both are measured on a sample of the images.

    Args:
        cfg: the whole configuration.
        detector: has the anchors.
        store: images to learn from.
        data: plans their views.
    """
    store = sample(store, cfg.seed, SAMPLE)
    looks = plan_epoch(store, data.train_views, cfg.seed)
    counts = coverage(store, looks, **data.visibility)
    if unlearned := counts["boxes_unlearned"]:
        total = unlearned + counts["boxes_learned"]
        log.log(
            logging.WARNING if 2 * unlearned > total else logging.INFO,
            "train: in the first epoch, no view learns from %d of %d boxes in %d images: they are out of all ranges of "
            "sizes, cut, thinner than data.min_side, or not shown (lightning-det inspect draws the views)",
            *(unlearned, total, len(store)),
        )
    if counts["boxes_learned"] and (names := counts["classes_unlearned"]):
        log.warning(
            "train: in the first epoch, no view learns from any box of %s: AP of these classes stays 0 unless later "
            "epochs show them (lightning-det inspect draws the views)",
            one_line(", ".join(names), 200),
        )
    boxes = boxes_in_views(store, looks, **data.visibility)
    said = misfit(boxes, detector, len(cfg.dataset.anchor_sizes), cfg.seed, own_priors(cfg))
    if said:
        log.warning("train: %s (lightning-det inspect suggests settings)", said)
