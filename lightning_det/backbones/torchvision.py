"""Classification networks of torchvision as backbones."""

from typing import Literal

import torch
import torchvision
from torch import nn

from lightning_det.backbones.contract import Form, StagedBackbone
from lightning_det.backbones.norms import Norm, has_batch_norm, set_norm
from lightning_det.backbones.pretrained import named_weights
from lightning_det.backbones.weight_files import GROUP_NORM, is_file, load_file, used_names

Name = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "convnext_tiny",
]


def torchvision_backbone(
    name: Name,
    form: Form = "pyramid",
    weights: str | None = None,
    norm: Norm | None = "batch",
    frozen_stages: int = 0,
) -> StagedBackbone:
    """Feature maps of strides 4 to 32 of a torchvision classification network.

    Args:
        name: the network.
        form: see `Form`; ``c4`` returns the map of stride 16.
        weights: name of a value of the network's torchvision weights enum, such as ``IMAGENET1K_V1`` or
            ``DEFAULT``, downloaded on first use; or a file, see `load_file`. None starts from scratch.
        norm: see `set_norm`; None for networks without BatchNorm.
        frozen_stages: see `StagedBackbone`; stage 1 is everything up to stride 4.

    Raises:
        ValueError: unknown weights, or a norm that does not suit the network or the weights.
    """
    if weights is None or is_file(weights):
        network = torchvision.models.get_model(name)
    elif norm == "group":
        raise ValueError(GROUP_NORM)
    else:
        network = named_weights(name, weights)
    normed = has_batch_norm(network)
    if normed != (norm is not None):
        valid = "frozen, batch, sync or group" if normed else "null: it has no BatchNorm"
        raise ValueError(f"backbone.norm for {name} must be {valid}, got {norm}")
    layers = _resnet_layers(network) if isinstance(network, torchvision.models.ResNet) else network.features
    stages = _split_by_stride(layers)
    if weights is not None and is_file(weights):
        own = nn.ModuleList(stages).state_dict(keep_vars=True)
        load_file(weights, norm, used_names(network, own), own)
    if norm is not None:
        stages = [set_norm(s, norm) for s in stages]
    return StagedBackbone(stages, form, frozen_stages=frozen_stages)


def _resnet_layers(network: nn.Module) -> nn.Sequential:
    return nn.Sequential(*list(network.children())[:-2])  # without pooling and classifier


def _split_by_stride(layers: nn.Sequential, side: int = 64) -> list[nn.Module]:
    """Cuts a chain of layers into stages that end at strides 4, 8, 16 and 32."""
    x = torch.zeros(1, 3, side, side)
    stages: dict[int, list[nn.Module]] = {4: [], 8: [], 16: [], 32: []}
    training = layers.training
    with torch.no_grad():
        for layer in layers.eval():
            x = layer(x)
            stages[max(4, side // x.shape[2])].append(layer)
    layers.train(training)
    return [nn.Sequential(*stage) for stage in stages.values()]
