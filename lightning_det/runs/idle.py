"""Settings that another setting of the same part switches off."""

from collections.abc import Mapping
from typing import Any


def idle_keys(plain: Mapping[str, Any]) -> dict[str, str]:
    """Lists keys that have no effect although the run has their part, each with the reason.

    Args:
        plain: the configuration of a training, or a checkpoint's settings with those of the user, as plain data.
    """
    keys = {"views.test.windows.background": "inference looks at all tiles"}
    if not (plain.get("trainer") or {}).get("gradient_clip_val"):
        keys["trainer.gradient_clip_algorithm"] = "trainer.gradient_clip_val is 0"
    method = ((plain.get("test") or {}).get("merge") or {}).get("method")
    if method is not None:
        keys["test.merge.iou" if method == "gaussian" else "test.merge.sigma"] = f"test.merge.method is {method}"
    for kind, selector in (plain.get("selection") or {}).items():
        if selector and "per_label" in selector and selector.get("nms_iou") is None:
            keys[f"selection.{kind}.per_label"] = f"selection.{kind}.nms_iou is null"
    views = (plain.get("views") or {}).get("train") or {}
    if (views.get("windows") or {}).get("negatives") == 0:
        of_negatives = (f"views.train.windows.{name}" for name in ("dense", "covered", "backgrounds"))
        keys |= dict.fromkeys(of_negatives, "views.train.windows.negatives is 0")
    detector = plain.get("detector") or {}
    known = str(detector.get("_target_")).startswith("lightning_det.")
    if known and "rpn" not in detector and plain.get("proposals") != "auto":
        keys["views.train.scales.anchor_ranges"] = "the detector has no proposal network"
    return keys
