"""DSOD: a densely connected network with prediction maps at six resolutions, designed for training from scratch.

Shen et al., ICCV 2017, and the authors' Caffe code (szq0214/DSOD), which is followed where the two differ.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_det.backbones.contract import Backbone
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.backbones.recomputation import recompute
from lightning_det.backbones.weight_files import load_own

BLOCKS = (6, 8, 8, 8)
"""Layers of the dense blocks."""

PUBLISHED_HALVES = (256, 128, 128, 128)
"""Channels of each half of the third to sixth prediction map."""

PUBLISHED_PLAIN = (512, 128, 128, 128)
"""Channels of the third to sixth prediction map in the comparison with plain ones."""


def dsod(
    form: Literal["pyramid"] = "pyramid",
    stem_width: int = 64,
    bottleneck: int = 192,
    growth: int = 48,
    compression: float = 1.0,
    blocks: Sequence[int] = BLOCKS,
    stem: Literal["dsod", "densenet"] = "dsod",
    transition_without_pooling: bool = True,
    prediction: Literal["dense", "plain"] = "dense",
    second: int = 256,
    halves: Sequence[int] = PUBLISHED_HALVES,
    plain: Sequence[int] = PUBLISHED_PLAIN,
    shortcuts: int = 0,
    norm: Norm = "batch",
    checkpointed: bool = False,
    weights: str | None = None,
) -> "DSOD":
    """Builds the network that the paper calls DS/A-B-k-theta.

    Args:
        form: a map per resolution is returned, from stride 8 on.
        stem_width: A, channels of the stem's first convolution.
        bottleneck: B, channels of the 1 x 1 convolution in each dense layer.
        growth: k, channels that each dense layer adds.
        compression: theta, share of the channels that transitions keep.
        blocks: layers of the dense blocks; without ``transition_without_pooling`` the last block is left out.
        stem: ``dsod``: three 3 x 3 convolutions; ``densenet``: one 7 x 7.
        transition_without_pooling: whether a further dense block follows at the same resolution.
        prediction: ``dense``: each prediction map has one half learned and one half reused from the finer map;
            ``plain``: learned as in SSD.
        second: channels of each half of the second prediction map (``dense``).
        halves: channels of each half of every later prediction map; with ``plain``, of the bottlenecks before them.
        plain: channels of the later prediction maps (``plain``). Those of the released comparison are not published:
            the default fits its 18.2 million parameters, SSD's own (512, 256, 256, 256) those of the rows without stem.
        shortcuts: channels that the first prediction map gets from the stem, and again from the first dense block
            after its transition, as in GRP-DSOD; later dense blocks do not get them. 0: none, as in DSOD.
        norm: see `set_norm`.
        checkpointed: whether dense layers, and BatchNorm and ReLU of stem and transitions, are computed again in the
            backward pass instead of kept (see `recompute`): less memory, more time.
        weights: a file, see `load_own`.
    """
    network = DSOD(
        stem_width,
        bottleneck,
        growth,
        compression,
        blocks if transition_without_pooling else blocks[:-1],
        stem,
        prediction,
        second,
        halves,
        plain,
        shortcuts,
        checkpointed,
    )
    initialise(network)
    load_own(network, weights, norm)
    set_norm(network, norm)
    return network


class DSOD(Backbone):
    """See `dsod`.

    Attributes:
        channels: of the prediction maps, finest first.
        strides: image pixels per cell of each, up to rounding.
    """

    def __init__(
        self,
        stem_width: int,
        bottleneck: int,
        growth: int,
        compression: float,
        blocks: Sequence[int],
        stem: str,
        prediction: str,
        second: int,
        halves: Sequence[int],
        plain: Sequence[int],
        shortcuts: int,
        checkpointed: bool,
    ):
        super().__init__()
        if stem not in ("dsod", "densenet") or prediction not in ("dense", "plain"):
            raise ValueError(f"stem is dsod or densenet and prediction dense or plain, got {stem!r} and {prediction!r}")
        if len(blocks) not in (3, 4) or shortcuts < 0:
            raise ValueError(f"DSOD has three or four dense blocks and shortcuts >= 0, got {blocks} and {shortcuts}")
        dense = prediction == "dense"
        if not dense and len(plain) != len(halves):
            raise ValueError(f"DSOD needs as many channels of plain maps as halves, got {plain} and {halves}")
        self.checkpointed = checkpointed
        self.stem, channels = (
            (_stem(stem_width), 2 * stem_width) if stem == "dsod" else (_densenet_stem(stem_width), stem_width)
        )
        early = [channels]

        def block(layers: int, inputs: int) -> tuple[nn.Module, int]:
            return DenseBlock(inputs, layers, bottleneck, growth, checkpointed), inputs + layers * growth

        def transition(inputs: int, outputs: int | None = None) -> tuple[nn.Module, int]:
            outputs = int(inputs * compression) if outputs is None else outputs
            return unit(inputs, outputs, 1), outputs

        self.block1, channels = block(blocks[0], channels)
        self.transition1, channels = transition(channels)
        early.append(channels)
        self.block2, channels = block(blocks[1], channels)
        self.transition2, first = transition(channels)
        self.block3, channels = block(blocks[2], first)
        self.tail = nn.Sequential()
        if len(blocks) == 4:
            layer, channels = transition(channels)
            self.tail.append(layer)
            layer, channels = block(blocks[3], channels)
            self.tail.append(layer)
        layer, channels = transition(channels, second if dense else None)
        self.tail.append(layer)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.shortcuts = nn.ModuleList(unit(c, shortcuts, 1) for c in early if shortcuts)
        first += len(self.shortcuts) * shortcuts
        self.side = unit(first, second, 1) if dense else None
        channels = 2 * second if dense else channels
        self.channels = [first, channels]
        self.steps = nn.ModuleList()
        for half, outputs in zip(halves, halves if dense else plain, strict=True):
            step = HalfStep(channels, half) if dense else PlainStep(channels, half, outputs)
            self.steps.append(step)
            channels = step.channels
            self.channels.append(channels)
        self.strides = [2 ** (3 + number) for number in range(len(self.channels))]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float images to the prediction maps, finest first (strides 8, 16, 32 and so on)."""
        stem = self._run_stem(images)
        early = self.pool(self._run_unit(self.transition1, self.block1(stem)))
        first = self._run_unit(self.transition2, self.block2(early))
        pooled = self.pool(first)
        second = self.block3(pooled)
        for layer in self.tail:
            second = layer(second) if isinstance(layer, DenseBlock) else self._run_unit(layer, second)
        if self.shortcuts:
            of_stem, of_block = self.shortcuts
            first = torch.cat([first, of_stem(self.pool(stem)), of_block(early)], dim=1)
            pooled = self.pool(first)
        if self.side is not None:
            second = torch.cat([second, self.side(pooled)], dim=1)
        maps = [first, second]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps

    def _run_stem(self, images: Tensor) -> Tensor:
        if not self.checkpointed:
            return self.stem(images)
        x = self.stem[0](images)
        for start in range(1, len(self.stem), 3):  # BatchNorm, ReLU, and a convolution or pooling
            x = recompute(self.stem[start : start + 3], x)
        return x

    def _run_unit(self, layers: nn.Module, x: Tensor) -> Tensor:
        return recompute(layers, x) if self.checkpointed else layers(x)


