"""Reports, before the first training step, boxes from which no view learns."""

import logging

from omegaconf import DictConfig

from lightning_det.annotations import AnnotationStore
from lightning_det.config.module import own_priors
from lightning_det.data.anchors import SAMPLE, boxes_in_views, misfit
from lightning_det.data.datamodule import ViewData
from lightning_det.data.inspection import count_orphans, count_unlearned, larger_than_tiles
from lightning_det.data.sampler import plan_epoch
from lightning_det.data.trial import sample
from lightning_det.protocols.detector import Detector

log = logging.getLogger("lightning_det")


def report_views(cfg: DictConfig, store: AnnotationStore, data: ViewData) -> None:
    """Logs how many boxes no scale or tile shows, and if there are no negative chips.

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
    if data.train_views.uses_proposals and cfg.proposals is None:
        log.info("train: no proposals, so positive chips only (proposals=auto mines them first)")


def report_anchors(cfg: DictConfig, detector: Detector, store: AnnotationStore, data: ViewData) -> None:
    """Warns if many boxes of the training views have no anchor that matches them."""
    store = sample(store, cfg.seed, SAMPLE)
    boxes = boxes_in_views(store, plan_epoch(store, data.train_views, cfg.seed), **data.visibility)
    said = misfit(boxes, detector, len(cfg.dataset.anchor_sizes), cfg.seed, own_priors(cfg))
    if said:
        log.warning("train: %s (python -m lightning_det.inspect suggests settings)", said)
