"""Any convolutional network of timm as backbone (``pip install 'lightning-det[timm]'``)."""

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from lightning_det.backbones.contract import Backbone, Form
from lightning_det.backbones.norms import Norm, has_batch_norm, set_norm
from lightning_det.backbones.pretrained import explain_failed_timm_download

STRIDES = (4, 8, 16, 32)


class _TimmBackbone(Backbone):
    """A network of timm that returns its feature maps."""

    def __init__(self, network: nn.Module, channels: list[int], strides: list[int]):
        super().__init__()
        self.network = network
        self.channels = channels
        self.strides = strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        return list(self.network(images))


def timm_backbone(name: str, form: Form = "pyramid", pretrained: bool = False, norm: Norm | None = None) -> Backbone:
    """Feature maps of a timm network.

    Args:
        name: timm's name, with or without weight tag.
        form: ``pyramid`` returns the maps of strides 4 to 32 that the network has, ``c4`` that of stride 16. There
            is no RoI stage: timm's networks differ too much in what follows a map.
        pretrained: download and load timm's weights.
        norm: see `set_norm`; None leaves the network's layers as they are.

    Raises:
        ImportError: timm is not installed.
        ValueError: the network has no such maps, or a norm that does not suit the network or the weights.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("backbone=timm needs timm: pip install 'lightning-det[timm]'") from error
    if pretrained and norm == "group":
        raise ValueError("backbone.norm=group cannot use the weights of a network trained with BatchNorm")
    wanted = STRIDES if form == "pyramid" else (16,)
    # Any: create_model declares nn.Module, which has no feature_info.
    network: Any = timm.create_model(name, features_only=True)
    info = network.feature_info
    index = [i for i, stride in enumerate(info.reduction()) if stride in wanted]
    if not index:
        raise ValueError(f"backbone.name={name} has maps of strides {info.reduction()}, none of {wanted}")
    with explain_failed_timm_download(name) if pretrained else nullcontext():
        network = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=index)
    if norm is not None and not has_batch_norm(network):
        raise ValueError(f"backbone.norm for {name} must be null: it has no BatchNorm, got {norm}")
    channels, strides = network.feature_info.channels(), network.feature_info.reduction()
    return _TimmBackbone(set_norm(network, norm) if norm else network, channels, strides)
