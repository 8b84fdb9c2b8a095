"""GRP-DSOD's neck: maps reuse features of the next coarser map and pass gates (Shen et al., 2017)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones.dsod import initialise, unit
from lightning_det.backbones.norms import Norm, set_norm


class GatedPyramid(nn.Module):
    """Concatenates features of the next coarser map with every map but the coarsest, then gates all maps.

    The features are computed from the backbone's coarser map, not from this neck's output for it. A chain from the
    coarsest map down would also have the published channels, but 14.4 million parameters instead of 14.2.

    The released code upsamples by a fixed deconvolution without groups, so that all its output channels are the same
    sum over the input channels; where its kernel is one cell, three quarters of the values are zero. Here a 1 x 1 unit
    makes the channels, and bilinear interpolation resizes them to the finer map, at any ratio of sizes. Units are
    pre-activation as in DSOD; GRP-DSOD's are post-activation. Maps can therefore have negative values, which the gates
    leave unchanged. With these two differences the detector has 14.04 million parameters instead of 14.2 (15.80 instead
    of 16.0 with the released ratios).

    Args:
        channels: channels of the input maps, finest first.
        reused: channels that each map but the coarsest gets from the next coarser one, finest first; or a share of the
            map's own channels. With 0.5 on a dense DSOD, a third of a map comes from the coarser map, a third from the
            finer one, and a third is learned.
        norm: normalisation of the units (see `set_norm`); None: ``batch``, since pre-activation units need one.

    Attributes:
        channels: channels of the output maps.
    """

    def __init__(self, channels: Sequence[int], reused: float | Sequence[int] = 0.5, norm: Norm | None = None):
        super().__init__()
        counts = [round(reused * c) for c in channels[:-1]] if isinstance(reused, int | float) else list(reused)
        if len(counts) != len(channels) - 1 or min(counts, default=1) < 1:
            raise ValueError(
                f"reused needs a positive number of channels for each of {len(channels)} maps but the last, or a share "
                f"that comes to one; got {reused}"
            )
        self.channels = [own + n for own, n in zip(channels, [*counts, 0], strict=True)]
        self.units = nn.ModuleList(unit(c, n, 1) for c, n in zip(channels[1:], counts, strict=True))
        self.gates = nn.ModuleList(Gate(c) for c in self.channels)
        initialise(self)
        set_norm(self, norm or "batch")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to as many of the same sizes with ``channels``."""
        joined = [
            torch.cat([F.interpolate(reduce(coarser), size=own.shape[-2:], mode="bilinear"), own], dim=1)
            for reduce, own, coarser in zip(self.units, maps[:-1], maps[1:], strict=True)
        ]
        return [gate(m) for gate, m in zip(self.gates, [*joined, maps[-1]], strict=True)]


class Gate(nn.Module):
    """Adds the positive part of a map to it, scaled by two weights between 0 and 1: one per channel, one for all.

    Both weights are computed from the mean of the map over the image (squeeze and excitation; Hu et al., CVPR 2018).

    Args:
        channels: channels of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        middle = max(1, channels // 16)
        self.squeeze = nn.Conv2d(channels, middle, 1)
        self.per_channel = nn.Conv2d(middle, channels, 1)
        self.whole = nn.Conv2d(middle, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        code = F.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))
        return x + self.whole(code).sigmoid() * F.relu(self.per_channel(code).sigmoid() * x)
