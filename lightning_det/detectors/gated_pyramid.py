"""GRP-DSOD's neck: finer maps reuse what coarser ones know, and a gate weighs each (Shen et al., 2017)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.backbones.dsod import initialise, unit
from lightning_det.backbones.norms import Norm, set_norm


class GatedPyramid(nn.Module):
    """Puts the next coarser map in front of every map but the coarsest, then sends all through gates.

    The coarser map comes as the backbone made it, without what it got itself. The published channels would fit a chain
    from the coarsest map down as well, the published size does not: 14.2 million parameters, of which it makes 14.4.

    The released code enlarges by a fixed deconvolution without groups, each of whose outputs is the same sum over all
    inputs; where its kernel is one cell, three quarters of the result are zero. Here a 1 x 1 unit makes the channels
    and bilinear interpolation enlarges each of them to the finer map's size, whatever the ratio of the two. Units are
    pre-activation as in DSOD, GRP-DSOD's post-activation: maps reach the gates with negative values too, which gates
    leave as they are. The two make 14.04 million parameters of 14.2 (15.80 of 16.0 with the released ratios).

    Args:
        channels: of the maps, finest first.
        reused: channels that each map but the coarsest gets, finest first, or all alike as a share of their own: with
            0.5 over a dense DSOD, one third of a map comes from the coarser one, one from the finer, one is learned.
        norm: of the units (see `set_norm`); None: ``batch``, since pre-activation units need one.

    Attributes:
        channels: of the maps it makes.
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
    """Adds to a map what two weights between 0 and 1 let through of it, one per channel and one for all of them.

    Both see the mean of the map over the image (squeeze and excitation; Hu et al., CVPR 2018).

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        middle = max(1, channels // 16)
        self.squeeze = nn.Conv2d(channels, middle, 1)
        self.per_channel = nn.Conv2d(middle, channels, 1)
        self.whole = nn.Conv2d(middle, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) as it came."""
        code = F.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))
        return x + self.whole(code).sigmoid() * F.relu(self.per_channel(code).sigmoid() * x)
