"""The scores from which detections are shown: drawn, cropped and counted."""

import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from lightning_det.annotations import LabelMap
from lightning_det.checkpoint import checkpoint_file
from lightning_det.evaluation.rare_classes import poorly_found
from lightning_det.evaluation.thresholds import FEWEST, SHOWN, THRESHOLDS, Thresholds
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")


def shown_scores(cfg: DictConfig, labels: LabelMap, lowest: float) -> np.ndarray:
    """Chooses the score threshold of each class, and logs it with where it comes from.

    ``draw_threshold`` takes precedence. Otherwise the best thresholds of an evaluation are used: those that
    ``thresholds`` names, or those in the run folder of the checkpoint. Without any, it is `SHOWN`.

    Args:
        cfg: configuration of `predict`.
        labels: classes of the detector.
        lowest: ``test.score_threshold``. The detector drops candidates below it, so a lower ``draw_threshold`` shows no
            more of them, and is warned of.

    Returns:
        (K,) float64.

    Raises:
        ConfigError: a threshold is not from 0 to 1, ``thresholds`` are of other classes, or both are given.
        UserError: the file of thresholds cannot be read.
    """
    given = cfg.draw_threshold
    if given is not None and not 0 <= given <= 1:
        raise ConfigError(f"draw_threshold={given:g}: must be from 0 to 1; null takes the best one of each class")
    if given is not None and cfg.thresholds is not None:
        raise ConfigError("draw_threshold and thresholds both say which detections are shown; give one of them")
    if given is not None:
        log.info("shown: detections with a score of at least draw_threshold=%g", given)
        if 0 < given < lowest:
            log.warning(
                "draw_threshold=%g: the detector drops candidates below test.score_threshold=%g, so hardly any "
                "detection has so low a score; test.score_threshold=%g keeps them",
                *(given, lowest, given),
            )
        return np.full(len(labels), float(given))
    measured, place = read_thresholds(cfg.checkpoint, cfg.thresholds, labels)
    if measured is None:
        log.info("shown: detections with a score of at least %g; no evaluation has left %s", SHOWN, place)
        return np.full(len(labels), SHOWN)
    scores = measured.of(labels.names, SHOWN)
    log.info(
        "shown: detections with at least the score that is best for their class on %s: %s (%s; draw_threshold=0.5 sets "
        "one for all)",
        *(measured.measured_on, _list_scores(measured, labels), place),
    )
    # A class without a right detection has neither threshold nor F1, in spite of its objects.
    missed = {n for n in labels.names if measured.boxes.get(n, 0) >= FEWEST and n not in measured.per_class}
    told = (name for name in labels.names if name in measured.f1 or name in missed)
    if poor := poorly_found({name: measured.f1.get(name, 0.0) for name in told}):
        log.info("hardly learned, by their F1 there: %s", poor)
    return scores


def read_thresholds(
    checkpoint: str | Path, given: str | Path | None, labels: LabelMap
) -> tuple[Thresholds | None, Path]:
    """Reads thresholds that are given, or those in the run folder of a checkpoint.

    Args:
        checkpoint: run folder or file.
        given: ``thresholds.json`` or a run folder; None: those of the checkpoint's run.
        labels: classes of the detector.

    Returns:
        The thresholds, None if the run has none, and their file.

    Raises:
        ConfigError: the thresholds are of other classes.
        UserError: the file cannot be read.
    """
    place = run_of(checkpoint) / THRESHOLDS if given is None else Path(given)
    if given is None and not place.is_file():
        return None, place
    measured = Thresholds.read(place)
    if not set(measured.boxes) & set(labels.names):
        few = ", ".join(labels.printable_names[:5])
        raise ConfigError(f"thresholds={place}: of other classes than the detector's, which are {few}")
    return measured, place


def _list_scores(measured: Thresholds, labels: LabelMap) -> str:
    """Lists thresholds: those of the first classes that have one of their own, and the one of all other classes."""
    pairs = zip(labels.names, labels.printable_names, strict=True)
    own = [f"{shown} {measured.per_class[name]:.2f}" for name, shown in pairs if name in measured.per_class]
    others = [f"others {SHOWN if measured.overall is None else measured.overall:.2f}"] * (len(own) < len(labels))
    return ", ".join(own[:10] + [f"and {len(own) - 10} more"] * (len(own) > 10) + others)


def run_of(checkpoint: str | Path) -> Path:
    """Returns the run folder of a checkpoint, which holds ``checkpoints``; of a file elsewhere, its own folder."""
    folder = checkpoint_file(checkpoint).parent
    return folder.parent if folder.name == "checkpoints" else folder
