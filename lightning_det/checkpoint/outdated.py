"""Recognises checkpoints of earlier versions, whose settings name parts that no longer exist."""

from collections.abc import Mapping
from typing import Any

from lightning_det.system.errors import UserError

FLAT = ("anchor_sizes", "prior_ratios")
"""Arguments of the package's detectors before their parts became nodes (``detector.rpn``, ``detector.priors``)."""

RETIRED = (
    "lightning_det.modules.FasterRCNNModule",
    "lightning_det.modules.SSDModule",
    "lightning_det.views.merge.",
    "lightning_det.views.soft_nms.",
    "lightning_det.views.voting.",
)
"""Prefixes of former names of parts."""

FORMER = {"lightning_det.backbones.timm_backbone": "pretrained", "lightning_det.detectors.FCOS": "sizes"}
"""Arguments that parts had before ``weights`` and ``reach``. What a trained detector finds does not depend on them."""


COMPILED = {False: None, True: "parts"}
"""Former values of ``module.compiled``, and what they are called now."""


def update_former(settings: dict[str, Any]) -> None:
    """Removes the arguments in `FORMER` from the settings of a checkpoint, and renames the values in `COMPILED`."""
    module = settings.get("module")
    if isinstance(module, dict) and isinstance(module.get("compiled"), bool):
        module["compiled"] = COMPILED[module["compiled"]]
    for part in (settings.get("backbone"), settings.get("detector")):
        if isinstance(part, dict):
            part.pop(FORMER.get(str(part.get("_target_"))), None)


def is_outdated(settings: Mapping[str, Any]) -> bool:
    """Whether a checkpoint has the settings of an earlier version.

    Args:
        settings: plain data.
    """
    detector, test = settings.get("detector"), settings.get("test")
    nodes = [detector, settings.get("module"), *(test.values() if isinstance(test, Mapping) else ())]
    targets = [str(node.get("_target_", "")) for node in nodes if isinstance(node, Mapping)]
    if any(target.startswith(RETIRED) for target in targets):
        return True
    if not isinstance(detector, Mapping) or not str(detector.get("_target_", "")).startswith("lightning_det."):
        return False
    return any(name in detector for name in FLAT)


def refuse_outdated(settings: Mapping[str, Any], file: object) -> None:
    """Refuses to build a detector from the settings of an earlier version; its weights can still be loaded.

    Raises:
        UserError: the settings are those of an earlier version.
    """
    if is_outdated(settings):
        raise UserError(
            f"{file}: this checkpoint was written by an earlier version of lightning-det, and its settings cannot be "
            f"used any more. Its weights can: train weights={file} with the same detector, backbone and dataset. To "
            "evaluate it as it is, use the version that wrote it"
        )
