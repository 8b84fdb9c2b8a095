"""Backbones of SSD: VGG16 as published, and a small one for comparisons on a CPU."""

from collections.abc import Sequence
from typing import Literal

import torchvision
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

from lightning_det.backbones.contract import IMAGENET, Backbone, Pixels
from lightning_det.backbones.dsod import initialise
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.backbones.pretrained import named_weights
from lightning_det.backbones.weight_files import is_file, load_file, load_own, used_names
from lightning_det.system.errors import UserError

SMALLEST = 268
"""Smallest side of an image, pixels, that leaves a cell for the last of VGG16's maps."""

CAFFE = Pixels((0.48235, 0.45882, 0.40784), (0.00392157, 0.00392157, 0.00392157))
"""Pixels of 0 to 255 minus their mean, as SSD's network and its published weights had them; 0.00392157 is 1 / 255."""

CAFFE_WEIGHTS = "IMAGENET1K_FEATURES"
"""torchvision's name of these weights; its others are its own."""


class VGG16(Backbone):
    """torchvision's SSD300 features: VGG16 with dilated fc6, four extra stages, L2-norm on conv4_3 (Liu et al. 2016).

    Args:
        form: six maps are returned.
        weights: of torchvision's ``VGG16_Weights``, such as ``IMAGENET1K_FEATURES``, downloaded on first use; or a
            file, see `load_file`.

    Attributes:
        channels: of the prediction maps, finest first.
    """

    def __init__(self, form: Literal["pyramid"] = "pyramid", weights: str | None = None):
        super().__init__()
        named = weights is not None and not is_file(weights)
        classifier = named_weights("vgg16", str(weights)) if named else torchvision.models.vgg16()
        self.network = SSDFeatureExtractorVGG(classifier.features, highres=False)
        # torchvision initialises new layers in another way than Caffe. extra[0] is conv5 and, last, fc6 and fc7.
        fresh = [self.network] if weights is None else [self.network.extra[0][-1], *self.network.extra[1:]]
        for part in fresh:
            initialise(part)
        if weights is not None and not named:
            own = self.network.state_dict(keep_vars=True)
            load_file(weights, None, used_names(classifier, own), own)
        self.pixels = IMAGENET if named and weights != CAFFE_WEIGHTS else CAFFE
        self.channels = [512, 1024, 512, 256, 256, 256]
        self.strides = [8, 16, 32, 64, 100, 300]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float images to the prediction maps, finest first (strides 8, 16, 32 and so on).

        Raises:
            UserError: an image is too small for the last stages.
        """
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST:
            raise UserError(
                f"SSD's VGG16 needs views of at least {SMALLEST} pixels on both sides, got {width} x {height}: "
                "'strategy=[warp,...]' makes them 300 x 300, dataset.resolution larger"
            )
        return list(self.network(images).values())


class PlainSSD(Backbone):
    """Stages as in VGG, each but the first with a prediction map: SSD at the size of a small DSOD.

    Args:
        widths: channels of the stages of stride 4, 8, 16 and so on; each but the first gives a prediction map.
        normed: whether convolutions have BatchNorm instead of a bias.

    Attributes:
        channels: of the prediction maps, finest first.
    """

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
    form: Literal["pyramid"] = "pyramid",
    widths: Sequence[int] = (32, 56, 72, 80, 80),
    norm: Norm | None = None,
    weights: str | None = None,
) -> PlainSSD:
    """A small SSD backbone without normalisation, as SSD has none, or with.

    Args:
        form: a map per resolution is returned, from stride 8 on.
        widths: see `PlainSSD`.
        norm: see `set_norm`; None for none.
        weights: a file, see `load_own`.
    """
    network = PlainSSD(widths, normed=norm is not None)
    initialise(network)
    load_own(network, weights, norm)
    if norm is not None:
        set_norm(network, norm)
    return network


def _conv(inputs: int, outputs: int, normed: bool) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normed)
    return [conv, *[nn.BatchNorm2d(outputs)] * normed, nn.ReLU(inplace=True)]
