"""The last stage at the resolution of the one before: stride exchanged for dilation, perhaps deformable."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


def dilate(stage: nn.Module) -> nn.Module:
    """Takes the stride out of a stage that halves the resolution ("à trous", R-FCN, section 3).

    What follows the strided convolution looks at every second cell, so that every second cell of the output is
    exactly what the stage made before, and trained weights keep their meaning.

    Args:
        stage: changed in place.

    Returns:
        The stage.

    Raises:
        ValueError: a strided convolution with an even kernel, which cannot keep the resolution.
    """
    behind = False
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        strided = conv.stride != (1, 1)
        if strided and conv.kernel_size[0] % 2 == 0:
            raise ValueError(
                f"the backbone's last stage has a {conv.kernel_size[0]} x {conv.kernel_size[0]} convolution of stride "
                f"{conv.stride[0]}, which dilation cannot replace; R-FCN needs a ResNet, a MobileNet or tiny"
            )
        conv.stride = (1, 1)
        if behind and not strided and conv.kernel_size != (1, 1):
            conv.dilation = tuple(2 * d for d in conv.dilation)
            conv.padding = tuple(2 * p for p in conv.padding)
        behind |= strided
    return stage


class DeformableConv(nn.Module):
    """A convolution whose taps are shifted by what another one reads (Deformable ConvNets v1, section 2.1).

    At first nothing is shifted, and it is the convolution that it replaces. Taps beyond the map read bilinearly
    from zeros, as in the released kernel since v2.

    Args:
        conv: gives weights, dilation and padding.
        groups: groups of channels with shifts of their own.
    """

    def __init__(self, conv: nn.Conv2d, groups: int = 4):
        super().__init__()
        self.conv = conv
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        self.offset = nn.Conv2d(conv.in_channels, 2 * taps * groups, *geometry)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as the convolution."""
        geometry = (self.conv.stride, self.conv.padding, self.conv.dilation)
        # In float32: half precision would round shifts to parts of cells.
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float()
            offset = F.conv2d(x32, *_float32(self.offset), *geometry)
            return deform_conv2d(x32, offset, *_float32(self.conv), *geometry).to(x.dtype)


def _float32(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    return conv.weight.float(), None if conv.bias is None else conv.bias.float()


def deform(stage: nn.Module, count: int) -> nn.Module:
    """Makes the last ``count`` convolutions of a stage that are larger than 1 x 1 deformable.

    Args:
        stage: changed in place.
        count: published: 3, all of a ResNet's conv5.

    Returns:
        The stage.

    Raises:
        ValueError: the stage has fewer, or one of them is grouped.
    """
    places = [
        (parent, name, child)
        for parent in stage.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1)
    ]
    if not 0 <= count <= len(places):
        raise ValueError(f"deformable_convs must be 0 to {len(places)} for this backbone, got {count}")
    for parent, name, conv in places[len(places) - count :]:
        if conv.groups != 1:
            raise ValueError("deformable_convs needs a backbone without grouped convolutions, such as a ResNet")
        setattr(parent, name, DeformableConv(conv))
    return stage
