"""A residual network of at most a million parameters that learns to detect from scratch on a CPU."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones.contract import Form, StagedBackbone
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.backbones.weight_files import load_own


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (ResNet's basic block), the first one dilated."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, channels, dilation=dilation).values(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return F.relu(x + self.body(x))


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv=nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
        norm=nn.BatchNorm2d(outputs),
        relu=nn.ReLU(),
    )


def tiny_backbone(
    form: Form = "c4", width: int = 16, norm: Norm = "batch", frozen_stages: int = 0, weights: str | None = None
) -> StagedBackbone:
    """The default backbone, of 0.3 million parameters as ``c4`` and 0.9 million as ``pyramid``.

    Args:
        form: ``c4`` returns one map of stride 8, fine enough for objects of 8 pixels; dilated blocks give it context
            for large ones; ``pyramid`` returns maps of strides 4, 8, 16 and 32.
        width: channels of the first layer; later ones have 2, 4, 6 and 8 times as many.
        norm: see `set_norm`; ``frozen`` needs weights that are loaded first.
        frozen_stages: see `StagedBackbone`.
        weights: a file, see `load_own`.
    """
    w = width
    stages = [
        nn.Sequential(nn.Sequential(_conv(3, w, stride=2)), nn.Sequential(_conv(w, 2 * w, stride=2)), Residual(2 * w)),
        nn.Sequential(
            nn.Sequential(_conv(2 * w, 4 * w, stride=2)),
            Residual(4 * w),
            Residual(4 * w, dilation=2),
            Residual(4 * w, dilation=2),
        ),
    ]
    if form == "pyramid":
        stages += [
            nn.Sequential(nn.Sequential(_conv(4 * w, 6 * w, stride=2)), Residual(6 * w)),
            nn.Sequential(nn.Sequential(_conv(6 * w, 8 * w, stride=2)), Residual(8 * w)),
        ]
    load_own(nn.ModuleList(stages), weights, norm)
    return StagedBackbone([set_norm(s, norm) for s in stages], form, roi_stage=False, frozen_stages=frozen_stages)
