"""Runs a detector on images: their views are planned, cut and batched as in evaluation, and their detections merged."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.datamodule import ViewData
from lightning_det.data.folder import without_boxes
from lightning_det.data.windows import Pixels
from lightning_det.evaluation.results import Results
from lightning_det.inference.pictures import Picture
from lightning_det.modules.module import DetectionModule

KEPT = 2**26
"""Decoded pixels that are kept, because views of an image may be in several batches: 200 MB."""


class Engine:
    """Runs a detector without a trainer, in this process and on one device.

    `DetectionModule.infer`, the batches of `ViewData` and `Inference.merge_views` do the work, here as in the commands:
    the same images give the same detections.

    Args:
        module: the detector; it stays on its device, and is set to evaluate.
        data: plans and cuts views, and batches them.
        half: whether convolutions and products are computed in 16 bits, as with ``trainer.precision=16-mixed`` on GPUs
            and with ``bf16-mixed`` on CPUs.
    """

    def __init__(self, module: DetectionModule, data: ViewData, half: bool = False):
        self.module = module.eval()
        self.data = data
        self.half = half

    def __call__(self, pictures: Sequence[Picture]) -> tuple[Results, AnnotationStore]:
        """Detections of images, with views merged, and the store that they refer to.

        All views are planned at once, and those of similar shape share a batch. Pixels are read batch by batch.
        """
        store = store_of(pictures, self.module.labels)
        device = self.module.device
        kind = torch.float16 if device.type == "cuda" else torch.bfloat16
        frames = Recent(pictures)
        batches = self.data.inference_loader(
            store,
            frames,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # torch's own one stays as it is: a loader draws a seed, used or not
        )
        follow = self.data.follow_in(store, frames)
        self.module.eval()
        with torch.autocast(device.type, kind, enabled=self.half):
            parts = [self.module.infer(batch.to(device, non_blocking=True), follow) for batch in batches]
        return self.module.inference.merge_views(Results.concatenate(parts), store), store


class Recent:
    """Reads the pixels of images; the last ones, up to `KEPT` pixels and at least one, stay in memory."""

    def __init__(self, pictures: Sequence[Picture]):
        self.pictures = pictures
        self._pixels: OrderedDict[int, Pixels] = OrderedDict()

    def __call__(self, number: int) -> Pixels:
        """Pixels (3, H, W) uint8 of an image."""
        if number not in self._pixels:
            self._pixels[number] = self.pictures[number].read()
            while len(self._pixels) > 1 and sum(p.shape[1] * p.shape[2] for p in self._pixels.values()) > KEPT:
                self._pixels.popitem(last=False)
        self._pixels.move_to_end(number)
        return self._pixels[number]


def store_of(pictures: Sequence[Picture], labels: LabelMap) -> AnnotationStore:
    """The sizes of images as a store without boxes; ``labels`` are the classes to detect."""
    widths = np.array([picture.width for picture in pictures], np.int32)
    heights = np.array([picture.height for picture in pictures], np.int32)
    return without_boxes(Path(), [p.name for p in pictures], widths, heights, labels)
