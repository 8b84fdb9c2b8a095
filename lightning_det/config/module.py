"""Builds a detector, and the module that trains it, from a configuration."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import LabelMap
from lightning_det.backbones import Pixels
from lightning_det.backbones.weight_files import is_file
from lightning_det.checkpoint import keep_references
from lightning_det.config.build import build
from lightning_det.config.signatures import locate, parameters
from lightning_det.config.validation import resolve
from lightning_det.modules.inference import Inference
from lightning_det.modules.module import DetectionModule

NORMALIZE = "lightning_det.detectors.Normalize"


def own_priors(cfg: DictConfig) -> str:
    """Returns the option that lets ``dataset.anchor_sizes`` override a single-shot detector's sizes; else empty."""
    return " detector.priors.sizes=null" if OmegaConf.select(cfg, "detector.priors.sizes") is not None else ""


def build_module(cfg: DictConfig, labels: LabelMap, learning: bool = True, resumed: bool = False) -> DetectionModule:
    """Builds the LightningModule of a newly initialised detector.

    Args:
        cfg: the whole configuration.
        labels: the classes.
        learning: whether the detector will be trained and needs an optimizer.
        resumed: whether its weights will come from a checkpoint of the same training.
    """
    known = parameters(locate("detector", cfg.detector._target_)) or {}
    selectors = {
        f"select_{name}": build(node, f"selection.{name}")
        for name, node in cfg.selection.items()
        if f"select_{name}" in known
    }
    backbone = build(without_weights(cfg.backbone, resumed) if resumed or not learning else cfg.backbone, "backbone")
    cfg = with_pixels(cfg, backbone.pixels)
    detector = build(
        cfg.detector,
        "detector",
        backbone=backbone,
        num_classes=len(labels),
        **selectors,
    )
    detector.focus = build(cfg.focus, "focus", backbone=backbone)
    test = {k: v for k, v in cfg.test.items() if k in Inference._fields}
    test |= {key: build(cfg.test.get(key), f"test.{key}") for key in ("merge", "vote")}
    return build(
        cfg.module,
        "module",
        detector=detector,
        labels=labels,
        optimizer=build(cfg.optimizer, "optimizer") if learning else None,
        schedule=build(cfg.schedule, "schedule") if learning else None,
        inference=Inference(**test),
        settings=portable_settings(cfg),
    )


def without_weights(node: Any, files_only: bool) -> Any:
    """The node of a backbone whose weights will come from a checkpoint, so that no file needs to be there still.

    Args:
        node: of the backbone.
        files_only: whether weights with a name stay. They may tell the normalisation, which a file does not.
    """
    weights = node.get("weights")
    if weights is None or (files_only and not is_file(weights)):
        return node
    return OmegaConf.merge(node, {"weights": None})


def with_pixels(cfg: DictConfig, pixels: Pixels) -> DictConfig:
    """Puts the normalisation of a backbone where ``detector.preprocess`` leaves it open, for checkpoints to hold it."""
    cfg = cfg.copy()
    node = cfg.detector.get("preprocess", {})
    if node is None:
        node = cfg.detector.preprocess = {"_target_": NORMALIZE, "mean": None, "std": None}
    for name, values in pixels._asdict().items():
        if name in node and node[name] is None:
            OmegaConf.update(cfg, f"detector.preprocess.{name}", list(values))
    return cfg


def portable_settings(cfg: DictConfig) -> dict[str, Any]:
    """Converts the configuration to plain data for a checkpoint.

    Everything is resolved, except settings that depend on the dataset: its source, the views and the tests.
    """
    plain = resolve(cfg)
    symbolic = keep_references(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True), plain)
    kept = plain | {key: symbolic[key] for key in ("views", "test")}
    return kept | {"dataset": plain["dataset"] | {"source": symbolic["dataset"]["source"]}}
