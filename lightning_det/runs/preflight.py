"""Checks before a training: the trainer's settings, boxes to learn from, and monitored figures."""

import logging
import re
from collections import Counter

import numpy as np
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping

from lightning_det.annotations import AnnotationStore, DatasetError
from lightning_det.config import ConfigError
from lightning_det.config.data import build_data, split_name
from lightning_det.data.datamodule import ViewData
from lightning_det.data.inference_batches import InferenceBatches
from lightning_det.evaluation.figures import figure_names
from lightning_det.evaluation.measurable import explain_undefined, undefined_figures
from lightning_det.modules import keys
from lightning_det.modules.inference import Inference
from lightning_det.modules.schedules import Cosine
from lightning_det.protocols.structures import State
from lightning_det.runs.kinds import makes
from lightning_det.system.refusals import trainer_problem
from lightning_det.system.workload import cores
from lightning_det.views.targets import targets

log = logging.getLogger("lightning_det")

RECALL = re.compile(re.escape(keys.validation("AR")) + r"\d+")
"""Average recall of a number of detections."""

TRIES = 3
"""Number of epochs that are planned to find a box to learn from, because views may be random."""


def check_trainer(cfg: DictConfig) -> None:
    """Refuses settings that the trainer does not support, and a schedule over a training without a known end.

    Warns of more processes than cores, of no validation, and of ranges of sizes that begin after the last epoch.

    Raises:
        ConfigError: naming the key and what is valid.
    """
    settings = cfg.trainer
    if why := trainer_problem(settings):
        raise ConfigError(why)
    epochs, timed = settings.max_epochs, settings.max_time is not None
    endless = settings.max_steps == -1 and (epochs == -1 or (epochs is None and timed))
    if endless and (makes("schedule", cfg.schedule, Cosine) or cfg.schedule.get("unit") == "share"):
        raise ConfigError(
            "schedule=cosine and schedule.unit=share need the length of the whole training, and this one has no end "
            f"that they know (trainer.max_epochs={epochs}, trainer.max_steps=-1); set one of them, or "
            "schedule=constant schedule.unit=steps"
        )
    if why := _problem_of_steps(cfg):
        raise ConfigError(why)
    processes = settings.devices if settings.accelerator == "cpu" and isinstance(settings.devices, int) else 1
    if processes > (available := cores()):
        log.warning(
            "trainer.devices=%d with trainer.accelerator=cpu: %d processes on %d cores, each with its own batches; "
            "trainer=gpu trainer.devices=N takes GPUs",
            *(processes, processes, available),
        )
    if is_never_validated(settings):
        log.warning(
            "trainer.check_val_every_n_epoch=%d: this training has only %d epochs, so nothing is validated; "
            "trainer.check_val_every_n_epoch=1 validates after each",
            settings.check_val_every_n_epoch,
            epochs,
        )
    warm = max(OmegaConf.select(cfg, "views.train.scales.warm_epochs") or [0])
    if epochs is not None and 0 < epochs <= warm:
        log.warning(
            "views.train.scales.warm_epochs: the first %d epochs have no ranges of sizes, and the training has only %d",
            warm,
            epochs,
        )


def _problem_of_steps(cfg: DictConfig) -> str:
    """Says what would end a training at its first step, or in an epoch shorter than others; empty if nothing would."""
    settings = cfg.trainer
    interval, mixed = settings.val_check_interval, str(settings.precision).endswith("mixed")
    if isinstance(interval, int) and interval > 1 and settings.check_val_every_n_epoch is not None:
        return (
            f"trainer.val_check_interval={interval} counts the batches of an epoch. Lightning ends the training in an "
            "epoch that has fewer, and epochs differ in length where views are random. With "
            "trainer.check_val_every_n_epoch=null it counts on across epochs; 0.5 validates twice in each epoch"
        )
    if cfg.optimizer.get("fused") and mixed and settings.gradient_clip_val:
        return (
            f"optimizer.fused=true: Lightning clips no gradients (trainer.gradient_clip_val="
            f"{settings.gradient_clip_val}) of a fused optimizer with trainer.precision={settings.precision}; "
            "leave optimizer.fused out, or set trainer.gradient_clip_val=null"
        )
    return ""


