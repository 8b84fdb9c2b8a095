"""Backbones of SSD: VGG16 as published, and a small one for comparisons on a CPU."""

from collections.abc import Sequence
from typing import Literal

import torchvision
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

from lightning_det.backbones.dsod import initialise
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.backbones.pretrained import fetching
from lightning_det.system.errors import UserError

SMALLEST = 268
"""Sides of the images that leave one cell for the last of VGG16's maps."""


class VGG16(nn.Module):
    """torchvision's SSD300 features: VGG16 with dilated fc6, four extra stages, L2-norm on conv4_3 (Liu et al. 2016).

    Args:
        form: what it makes: six maps.
        weights: of torchvision's ``VGG16_Weights``, such as ``IMAGENET1K_FEATURES``; downloaded on first use.

    Attributes:
        channels: of the prediction maps, finest first.
    """

    roi_stage = None
    strides = (8, 16, 32, 64, 100, 300)

    def __init__(self, form: Literal["pyramid"] = "pyramid", weights: str | None = None):
        super().__init__()
        self.network = SSDFeatureExtractorVGG(_vgg16(weights).features, highres=False)
        # torchvision draws what has no weights in other ways than Caffe; its second half begins with conv5.
        fresh = [self.network] if weights is None else [self.network.extra[0][-1], *self.network.extra[1:]]
        for part in fresh:
            initialise(part)
        self.channels = [512, 1024, 512, 256, 256, 256]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float images to the prediction maps, finest first (strides 8, 16, 32 and so on).

        Raises:
            UserError: the last stages have nothing left.
        """
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST:
            raise UserError(
                f"SSD's VGG16 needs views of at least {SMALLEST} pixels on both sides, got {width} x {height}: "
                "'strategy=[warp,...]' makes them 300 x 300, dataset.resolution larger"
            )
        return list(self.network(images).values())


def _vgg16(weights: str | None) -> nn.Module:
    if weights is None:
        return torchvision.models.vgg16()
    enum = torchvision.models.VGG16_Weights
    if weights not in enum.__members__:
        raise ValueError(f"backbone.weights: vgg16 has {', '.join(enum.__members__)} or null, got {weights!r}")
    with fetching(f"backbone.weights={weights}", enum[weights].url):
        return torchvision.models.vgg16(weights=weights)


class PlainSSD(nn.Module):
    """VGG-like stages, a prediction map from each but the first: SSD at the size of a small DSOD.

    Args:
        widths: channels of the stages of stride 4, 8, 16 and so on; all but the first make prediction maps.
        normed: whether convolutions have BatchNorm, and no bias.

    Attributes:
        channels: of the prediction maps, finest first.
    """

    roi_stage = None

    def __init__(self, widths: Sequence[int], normed: bool):
        super().__init__()
        first, *rest = widths
        self.stem = nn.Sequential(
            *_conv(3, first, normed), nn.MaxPool2d(2), *_conv(first, first, normed), nn.MaxPool2d(2)
        )
        self.stages = nn.ModuleList()
        inputs = first
        for width in rest:
            pool = nn.MaxPool2d(2, ceil_mode=True)
            self.stages.append(nn.Sequential(pool, *_conv(inputs, width, normed), *_conv(width, width, normed)))
            inputs = width
        self.channels = list(rest)
        self.strides = [2 ** (3 + number) for number in range(len(rest))]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float images to the prediction maps, finest first (strides 8, 16, 32 and so on)."""
        maps = [self.stages[0](self.stem(images))]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]))
        return maps


def ssd_tiny(
    form: Literal["pyramid"] = "pyramid", widths: Sequence[int] = (32, 56, 72, 80, 80), norm: Norm | None = None
) -> PlainSSD:
    """A small SSD backbone without normalisation, as SSD has none, or with.

    Args:
        form: what it makes: a map per resolution, from stride 8 on.
        widths: see `PlainSSD`.
        norm: see `set_norm`; None for none.
    """
    network = PlainSSD(widths, normed=norm is not None)
    initialise(network)
    return network if norm is None else set_norm(network, norm)


def _conv(inputs: int, outputs: int, normed: bool) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normed)
    return [conv, *[nn.BatchNorm2d(outputs)] * normed, nn.ReLU(inplace=True)]
