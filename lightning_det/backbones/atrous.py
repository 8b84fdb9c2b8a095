"""Changes of the last stage: dilation instead of stride, and deformable convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


def dilate(stage: nn.Module) -> nn.Module:
    """Replaces the stride of a stage that halves the resolution by dilation ("à trous", R-FCN, section 3).

    Convolutions after the strided one read every second cell. So every second cell of the output is exactly the output
    of the original stage, and trained weights keep their meaning.

    Args:
        stage: changed in place.

    Returns:
        The stage.

    Raises:
        ValueError: a strided convolution has an even kernel, which cannot keep the resolution, or pooling halves it.
    """
    if any(isinstance(m, nn.AvgPool2d | nn.MaxPool2d) and m.stride not in (1, (1, 1)) for m in stage.modules()):
        raise ValueError(
            "the backbone's last stage halves the resolution by pooling, which dilation cannot replace; R-FCN needs a "
            "ResNet without -vd, a MobileNet or tiny"
        )
    after_stride = False
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        strided = conv.stride != (1, 1)
        if strided and conv.kernel_size[0] % 2 == 0:
            raise ValueError(
                f"the backbone's last stage has a {conv.kernel_size[0]} x {conv.kernel_size[0]} convolution of stride "
                f"{conv.stride[0]}, which dilation cannot replace; R-FCN needs a ResNet, a MobileNet or tiny"
            )
        conv.stride = (1, 1)
        if after_stride and not strided and conv.kernel_size != (1, 1):
            conv.dilation = tuple(2 * d for d in conv.dilation)
            conv.padding = tuple(2 * p for p in _pair(conv.padding))
        after_stride |= strided
    return stage


class DeformableConv(nn.Module):
    """A convolution whose taps are shifted by the output of another one (Deformable ConvNets v1, section 2.1).

    Shifts start at 0, where the layer equals the convolution that it replaces. Taps outside the map are interpolated
    with zeros, as in the released kernel since v2.

    Args:
        conv: convolution to replace; it keeps weights, dilation and padding.
        groups: number of groups of channels with their own shifts.
    """

    def __init__(self, conv: nn.Conv2d, groups: int = 4):
        super().__init__()
        self.conv = conv
        height, width = conv.kernel_size
        self.offset = nn.Conv2d(conv.in_channels, 2 * height * width * groups, (height, width), *_geometry(conv))
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the shape of the convolution's output."""
        geometry = _geometry(self.conv)
        # In float32, since half precision rounds shifts to fractions of a cell.
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float()
            offset = F.conv2d(x32, *_float32(self.offset), *geometry)
            return deform_conv2d(x32, offset, *_float32(self.conv), *geometry).to(x.dtype)


def _geometry(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Stride, padding and dilation."""
    return _pair(conv.stride), _pair(conv.padding), _pair(conv.dilation)


def _pair(values: str | tuple[int, ...]) -> tuple[int, int]:
    """A setting for both axes.

    Raises:
        ValueError: it is a padding in words, such as "same".
    """
    if isinstance(values, str):
        raise ValueError(f"a convolution with padding={values!r} can be neither dilated nor deformed")
    vertical, horizontal = values
    return vertical, horizontal


def _float32(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    return conv.weight.float(), None if conv.bias is None else conv.bias.float()


def deform(stage: nn.Module, count: int) -> nn.Module:
    """Makes the last ``count`` convolutions of a stage that are larger than 1 x 1 deformable.

    Args:
        stage: changed in place.
        count: 3 in the paper, which are all of a ResNet's conv5.

    Returns:
        The stage.

    Raises:
        ValueError: the stage has fewer such convolutions, or one of them is grouped.
    """
    found = [
        (parent, name, child)
        for parent in stage.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1)
    ]
    if count > 0 and not found:
        raise ValueError(
            f"deformable_convs={count}: this backbone has no last stage with convolutions to deform; take a ResNet, "
            "such as backbone=resnet18, or detector.deformable_convs=0"
        )
    if not 0 <= count <= len(found):
        raise ValueError(f"deformable_convs must be 0 to {len(found)} for this backbone, got {count}")
    for parent, name, conv in found[len(found) - count :]:
        if conv.groups != 1:
            raise ValueError("deformable_convs needs a backbone without grouped convolutions, such as a ResNet")
        setattr(parent, name, DeformableConv(conv))
    return stage
