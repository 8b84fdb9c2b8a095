"""SSD300 and DSOD300 as published, for the benchmarks that time or weigh them."""

from torch import nn

from lightning_det.backbones import VGG16, dsod
from lightning_det.detectors import SSD
from lightning_det.selection import HardNegativeSelector

SIDE = 300
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
STEPS = [8, 16, 32, 64, 100, 300]
DSOD_SIZES = [30, 60, 111, 162, 213, 264, 315]
SSD_SIZES = [21, 45, 99, 153, 207, 261, 315]
"""torchvision's, which are SSD's for COCO."""


def ssd300(classes: int) -> nn.Module:
    """What torchvision's ``ssd300_vgg16`` is."""
    return SSD.build(
        VGG16(),
        classes,
        [SSD_SIZES[0]],
        HardNegativeSelector(),
        prior_sizes=SSD_SIZES,
        prior_ratios=RATIOS,
        prior_steps=STEPS,
        prior_longest=float(SIDE),
        pixel_mean=(0.48235, 0.45882, 0.40784),
        pixel_std=(1 / 255,) * 3,
    )


def dsod300(classes: int, checkpointed: bool = False) -> nn.Module:
    """DS/64-192-48-1 with dense prediction maps."""
    return SSD.build(
        dsod(checkpointed=checkpointed),
        classes,
        [DSOD_SIZES[0]],
        HardNegativeSelector(),
        prior_sizes=DSOD_SIZES,
        prior_ratios=RATIOS,
        prior_steps=STEPS,
        l2_norm=True,
        head_norm="batch",
    )
