"""Checks for settings that contradict each other. Single settings are checked by constructors or by `values`."""

from collections.abc import Mapping
from typing import Any

from lightning_det.system.errors import ConfigError


def check_contradictions(cfg: Mapping[str, Any]) -> None:
    """Refuses choices that contradict each other.

    Raises:
        ConfigError: settings contradict each other; the message names the keys and valid values.
    """
    backbone = cfg["backbone"] or {}
    has_weights = backbone.get("weights") or cfg.get("weights") or cfg.get("resume")
    if backbone.get("norm") == "frozen" and not has_weights:
        raise ConfigError(
            "backbone.norm=frozen keeps statistics that nothing has learned; set backbone.weights or weights, "
            "or backbone.norm to batch, sync or group"
        )
    if cfg["detector"].get("head_norm") == "frozen" and not (cfg.get("weights") or cfg.get("resume")):
        raise ConfigError(
            "detector.head_norm=frozen keeps statistics that nothing has learned; set weights, or detector.head_norm "
            "to batch, sync or group"
        )
    if backbone.get("frozen_stages") and not has_weights:
        raise ConfigError(
            f"backbone.frozen_stages={backbone['frozen_stages']} keeps random weights; set backbone.weights or "
            "weights, or backbone.frozen_stages=0"
        )
    if (cfg.get("trainer") or {}).get("sync_batchnorm"):
        raise ConfigError(
            "trainer.sync_batchnorm loses what some networks keep in their BatchNorm layers, their activations; set "
            "backbone.norm=sync, and detector.head_norm=sync where the detector has it"
        )
    if cfg["dataset"].get("other_classes") == "ignore" and cfg["dataset"].get("classes") is None:
        raise ConfigError(
            "dataset.other_classes=ignore has no effect while all classes are learned; name the classes to detect: "
            "dataset.classes=[car,bus]"
        )
    windows = cfg["views"]["train"]["windows"] or {}
    if cfg.get("proposals") is not None and not windows.get("negatives"):
        raise ConfigError(
            f"proposals={cfg['proposals']} is for negative chips (strategy=sniper, with "
            "views.train.windows.negatives of at least 1); otherwise proposals=null"
        )
    test = cfg["test"]
    if test.get("vote") and test["nms_iou"] <= test["vote"].get("iou", 0):
        raise ConfigError(
            f"test.nms_iou={test['nms_iou']} leaves no candidates within a view to vote (test.vote.iou="
            f"{test['vote']['iou']}); set test.nms_iou=1"
        )
    if test.get("merge") is None:
        raise ConfigError("test.merge=null leaves views unmerged; test.merge.iou=1 keeps all of their detections")