def is_never_validated(settings: DictConfig) -> bool:
    """Whether a trainer's epochs are too few for a validation."""
    every, epochs = settings.check_val_every_n_epoch, settings.max_epochs
    return every is not None and 0 < (epochs or 0) < every


def check_monitors(cfg: DictConfig) -> None:
    """Refuses callbacks that monitor a figure which no validation logs. Warns of early stopping that comes too late.

    Raises:
        ConfigError: naming the callback's key and the figures that are logged.
    """
    known = [keys.validation(name) for name in figure_names(cfg.test.max_detections, cfg.test.metric)]
    by_images = cfg.test.detections_per_megapixel is not None  # the number in the last AR, see `_check_recall`
    never = cfg.trainer.limit_val_batches == 0 or is_never_validated(cfg.trainer)
    for name, monitor in monitored_figures(cfg).items():
        key = f"callbacks.{name}.monitor={monitor}"
        if not monitor.startswith(keys.validation("")):
            continue
        if (cfg.callbacks or {}).get("evaluator") is None:
            raise ConfigError(f"{key}: without callbacks.evaluator nothing logs it; callbacks.{name}=null")
        if monitor not in known and not (by_images and RECALL.fullmatch(monitor)):
            raise ConfigError(f"{key}: a validation logs {', '.join(known)}")
        if never and _stops_early(cfg, name):
            raise ConfigError(
                f"{key}: there is no validation (trainer.limit_val_batches={cfg.trainer.limit_val_batches}, "
                f"trainer.check_val_every_n_epoch={cfg.trainer.check_val_every_n_epoch} of "
                f"{cfg.trainer.max_epochs} epochs), so nothing can stop the training early; "
                f"validate, or leave it out with callbacks.{name}=null"
            )
        if _stops_early(cfg, name):
            _report_late(cfg, name)


def _report_late(cfg: DictConfig, name: str) -> None:
    """Warns if early stopping waits for more validations than the training has."""
    every, epochs = cfg.trainer.check_val_every_n_epoch, cfg.trainer.max_epochs
    patience = cfg.callbacks[name].get("patience", 3)  # Lightning's default
    if not every or not epochs or epochs < every or cfg.trainer.val_check_interval not in (None, 1):
        return
    if epochs // every <= patience + 1:
        log.warning(
            "callbacks.%s.patience=%d never ends this training early: it has %d validations, and the first after which "
            "it may end is number %d; lower it, or raise trainer.max_epochs",
            name,
            patience,
            epochs // every,
            patience + 1,
        )


def monitored_figures(cfg: DictConfig) -> dict[str, str]:
    """Returns the figures that callbacks monitor, by the name of the callback."""
    nodes = {name: node for name, node in (cfg.callbacks or {}).items() if node is not None}
    return {name: node["monitor"] for name, node in nodes.items() if node.get("monitor")}


def _stops_early(cfg: DictConfig, name: str) -> bool:
    """Whether a callback ends the training by its figure."""
    return makes(f"callbacks.{name}", cfg.callbacks[name], EarlyStopping)


def check_data(cfg: DictConfig, train: AnnotationStore, val: AnnotationStore) -> None:
    """Checks that the training has a box to learn from, and that its validations have something to measure.

    Raises:
        DatasetError: no view has a box to learn from.
        ConfigError: early stopping monitors a figure that will be undefined, or a callback one that is not logged.
    """
    data = build_data(cfg, train, val)
    if not has_learnable_box(data, train):
        raise DatasetError(
            f"dataset.train ({cfg.dataset.train}): none of its {train.num_boxes} boxes is learned from in any view: "
            "they are out of the ranges of sizes (views.train.scales.valid_ranges and anchor_ranges), less than "
            f"data.min_side={data.visibility['min_side']:g} pixels of a view, cut to less than "
            f"data.min_visible={data.visibility['min_visible']:g} of themselves, or ignored ones; python -m "
            "lightning_det.inspect with the same options draws the views"
        )
    if cfg.trainer.limit_val_batches != 0 and not cfg.trainer.fast_dev_run:
        _check_recall(cfg, val)
        _check_validation(cfg, val, _validated_images(cfg, data, val))


