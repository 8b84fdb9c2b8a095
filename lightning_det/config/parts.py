"""The parts that a checkpoint, or the record of a run's options, may name at each key of the settings.

Other parts must be named by the user's own options or command line.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_det.system.errors import ConfigError

SCALES = "views.Pyramid views.Warp"
WINDOWS = "views.Chips views.IoUCrops views.LargeViews views.SubImages views.Tiles"
FLIPS = "views.BothSides views.RandomFlip"
SELECTORS = "selection.AllSelector selection.HardNegativeSelector selection.HardSelector selection.RandomSelector"

OWN = {
    "backbone": "backbones.VGG16 backbones.dsod backbones.efficientnet_lite0 backbones.resnet_vd backbones.ssd_tiny "
    "backbones.timm_backbone backbones.tiny_backbone backbones.torchvision_backbone",
    "detector": "detectors.FCOS detectors.FasterRCNN.c4 detectors.FasterRCNN.fpn detectors.RFCN.c5 detectors.RTDETR "
    "detectors.RetinaNet detectors.SSD",
    "detector.preprocess": "detectors.Normalize",
    "detector.rpn": "detectors.RPN",
    "detector.roi_head": "detectors.CascadeHead detectors.RoIHead",
    "detector.priors": "detectors.Priors",
    "detector.neck": "detectors.GatedPyramid detectors.RetinaPyramid",
    "focus": "detectors.FocusHead",
    "module": "modules.DetectionModule",
    "schedule": "modules.Constant modules.Cosine modules.MultiStep",
    "selection.anchors": SELECTORS,
    "selection.rois": SELECTORS,
    "selection.priors": SELECTORS,
    "views.train.scales": SCALES,
    "views.train.windows": WINDOWS,
    "views.train.flip": FLIPS,
    "views.train.distort": "views.Distort",
    "views.test.scales": f"{SCALES} views.FocusPyramid",
    "views.test.windows": WINDOWS,
    "views.test.flip": FLIPS,
    "views.test.distort": "views.Distort",
    "data": "data.datamodule.ChipData data.datamodule.MultiScaleData",
    "dataset.source": "data.any_format.AnyFormat data.coco.Coco data.shapes.Shapes data.voc.Voc data.yolo.Yolo",
    "test.merge": "merging.NMS merging.SoftNMS",
    "test.vote": "merging.BoxVoting",
}
"""Allowed names below ``lightning_det`` for `_target_`, by dotted key of the settings."""

PARTS = {slot: frozenset(f"lightning_det.{name}" for name in names.split()) for slot, names in OWN.items()}
PARTS["optimizer"] = frozenset(
    f"torch.optim.{name}"
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
)
"""All allowed names for `_target_`. `tests/checkpoint/test_security.py` compares them with the options of conf/."""


PARTIAL = ("optimizer", "detector.rpn", "detector.roi_head", "detector.priors", "detector.neck")
"""Keys of parts that are made as a partial, and get further arguments later."""


def is_timm_name(value: Any) -> bool:
    """Whether a text is a network name with an optional tag, without a prefix such as ``hf-hub:`` or ``local-dir:``."""
    return isinstance(value, str) and re.fullmatch(r"[\w.-]+", value) is not None


def is_inside(value: Any) -> bool:
    """Whether a path, or all paths in a list, stay inside the folder that they are relative to."""
    if isinstance(value, list):
        return all(map(is_inside, value))
    return not isinstance(value, str) or not (PurePath(value).is_absolute() or ".." in PurePath(value).parts)


def are_few(value: Any) -> bool:
    """Whether a count, or all counts in a list, are small enough to allocate."""
    numbers = value if isinstance(value, list) else [value]
    return all(isinstance(n, int) and abs(n) <= 1000 for n in numbers)


PLACES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backbone.name": (is_timm_name, "the name of a network alone, which is fetched from nowhere"),
    "backbone.blocks": (are_few, "numbers up to 1000"),
    "data.num_workers": (are_few, "a number up to 1000"),
    "dataset.train": (is_inside, "a path below dataset.root"),
    "dataset.val": (is_inside, "a path below dataset.root"),
    "dataset.test": (is_inside, "a path below dataset.root"),
}
"""Checks of settings that name files, downloads or counts: a test, and the allowed values in words."""


def check_parts(settings: Mapping[str, Any], now: DictConfig, origin: str = "the checkpoint's settings") -> None:
    """Refuses settings of a file that call, download or read something that the user has not named.

    Args:
        settings: settings of the file, overridden by the user, resolved.
        now: the configuration of the user's own options and command line, which may call anything.
        origin: name of the file's settings, for messages.

    Raises:
        ConfigError: a setting is not allowed; the message names the key, and how to allow it.
    """
    _check_calls(settings, now, origin, "")
    for key, (fits, words) in PLACES.items():
        value = _at(settings, key)
        if not fits(value) and value is not None and value != _value_in_options(now, key):
            raise ConfigError(
                f"{key}: {origin} say {value!r:.200}, not {words}; if you trust it, give {key}=... yourself"
            )
    root, source = _at(settings, "dataset.root"), _at(settings, "dataset.source")
    for name, value in source.items() if isinstance(source, dict) else ():
        key = f"dataset.source.{name}"
        if not (value == root if name == "root" else is_inside(value)) and value != _value_in_options(now, key):
            raise ConfigError(
                f"{key}: {origin} say {value!r:.200}, a path out of dataset.root; if you trust it, give {key}=... "
                "yourself"
            )


def _check_calls(node: Any, now: DictConfig, origin: str, key: str) -> None:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        here = f"{key}.{name}" if key else str(name)
        _check_calls(value, now, origin, here)
        if not str(name).startswith("_") or value == _value_in_options(now, here):
            continue
        if name == "_target_":
            if isinstance(value, str) and value in PARTS.get(key, ()):
                continue
            raise ConfigError(
                f"{here}: {origin} call {value!s:.200}, which is no part of lightning-det for this place; if you know "
                f"and trust it, name the option that it was trained with ({key.split('.')[0]}=NAME, in "
                f"conf/ of the working directory), or give ++{here}={value!s:.200}"
            )
        if name != "_partial_" or key not in PARTIAL or type(value) is not bool:
            raise ConfigError(f"{here}: {origin} say how something is called, which only your own options may")


def _value_in_options(now: DictConfig, key: str) -> Any:
    """Returns the value of a key in the user's own options; None if there is none."""
    try:
        value = OmegaConf.select(now, key, throw_on_missing=False)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, TypeError, ValueError):
        return None


def _at(settings: Any, key: str) -> Any:
    for step in key.split("."):
        settings = settings.get(step) if isinstance(settings, Mapping) else None
    return settings
