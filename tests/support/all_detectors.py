"""A small detector of every kind, and batches for them."""

from contextlib import contextmanager
from unittest import mock

import torch
from helpers import make_batch

from lightning_det.backbones.dsod import dsod
from lightning_det.backbones.ssd import ssd_tiny
from lightning_det.backbones.tiny import tiny_backbone
from lightning_det.protocols.structures import State
from lightning_det.selection import AllSelector, HardNegativeSelector, HardSelector, RandomSelector
from support import makers

VIEWS, CLASSES = 6, 6
CANVAS = (64, 96)
RANDOM = (RandomSelector(64, 0.5), RandomSelector(16, 0.25))
SMALL = {"head_width": 32, "before_nms": (200, 200), "after_nms": (40, 40)}


def faster_rcnn(form="c4", select=RANDOM, **settings):
    make, sizes = (makers.c4, [16, 32, 64]) if form == "c4" else (makers.fpn, [8, 16, 32, 64, 128])
    neck = {} if form == "c4" else {"neck_width": 16}
    backbone = tiny_backbone(form, 4, norm="group")
    return make(backbone, CLASSES, sizes, [0.5, 1.0, 2.0], *select, roi_size=5, **neck, **SMALL, **settings)


def rfcn(select=RANDOM, **settings):
    backbone = tiny_backbone("c4", 4, norm="group")
    return makers.rfcn(backbone, CLASSES, [16, 32, 64], [1.0], *select, roi_size=3, **SMALL, **settings)


def retinanet(**settings):
    backbone = tiny_backbone("pyramid", 4, norm="group")
    return makers.retinanet(backbone, CLASSES, [8, 16, 32, 64, 128], width=16, finest=4, extra=1, **settings)


def fcos(**settings):
    backbone = tiny_backbone("pyramid", 4, norm="group")
    return makers.fcos(backbone, CLASSES, width=16, finest=4, extra=1, **settings)


def rtdetr():
    return makers.rtdetr(tiny_backbone("pyramid", 4, norm="group"), CLASSES, head_norm="group")


def dense(**settings):
    backbone = dsod(
        stem_width=8,
        bottleneck=16,
        growth=8,
        blocks=(1, 1, 1, 1),
        second=16,
        halves=(16,),
        plain=(16,),
        norm="group",
    )
    select = HardNegativeSelector()
    return makers.ssd(backbone, CLASSES, [8, 64], select, l2_norm=True, head_norm="group", **settings)


DETECTORS = {
    "faster_rcnn": faster_rcnn,
    "faster_rcnn ohem": lambda: faster_rcnn(select=(RANDOM[0], HardSelector(16))),
    "faster_rcnn_fpn": lambda: faster_rcnn("pyramid"),
    "faster_rcnn_fpn all": lambda: faster_rcnn("pyramid", (RANDOM[0], AllSelector())),
    "cascade_rcnn": lambda: faster_rcnn("pyramid", **makers.CASCADE),
    "cascade_rcnn ohem": lambda: faster_rcnn(select=(RANDOM[0], HardSelector(16)), **makers.CASCADE),
    "cascade_rfcn": lambda: rfcn(stages=makers.STAGES),
    "rfcn": rfcn,
    "rfcn deformable ohem": lambda: rfcn((RANDOM[0], HardSelector(16, None)), pooling="deformable"),
    "proposals": lambda: faster_rcnn().proposer([]),
    "ssd": lambda: makers.ssd(ssd_tiny(widths=(8, 12, 16)), CLASSES, [8, 64], HardNegativeSelector()),
    "ssd ohem": lambda: makers.ssd(
        ssd_tiny(widths=(8, 12, 16)), CLASSES, [8, 64], HardSelector(64, None, ranking="train")
    ),
    "dsod": dense,
    "retinanet": lambda: retinanet(),
    "fcos": fcos,
    "retinanet giou": lambda: retinanet(head_norm="group", box_loss="giou"),
    "rtdetr": rtdetr,
    "grp_dsod": lambda: dense(reused=0.5),
}
BOXES = {
    "as many everywhere": [5] * VIEWS,
    "all on the last rank": [0, 0, 0, 0, 0, 16],
    "few and many": [1, 0, 2, 0, 16, 13],
    "none": [0] * VIEWS,
}
"""Valid boxes of every view."""


def batches():
    """Joint batches by name; ranks take as many views of them each, in order."""
    made = {}
    for name, counts in BOXES.items():
        made[name] = make_batch(VIEWS, *CANVAS, boxes=16, padded=16, classes=CLASSES)
        states = torch.where(torch.arange(16) < torch.tensor(counts)[:, None], State.VALID, State.PADDING)
        made[name].states = made[name].anchor_states = states
    # In a crowd that fills the view no region carries loss: the count of the first half is 0, or that of all.
    for name, views in (("crowds", VIEWS // 2), ("nothing but crowds", VIEWS)):
        made[name] = make_batch(VIEWS, *CANVAS, boxes=5, padded=16, classes=CLASSES)
        made[name].states[:views] = State.PADDING
        made[name].states[:views, 0] = State.IGNORED
        made[name].boxes[:views, 0] = torch.tensor([-500.0, -500.0, 700.0, 700.0])
    return made


@contextmanager
def doubled():
    """Detectors compute in double precision: what they select does not hang on a sum's order."""
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
