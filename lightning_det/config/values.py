"""Checks the values of single settings, by the keys that users type.

Every value is checked in one place. The constructors of this package check their arguments. This module checks the
rest: settings that reach no constructor, arguments of torch and Lightning, and arguments such as ``capacity``, which a
constructor would refuse by a name that the user does not know. `contradictions` compares settings with each other.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_det.evaluation.figures import METRICS
from lightning_det.system.errors import ConfigError
from lightning_det.views.resolution import check_resolution


class Range(NamedTuple):
    """A range of valid numbers."""

    words: str
    low: float
    high: float = float("inf")
    others: tuple[float, ...] = ()
    """Valid numbers outside of the range, with a special meaning."""
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is valid."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return (above and below) or value in self.others


COUNT = Range("at least 1", 1)
SHARE = Range("0 to 1", 0, 1)
NOT_NEGATIVE = Range("at least 0", 0)
FINITE = Range("at least 0 and finite", 0, open_high=True)
SIZE = Range("above 0 and finite", 0, open_low=True, open_high=True)
RATE = Range("0 or more, or null", 0, open_high=True)

RANGES = {
    "seed": Range("0 to 4294967295", 0, 2**32 - 1),
    "optimizer.lr": Range("above 0: at 0 nothing is learned", 0, open_low=True),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.momentum": Range("at least 0 and below 1", 0, 1, open_high=True),
    "schedule.final": NOT_NEGATIVE,
    "schedule.warmup": FINITE,
    "schedule.gamma": Range("above 0", 0, open_low=True),
    "schedule.milestones": NOT_NEGATIVE,
    "module.norm_weight_decay": NOT_NEGATIVE,
    "module.backbone_lr_scale": Range("above 0: backbone.frozen_stages keeps stages as they are", 0, open_low=True),
    "module.backbone_weight_decay": NOT_NEGATIVE,
    "module.reference_batch": COUNT,
    "trainer.max_epochs": Range("at least 1, or -1 without an end", 1, others=(-1,)),
    "trainer.max_steps": Range("at least 1, or -1 without an end", 1, others=(-1,)),
    "trainer.limit_train_batches": Range("above 0: a number of batches, or a share as 0.5", 0, open_low=True),
    "trainer.limit_val_batches": Range("at least 0: a number of batches, or a share as 0.5; 0 validates nothing", 0),
    "trainer.val_check_interval": Range("above 0: a number of batches, or a share of an epoch", 0, open_low=True),
    "trainer.check_val_every_n_epoch": Range("at least 1, or null", 1),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Range("at least 0; 0 or null clips nothing", 0),
    "trainer.log_every_n_steps": COUNT,
    "data.test_megapixels": Range("above 0, or null", 0, open_low=True),
    "data.num_workers": Range("at least 0, or null", 0),
    "data.keep_megabytes": Range("at least 0 and finite, or null", 0, open_high=True),
    "data.repeat_threshold": Range("above 0 and at most 1, or null", 0, 1, open_low=True),
    "data.min_visible": SHARE,
    "data.min_side": NOT_NEGATIVE,
    "dataset.holdout": Range("above 0 and below 1, or null", 0, 1, open_low=True, open_high=True),
    "dataset.limit": Range("at least 1, or null for all images", 1),
    "dataset.limit_val": Range("at least 1, or null for all images", 1),
    "dataset.proposals_per_megapixel": RATE,
    "capacity.neck": COUNT,
    "capacity.finest_stride": COUNT,
    "capacity.extra_maps": NOT_NEGATIVE,
    "capacity.head_convs": COUNT,
    "capacity.focal_alpha": SHARE,
    "capacity.focal_gamma": FINITE,
    "capacity.head": COUNT,
    "capacity.focus": COUNT,
    "capacity.roi": COUNT,
    "capacity.rois": COUNT,
    "capacity.proposals_per_megapixel": RATE,
    "capacity.before_nms": COUNT,
    "capacity.after_nms": COUNT,
    "detector.rpn.before_nms": COUNT,
    "detector.rpn.after_nms": COUNT,
    "detector.roi_size": COUNT,
    "detector.box_beta": NOT_NEGATIVE,
    "detector.roi_head.box_beta": NOT_NEGATIVE,
    "detector.rpn.box_beta": NOT_NEGATIVE,
    "detector.rpn.box_weight": FINITE,
    "detector.box_weight": FINITE,
    "detector.class_weight": FINITE,
    "detector.l1_weight": FINITE,
    "detector.giou_weight": FINITE,
    "detector.gamma": FINITE,
    "detector.feedforward": SIZE,
    "detector.expansion": SIZE,
    "dataset.anchor_sizes": SIZE,
    "dataset.anchor_ratios": SIZE,
    "detector.rpn.min_size": NOT_NEGATIVE,
    "detector.rpn.per_megapixel": RATE,
    "detector.rpn.border": Range("at least 0, or null", 0),
    "selection.priors.ratio": Range("above 0", 0, open_low=True),
    "callbacks.seeds.seed": NOT_NEGATIVE,
    "callbacks.early_stopping.patience": NOT_NEGATIVE,
    "detector.head_width": COUNT,
    "pictures": NOT_NEGATIVE,
    "miner.epochs": COUNT,
    "miner.proposals": COUNT,
    "miner.nms_iou": SHARE,
    "test.score_threshold": Range("at least 0 and below 1", 0, 1, open_high=True),
    "test.nms_iou": SHARE,
    "test.max_detections": COUNT,
    "test.view_detections": Range("at least 1, or null", 1),
    "test.detections_per_megapixel": RATE,
    "test.fragments": Range("above 0 and at most 1, or null", 0, 1, open_low=True),
    "test.passes": COUNT,
    "test.merge.iou": SHARE,
    "test.vote.iou": SHARE,
}
"""Ranges by dotted key. In a list, every number must be in the range. Null is always valid."""

PAIRS = ("capacity.before_nms", "capacity.after_nms", "detector.rpn.before_nms", "detector.rpn.after_nms")

LISTS = ("schedule.milestones", "dataset.anchor_sizes", "dataset.anchor_ratios")
"""Keys whose value may be an empty list."""

TEXTS = ("trainer.val_check_interval",)
"""Keys whose value may also be a text."""

CHOICES = {
    "test.backend": ("pycocotools", "faster-coco-eval"),
    "dataset.metric": METRICS,  # before the key that refers to it
    "test.metric": METRICS,
}
"""Texts by dotted key. Null is always valid."""


def check_values(cfg: Mapping[str, Any]) -> None:
    """Refuses values that are invalid whatever the other settings are.

    Args:
        cfg: the configuration as plain data.

    Raises:
        ConfigError: a value is invalid; the message names the key and the valid values.
    """
    _check_ranges(cfg)
    _check_resolutions(cfg.get("dataset") or {})
    cuts = _at(cfg, "dataset.size_cuts")
    if cuts is not None and (len(cuts) != 2 or not 0 < cuts[0] < cuts[1]):
        raise ConfigError(f"dataset.size_cuts must be two ascending sizes in pixels, got {cuts}")
    classes = _at(cfg, "dataset.classes")
    if classes is not None and (not classes or len(set(classes)) < len(classes)):
        raise ConfigError(f"dataset.classes must be names of classes, each once, or null for all, got {classes}")
    for key, choices in CHOICES.items():
        if (choice := _at(cfg, key)) is not None and choice not in choices:
            raise ConfigError(f"{key} must be {' or '.join(choices)}, got {choice!r}")


def _check_ranges(cfg: Mapping[str, Any]) -> None:
    for key in PAIRS:
        if isinstance(value := _at(cfg, key), list) and len(value) != 2:
            raise ConfigError(f"{key} must be two numbers, of training and of inference, got {value}")
    for key, valid in RANGES.items():
        value = _at(cfg, key)
        if value == [] and key not in LISTS:
            raise ConfigError(f"{key} must be {valid.words}, got an empty list")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, str) and key not in TEXTS:
                raise ConfigError(f"{key} must be a number, {valid.words}, got {value!r}")
            # NaN is in no range.
            if isinstance(number, int | float) and not isinstance(number, bool) and not valid.holds(number):
                raise ConfigError(f"{key} must be {valid.words}, got {value}")


def _check_resolutions(dataset: Mapping[str, Any]) -> None:
    """Refuses invalid resolutions, and factors that must have been meant as pixels; names the dataset's key."""
    sniper = dataset.get("sniper")
    sniper = sniper if isinstance(sniper, Mapping) else {}
    lists = {f"sniper.{key}": sniper.get(key) for key in ("scales", "pyramid")} | {"pyramid": dataset.get("pyramid")}
    lists["resolution"] = None if dataset.get("resolution") is None else [dataset["resolution"]]
    for key, resolutions in lists.items():
        if resolutions is None:
            continue
        if not isinstance(resolutions, list):
            raise ConfigError(f"dataset.{key}: must be a list of resolutions, finest first, got {resolutions!r}")
        for resolution in resolutions:
            try:
                check_resolution(resolution)
            except ValueError as error:
                raise ConfigError(f"dataset.{key}: {error}") from error


def _at(cfg: Mapping[str, Any], key: str) -> Any:
    """Returns the value at a dotted key; None if there is none."""
    value: Any = cfg
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
