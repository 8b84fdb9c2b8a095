"""RetinaNet's feature pyramid (Lin et al., ICCV 2017): a top-down pathway, and coarser maps by strided convolutions."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

Source = Literal["pyramid", "backbone"]
"""Where the first additional map comes from: the coarsest map of the pyramid ("P5") or of the backbone ("C5")."""


class RetinaPyramid(nn.Module):
    """Feature pyramid with additional coarse maps ("P6" and "P7").

    Args:
        channels: channels of the backbone's maps.
        strides: pixels of the view per cell of the backbone's maps.
        width: channels of the pyramid.
        finest: lowest stride of a map that is used; RetinaNet: 8. Finer maps of the backbone are left out.
        extra: number of additional maps.
        source: see `Source`. RetinaNet's paper takes the backbone's; torchvision's first version the pyramid's.

    Attributes:
        width: channels of the pyramid's maps.
        strides: pixels of the view per cell of the pyramid's maps.

    Raises:
        ValueError: no map is as coarse as ``finest``, ``extra`` is negative, or ``width`` is not positive.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        finest: int = 8,
        extra: int = 2,
        source: Source = "backbone",
    ):
        super().__init__()
        self.skipped = sum(stride < finest for stride in strides)
        if self.skipped == len(strides):
            raise ValueError(f"finest={finest}: the maps of the backbone have strides {list(strides)}")
        if width < 1:
            raise ValueError(f"width is a number of channels, got {width}")
        if extra < 0:
            raise ValueError(f"extra is a number of maps, got {extra}")
        used = list(channels[self.skipped :])
        self.pyramid = FeaturePyramidNetwork(used, width)
        inputs = [used[-1] if source == "backbone" else width, *[width] * extra]
        layers = [nn.Conv2d(inputs[number], width, 3, stride=2, padding=1) for number in range(extra)]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.extra = nn.ModuleList(layers)
        self.source = source
        self.width = width
        self.strides = [*strides[self.skipped :], *(strides[-1] * 2 ** (n + 1) for n in range(extra))]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the backbone, finest first, to maps of ``width`` channels at the strides of the pyramid."""
        named = OrderedDict((str(number), m) for number, m in enumerate(maps[self.skipped :]))
        found: list[Tensor] = list(self.pyramid(named).values())
        coarsest = maps[-1] if self.source == "backbone" else found[-1]
        for number, layer in enumerate(self.extra):
            coarsest = layer(coarsest if number == 0 else F.relu(coarsest))
            found.append(coarsest)
        return found
