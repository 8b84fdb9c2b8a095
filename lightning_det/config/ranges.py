"""Numbers that no part refuses by itself, or by a name that the user does not know."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_det.system.errors import ConfigError


class Range(NamedTuple):
    """Values that make sense; those that are no numbers are judged elsewhere."""

    words: str
    low: float
    high: float = float("inf")
    others: tuple[float, ...] = ()
    """Values outside of the range that have a meaning."""
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number makes sense."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return (above and below) or value in self.others


COUNT = Range("at least 1", 1)
SHARE = Range("0 to 1", 0, 1)
NOT_NEGATIVE = Range("at least 0", 0)

RANGES = {
    "seed": Range("0 to 4294967295", 0, 2**32 - 1),
    "optimizer.lr": Range("above 0: at 0 nothing is learned", 0, open_low=True),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.momentum": Range("at least 0 and below 1", 0, 1, open_high=True),
    "schedule.final": NOT_NEGATIVE,
    "schedule.warmup": Range("at least 0, and finite", 0, open_high=True),
    "schedule.gamma": Range("above 0", 0, open_low=True),
    "schedule.milestones": NOT_NEGATIVE,
    "module.norm_weight_decay": NOT_NEGATIVE,
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
    "data.num_workers": Range("at least 0, or null", 0),
    "data.min_visible": SHARE,
    "data.min_side": NOT_NEGATIVE,
    "dataset.limit": Range("at least 1, or null for all images", 1),
    "dataset.limit_val": Range("at least 1, or null for all images", 1),
    "capacity.neck": COUNT,
    "capacity.head": COUNT,
    "capacity.roi": COUNT,
    "capacity.rois": COUNT,
    "capacity.before_nms": COUNT,
    "capacity.after_nms": COUNT,
    "detector.before_nms": COUNT,
    "detector.after_nms": COUNT,
    "detector.roi_size": COUNT,
    "detector.box_beta": NOT_NEGATIVE,
    "detector.anchor_border": Range("at least 0, or null", 0),
    "selection.priors.ratio": Range("above 0", 0, open_low=True),
    "callbacks.seeds.seed": NOT_NEGATIVE,
    "callbacks.early_stopping.patience": NOT_NEGATIVE,
    "detector.head_width": COUNT,
    "miner.epochs": COUNT,
    "miner.proposals": COUNT,
    "miner.nms_iou": SHARE,
    "test.score_threshold": Range("at least 0 and below 1", 0, 1, open_high=True),
    "test.nms_iou": SHARE,
    "test.max_detections": COUNT,
    "test.view_detections": Range("at least 1, or null", 1),
    "test.passes": COUNT,
    "test.merge.iou": SHARE,
    "test.vote.iou": SHARE,
}
"""By dotted key; of a list, all numbers."""


PAIRS = ("capacity.before_nms", "capacity.after_nms", "detector.before_nms", "detector.after_nms")

TEXTS = ("trainer.val_check_interval",)
"""Keys that may be a text too."""


def check_ranges(cfg: Mapping[str, Any]) -> None:
    """Refuses numbers out of their range.

    Args:
        cfg: the configuration as plain data.

    Raises:
        ConfigError: naming the key and what makes sense.
    """
    for key in PAIRS:
        if isinstance(value := _at(cfg, key), list) and len(value) != 2:
            raise ConfigError(f"{key} must be two numbers, of training and of inference, got {value}")
    for key, valid in RANGES.items():
        value = _at(cfg, key)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, str) and key not in TEXTS:
                raise ConfigError(f"{key} must be a number, {valid.words}, got {value!r}")
            # NaN is in no range.
            if isinstance(number, int | float) and not isinstance(number, bool) and not valid.holds(number):
                raise ConfigError(f"{key} must be {valid.words}, got {value}")


def _at(cfg: Mapping[str, Any], key: str) -> Any:
    """What is at a dotted key; None if there is nothing."""
    value: Any = cfg
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
