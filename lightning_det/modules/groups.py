"""Groups of parameters with their own learning rate or weight decay."""

from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_det.protocols.detector import Detector
from lightning_det.system.errors import ConfigError

SCALE = "lr_scale"
"""Key of a group: factor of the optimizer's learning rate."""


class GroupSettings(NamedTuple):
    """Settings of the parameters that an optimizer treats differently from the rest."""

    norm_weight_decay: float | None = 0.0
    """Weight decay of normalisation layers and biases; None: as the other parameters."""
    backbone_lr_scale: float = 1.0
    """Learning rate of the backbone, relative to that of the rest."""
    backbone_weight_decay: float | None = None
    """Weight decay of the backbone, except where ``norm_weight_decay`` applies; None: as the other parameters."""

    @property
    def tell_backbone_apart(self) -> bool:
        """Whether the backbone differs from the rest."""
        return self.backbone_lr_scale != 1 or self.backbone_weight_decay is not None


def parameter_groups(detector: Detector, settings: GroupSettings) -> list[dict[str, Any]]:
    """Trainable parameters in groups for an optimizer.

    Groups of a backbone that differs have names, by which their learning rates are logged, and `SCALE`, which
    `scale_rates` applies.

    Args:
        detector: see `Detector.backbone_layers`.
        settings: see `GroupSettings`.

    Raises:
        ConfigError: the backbone should differ, and none of its parameters is trained.
    """
    trained = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    if not settings.tell_backbone_apart:
        return _by_decay(list(trained.values()), {}, settings.norm_weight_decay)
    inside = {name for name in trained if name.startswith(detector.backbone_layers)}
    if not inside:
        raise ConfigError(
            "module.backbone_lr_scale and module.backbone_weight_decay have no effect: no parameter of the backbone is "
            "trained (backbone.frozen_stages)"
        )
    own: dict[str, Any] = {SCALE: settings.backbone_lr_scale}
    if settings.backbone_weight_decay is not None:
        own["weight_decay"] = settings.backbone_weight_decay
    rest = [p for name, p in trained.items() if name not in inside]
    backbone = [trained[name] for name in trained if name in inside]
    named = {"heads": (rest, {SCALE: 1.0}), "backbone": (backbone, own)}
    return [
        {"name": name if number == 0 else f"{name}_norms"} | group
        for name, (parameters, options) in named.items()
        for number, group in enumerate(_by_decay(parameters, options, settings.norm_weight_decay))
        if group["params"]  # frozen norms have no parameters
    ]


def scale_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiplies the learning rate of every group by its `SCALE`."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get(SCALE, 1.0)


def _by_decay(
    parameters: list[nn.Parameter], options: dict[str, Any], norm_weight_decay: float | None
) -> list[dict[str, Any]]:
    """Weights, and then normalisation layers and biases where they have a weight decay of their own."""
    if norm_weight_decay is None:
        return [{"params": parameters} | options]
    # Only normalisation layers and biases have parameters of one dimension.
    weights = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [{"params": weights} | options, {"params": vectors} | options | {"weight_decay": norm_weight_decay}]
