"""A small two-stage detector."""

import torch

from lightning_det.backbones import tiny_backbone
from lightning_det.selection import AllSelector, RandomSelector
from support.makers import c4, fpn


def detector(form="c4", select=None):
    make, sizes = (c4, [16, 32, 64]) if form == "c4" else (fpn, [8, 16, 32, 64, 128])
    select = select or (RandomSelector(64, 0.5), RandomSelector(32, 0.25))
    torch.manual_seed(0)
    return make(tiny_backbone(form), 6, sizes, [0.5, 1.0, 2.0], *select, head_width=64, roi_size=5, after_nms=(100, 50))


TakeAll = AllSelector  # no randomness between two runs
