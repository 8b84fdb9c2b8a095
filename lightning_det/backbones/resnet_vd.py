"""ResNet-vd, the backbone of RT-DETR, in the layers of ``transformers`` (``pip install 'lightning-det[detr]'``)."""

from typing import Literal

from torch import nn

from lightning_det.backbones.contract import Form, Pixels, StagedBackbone
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.backbones.weight_files import load_own

Name = Literal["resnet18_vd", "resnet34_vd", "resnet50_vd", "resnet101_vd"]

DEPTHS = {
    "resnet18_vd": (2, 2, 2, 2),
    "resnet34_vd": (3, 4, 6, 3),
    "resnet50_vd": (3, 4, 6, 3),
    "resnet101_vd": (3, 4, 23, 3),
}
"""Blocks of every stage."""

UNIT = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""RT-DETR's weights take pixels in [0, 1]."""

BASIC = ("resnet18_vd", "resnet34_vd")
"""Networks of blocks with two convolutions; the others have bottlenecks."""


def resnet_vd(
    name: Name, form: Form = "pyramid", weights: str | None = None, norm: Norm = "batch", frozen_stages: int = 0
) -> StagedBackbone:
    """Feature maps of strides 4 to 32 of a ResNet-vd (He et al., CVPR 2019, "ResNet-D").

    It differs from torchvision's ResNets by a stem of three convolutions, and by average pooling in the shortcuts that
    halve. Its published weights come with a detector's: ``weights=FOLDER``, see `RTDETR`.

    Args:
        name: the network.
        form: see `Form`; ``c4`` returns the map of stride 16.
        weights: a file, see `load_own`, by the library's names.
        norm: see `set_norm`.
        frozen_stages: see `StagedBackbone`; stage 1 is everything up to stride 4.

    Raises:
        ImportError: ``transformers`` is not installed.
    """
    try:
        from transformers import RTDetrResNetBackbone, RTDetrResNetConfig
    except ImportError as error:
        raise ImportError("resnet_vd needs transformers: pip install 'lightning-det[detr]'") from error
    widths = (64, 128, 256, 512) if name in BASIC else (256, 512, 1024, 2048)
    kind = "basic" if name in BASIC else "bottleneck"
    config = RTDetrResNetConfig(depths=list(DEPTHS[name]), hidden_sizes=list(widths), layer_type=kind)
    network = RTDetrResNetBackbone(config)
    load_own(network, weights, norm)
    first, *others = network.encoder.stages
    stages = [nn.Sequential(network.embedder, first), *others]
    backbone = StagedBackbone([set_norm(s, norm) for s in stages], form, frozen_stages=frozen_stages)
    backbone.pixels = UNIT
    return backbone
