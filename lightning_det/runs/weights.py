"""Loads trained weights into a module before training: ``weights=``."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from lightning_det.annotations import LabelMap
from lightning_det.backbones.pretrained import explain_failed_download
from lightning_det.checkpoint import checkpoint_file, is_own, read_weights
from lightning_det.checkpoint.finite import find_nonfinite
from lightning_det.modules.module import DetectionModule
from lightning_det.system.errors import CapabilityError, ConfigError, UserError

log = logging.getLogger("lightning_det")


def load_weights(module: DetectionModule, source: str) -> None:
    """Loads trained weights into a module.

    Args:
        module: gets the weights.
        source: one of our checkpoints, a file with torchvision's state_dict, a folder that ``save_pretrained`` of
            ``transformers`` has written, or the name of torchvision weights such as
            ``FasterRCNN_ResNet50_FPN_Weights.COCO_V1``, which are downloaded.

    Raises:
        UserError: the source is none of these, or has weights of another detector.
    """
    content = None if is_pretrained(source) else _read(source)
    try:
        if content is None:
            outcome = module.detector.load_pretrained(Path(source), module.labels.names)
        elif is_own(content):
            labels = LabelMap.from_dict(content["hyper_parameters"]["labels"])
            check_kinds(module, content["state_dict"])
            outcome = module.load_own(content["state_dict"], labels)
        else:
            outcome = module.detector.load_torchvision(content, module.labels.names)
    except (CapabilityError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise UserError(f"weights={source}: {error or type(error).__name__}") from error
    if broken := find_nonfinite(module.state_dict()):
        raise UserError(f"weights={source}: {broken} holds NaN or infinite values; take other weights")
    log.info("weights from %s: %s", source, outcome)


def is_pretrained(source: str) -> bool:
    """Whether a path is a folder in the format of ``transformers``."""
    return (Path(source) / "config.json").is_file()


def _read(source: str) -> dict[str, Any]:
    if Path(source).exists():
        return read_weights(checkpoint_file(source, "best"))
    try:
        weights = torchvision.models.get_weight(source)
    except ValueError as error:
        raise ConfigError(f"weights={source}: no such file, and no weights of torchvision") from error
    with explain_failed_download(f"weights={source}", weights.url):
        return weights.get_state_dict(progress=True, check_hash=True)


def check_kinds(module: DetectionModule, weights: Mapping[str, Tensor]) -> None:
    """Refuses weights that have the right shapes but are invalid: integers instead of floats, or NaN.

    Raises:
        ValueError: a tensor is invalid; the message names it.
    """
    mine = module.state_dict()
    for name, tensor in weights.items():
        if name in mine and tensor.is_floating_point() != mine[name].is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype}, not {mine[name].dtype}")
    if broken := find_nonfinite(weights):
        raise ValueError(f"{broken} holds NaN or infinite values")
