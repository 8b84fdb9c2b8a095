"""``load``: a trained detector, ready for images."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_det.annotations import LabelMap
from lightning_det.api.detector import LoadedDetector
from lightning_det.api.settings import composed
from lightning_det.config.data import build_data
from lightning_det.evaluation.thresholds import SHOWN, Thresholds
from lightning_det.inference.engine import Engine
from lightning_det.runs.inputs import check_inputs
from lightning_det.runs.restore import restore_detector
from lightning_det.runs.resume import quote
from lightning_det.runs.score_thresholds import read_thresholds
from lightning_det.system.errors import ConfigError

log = logging.getLogger("lightning_det")


def load(
    checkpoint: str | Path,
    *,
    overrides: Sequence[str] = (),
    test: Sequence[str] | None = None,
    score_threshold: float | None = None,
    thresholds: str | Path | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    half: bool = False,
) -> LoadedDetector:
    """Loads a trained detector. Files are read as data; nothing in a checkpoint is run.

    Classes, views, valid ranges, merging and all other settings are those of the training, as in the command `predict`.

    Args:
        checkpoint: a run folder (its best checkpoint), or a ``.ckpt`` file.
        overrides: settings that differ from the checkpoint's, as on the command line of `predict`:
            ``["test.max_detections=300", "dataset.resolution=[800,1333]"]``.
        test: options of the group ``test``, which replace the checkpoint's views or merging: ``["tiles"]``.
        score_threshold: lowest score of the detections of all classes; 0 keeps all that the detector returns, which are
            those above ``test.score_threshold``. By default it is `SHOWN`, unless there are ``thresholds``.
        thresholds: lowest scores by class: the ``thresholds.json`` of an evaluation, or its run folder. By default
            those in the checkpoint's run folder, if an evaluation has left some and no ``score_threshold`` is given.
        batch_size: most views per batch, ``data.test_batch_size``; large ones are fewer, see ``data.test_megapixels``.
        device: such as ``"cpu"`` or ``"cuda:1"``; by default the GPU if there is one.
        half: compute in 16 bits where that is safe: faster on GPUs, with slightly different scores.

    Raises:
        ConfigError: a setting is unknown, invalid, or has no effect here; the message names the key.
        UserError: there is no such checkpoint, or the file is none of this package.
    """
    if half is not True and half is not False:
        raise ConfigError(f"half={half!r}: must be True or False")
    given = [f"checkpoint={quote(checkpoint)}"]
    given += [] if test is None else [f"test=[{','.join(_options(test))}]"]
    given += [] if batch_size is None else [f"data.test_batch_size={batch_size}"]
    with composed("load", overrides, ".", given) as cfg:
        check_inputs(cfg, "load")
        with torch.random.fork_rng(devices=[]):  # a network draws its initial weights, which those of the file replace
            settings, module = restore_detector(cfg)
        data = build_data(settings, None, None)
    lowest = settings.test.score_threshold
    limits = _limits(score_threshold, thresholds, Path(checkpoint), lowest, module.labels)
    return LoadedDetector(Engine(module.to(_device(device)), data, half), settings, limits)


def _options(test: Sequence[str]) -> Iterable[str]:
    if isinstance(test, str) or not all(isinstance(option, str) for option in test):
        raise ConfigError(f"test must be a list of options, such as ['tiles'], got {test!r}")
    return test


def _device(device: str | torch.device | None) -> torch.device:
    """A device of this machine.

    Raises:
        ConfigError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is compiled without CUDA
        raise ConfigError(f"device={device}: {str(error).splitlines()[0]}; device='cpu' does without") from error
    return found


def _limits(
    score: float | None, thresholds: str | Path | None, checkpoint: Path, lowest: float, labels: LabelMap
) -> Thresholds | float:
    """Lowest scores of the detections that are returned.

    Args:
        score: of all classes, as given.
        thresholds: by class, as given.
        checkpoint: run folder or file.
        lowest: ``test.score_threshold``, below which the detector finds nothing.
        labels: classes of the detector.
    """
    if score is not None and thresholds is not None:
        raise ConfigError("score_threshold and thresholds: give one of them")
    if score is not None:
        if not isinstance(score, int | float | np.number) or not (score == 0 or lowest <= score <= 1):
            raise ConfigError(
                f"score_threshold={score}: needed is 0, or {lowest} to 1; the detector returns nothing below "
                f"{lowest}, unless overrides=['test.score_threshold={score}']"
            )
        return float(score)
    found, file = read_thresholds(checkpoint, thresholds, labels)
    if found is None:
        return SHOWN
    log.info("detections need the scores of %s (%s), unless score_threshold is given", file, found.measured_on)
    return found