def _check_recall(cfg: DictConfig, val: AnnotationStore) -> None:
    """Refuses to monitor the average recall of a number of detections that is not measured on these images."""
    limits = Inference(
        max_detections=cfg.test.max_detections, detections_per_megapixel=cfg.test.detections_per_megapixel
    ).per_image(val)
    most = int(limits.max(initial=cfg.test.max_detections))
    known = [keys.validation(name) for name in figure_names(most)]
    for name, monitor in monitored_figures(cfg).items():
        if RECALL.fullmatch(monitor) and monitor not in known:
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor}: a validation on images as large as these logs "
                f"{keys.validation(f'AR{most}')} (test.max_detections; test.detections_per_megapixel)"
            )


def has_learnable_box(data: ViewData, store: AnnotationStore) -> bool:
    """Whether some training view of a store's images has a box to learn from. Stops at the first one."""
    for epoch in range(TRIES):
        planner = data.train_views.at(epoch)
        for image, record in enumerate(store.records()):
            if record.ignored.all():
                continue
            views = planner(record, np.random.default_rng((data.seed, epoch, image)))
            if any((targets(record, view, **data.visibility).states == State.VALID).any() for view in views):
                return True
    return False


def _validated_images(cfg: DictConfig, data: ViewData, store: AnnotationStore) -> np.ndarray | None:
    """Positions in a store of the images that a validation in one process evaluates; None for all of them.

    Warns if a limit of batches leaves out views of these images. Those of the finest scale come first.
    """
    limit = cfg.trainer.limit_val_batches
    if limit is None or (isinstance(limit, float) and limit >= 1):
        return None
    batches = list(InferenceBatches(store, data.test_views, data.test_limits))
    count = limit if isinstance(limit, int) else int(limit * len(batches))
    seen, left = (
        Counter(look.image for batch in part for look in batch) for part in (batches[:count], batches[count:])
    )
    if partial := len(seen.keys() & left.keys()):
        log.warning(
            "trainer.limit_val_batches=%s: a validation sees %d of %d views. %d of its %d images lack others of their "
            "views, such as those of coarser scales, so its AP is not that of the strategy; dataset.limit_val=N "
            "validates on N images with all of their views",
            limit,
            seen.total(),
            seen.total() + left.total(),
            partial,
            len(seen),
        )
    return np.unique(np.array([*seen], np.int64))


def _check_validation(cfg: DictConfig, val: AnnotationStore, images: np.ndarray | None) -> None:
    """Refuses early stopping by a figure that will be undefined, and warns about other callbacks that monitor one."""
    figures = undefined_figures(val, cfg.dataset.size_cuts, cfg.test.max_detections, images, cfg.test.metric)
    missing = [keys.validation(name) for name in figures]
    watching = {name: monitor for name, monitor in monitored_figures(cfg).items() if monitor in missing}
    reason = explain_undefined(val, images)
    where = split_name(cfg, "val")
    for name, monitor in watching.items():
        if _stops_early(cfg, name):
            why = reason or "there is no box of that size"
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor}: {where}: {why}, so it is undefined and cannot stop a training; "
                f"choose another split or figure, or leave it out with callbacks.{name}=null"
            )
    if reason:
        log.warning(
            "%s: %s, so validations have nothing to measure: AP is undefined, and there will be no best checkpoint, "
            "only the last one. Choose a split with boxes, or leave validation out with trainer.limit_val_batches=0",
            where,
            reason,
        )
    elif watching:
        for name, monitor in watching.items():
            log.warning("%s has no box for %s: callbacks.%s will save nothing", where, monitor, name)
