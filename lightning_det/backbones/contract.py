"""The contract between backbones and detectors."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_det.backbones.norms import set_norm

Form = Literal["c4", "pyramid"]
"""``c4``: one map, the last one before the last stage; ``pyramid``: one map per stage."""


class RoIStage(NamedTuple):
    """Layers that a "C4" detector runs on every RoI instead of on the image."""

    layers: nn.Module
    channels: int
    """Channels of their output."""


class Pixels(NamedTuple):
    """Mean and standard deviation that pixels, scaled to [0, 1], are normalised with: one each for red, green, blue."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of torchvision's classification networks."""


class Backbone(nn.Module):
    """Maps images to feature maps. Detectors use nothing but ``forward`` and these attributes.

    Attributes:
        channels: channels of each map.
        strides: image pixels per cell of each map.
        pixels: the normalisation of its input that its weights were trained with.
        roi_stage: layers for the RoI head of a "C4" detector, or None. Not a submodule: it belongs to the detector
            that takes it.
    """

    channels: list[int]
    strides: list[int]
    pixels: Pixels = IMAGENET
    roi_stage: RoIStage | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes feature maps.

        Args:
            images: (B, 3, H, W) float, normalised.

        Returns:
            Maps (B, channels[i], H / strides[i], W / strides[i]), finest first.
        """
        raise NotImplementedError


class StagedBackbone(Backbone):
    """A chain of stages, each of which halves the resolution of the one before (the first may do more).

    Args:
        stages: applied one after another.
        form: which maps to return.
        roi_stage: whether the last stage is left to the RoI head in the form ``c4``; if not, it stays in the chain.
        frozen_stages: how many stages, from the image on, keep their weights and statistics.

    Raises:
        ValueError: there is no such form, or there are fewer stages than ``frozen_stages``.
    """

    def __init__(self, stages: Sequence[nn.Module], form: Form, roi_stage: bool = True, frozen_stages: int = 0):
        super().__init__()
        if form not in ("c4", "pyramid"):
            raise ValueError(f"backbone.form must be c4 or pyramid, got {form!r}")
        if not 0 <= frozen_stages <= len(stages):
            raise ValueError(f"frozen_stages must be 0 to {len(stages)}, got {frozen_stages}")
        stages = [_freeze(s) if number < frozen_stages else s for number, s in enumerate(stages)]
        channels, strides = _measure(stages)
        self.form = form
        if form == "c4" and roi_stage:
            self.roi_stage = RoIStage(stages.pop(), channels.pop())
            strides.pop()
        self.stages = nn.ModuleList(stages)
        self.channels = channels[-1:] if form == "c4" else channels
        self.strides = strides[-1:] if form == "c4" else strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps if self.form == "pyramid" else maps[-1:]


def _freeze(stage: nn.Module) -> nn.Module:
    """Fixes weights and statistics of a stage."""
    return set_norm(stage, "frozen").requires_grad_(False)


def _measure(stages: Sequence[nn.Module]) -> tuple[list[int], list[int]]:
    """Channels and strides of the output of every stage, measured on a small image."""
    side = 128
    channels: list[int] = []
    strides: list[int] = []
    training = [s.training for s in stages]
    with torch.no_grad():
        x = torch.zeros(1, 3, side, side)
        for stage in stages:
            x = stage.eval()(x)
            channels.append(x.shape[1])
            strides.append(side // x.shape[2])
    for stage, mode in zip(stages, training, strict=True):
        stage.train(mode)
    return channels, strides