class DenseBlock(nn.Module):
    """Layers, each of which gets the outputs of all layers before it (Huang et al., CVPR 2017)."""

    def __init__(self, inputs: int, layers: int, bottleneck: int, growth: int, checkpointed: bool):
        super().__init__()
        self.checkpointed = checkpointed
        self.layers = nn.ModuleList(
            nn.Sequential(unit(inputs + n * growth, bottleneck, 1), unit(bottleneck, growth, 3)) for n in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C + layers * growth, H, W)."""
        maps = [x]
        for layer in self.layers:
            # Keeping a concatenation per layer would take memory that grows with the square of their number.
            maps.append(recompute(layer, *maps) if self.checkpointed else layer(torch.cat(maps, dim=1)))
        return torch.cat(maps, dim=1)


class HalfStep(nn.Module):
    """Halves the resolution: one half of the channels is pooled from the finer map, the other learned (section 3.1)."""

    def __init__(self, inputs: int, half: int):
        super().__init__()
        self.channels = 2 * half
        self.reused = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), unit(inputs, half, 1))
        self.learned = nn.Sequential(unit(inputs, half, 1), unit(half, half, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 2 * half, ceil(H / 2), ceil(W / 2))."""
        return torch.cat([self.reused(x), self.learned(x)], dim=1)


class PlainStep(nn.Module):
    """Halves the resolution as SSD does: a bottleneck, then a 3 x 3 convolution."""

    def __init__(self, inputs: int, middle: int, outputs: int):
        super().__init__()
        self.channels = outputs
        self.learned = nn.Sequential(unit(inputs, middle, 1), unit(middle, outputs, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / 2), ceil(W / 2))."""
        return self.learned(x)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """BatchNorm, ReLU, convolution, in this order (pre-activation)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv)


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv(3, width, 3, 2), *_conv(width, width, 3), *_conv(width, 2 * width, 3), nn.MaxPool2d(2, ceil_mode=True)
    )


def _densenet_stem(width: int) -> nn.Sequential:
    return nn.Sequential(*_conv(3, width, 7, 2), nn.MaxPool2d(3, 2, padding=1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def initialise(module: nn.Module) -> None:
    """Initialises convolutions as Caffe's "xavier" does: uniform weights of variance 1 / inputs, biases of 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
