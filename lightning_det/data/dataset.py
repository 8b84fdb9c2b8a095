"""Renders planned views and collates them into batches."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.colours import distort
from lightning_det.data.memory import ImageMemory
from lightning_det.data.opening import ImageError
from lightning_det.data.resizing import resize_part
from lightning_det.data.sizes import size_fault
from lightning_det.data.windows import Pixels, open_pixels
from lightning_det.protocols.structures import STRIDE, Batch, State
from lightning_det.views.targets import Targets, targets
from lightning_det.views.view import View

OUTSIDE = (123, 117, 104)
"""Colour of a window's pixels outside the image: ImageNet's mean, as in SSD."""

BOX_PADDING = 8
"""Box counts are rounded up to a multiple of this, for few distinct shapes with little padding."""


REMEDY = (
    "replace it, or take it out of the annotations (lightning-det inspect decodes all images of a dataset "
    "and lists the damaged ones); a training goes on with resume=RUN_FOLDER"
)
"""Remedy for an image that was changed after its annotations were read, or that is damaged after its header."""


class Look(NamedTuple):
    """One view of one image of a store."""

    image: int
    view: View


class Sample(NamedTuple):
    """A rendered view."""

    look: Look
    pixels: Tensor
    """(3, h, w) uint8."""
    targets: Targets


class ViewDataset(Dataset):
    """Renders the looks that a batch sampler plans. Nothing is random here, so loader workers need no seed.

    Args:
        store: annotations.
        min_visible: see `targets`.
        min_side: see `targets`.
        frames: returns the pixels (3, H, W) uint8 of an image of the store; None: they are read from its file.
        room: bytes of decoded files that are kept, see `ImageMemory`.
    """

    def __init__(
        self,
        store: AnnotationStore,
        min_visible: float = 0.5,
        min_side: float = 1.0,
        frames: Callable[[int], Pixels] | None = None,
        room: int = 0,
    ):
        self.store = store
        self.frames = frames
        self.memory = ImageMemory(room)
        self.min_visible = min_visible
        self.min_side = min_side

    def __getitems__(self, looks: Sequence[Look]) -> list[Sample]:
        """Renders a batch. An image with several looks in it is decoded once."""
        decoded = self.memory.recall(look.image for look in looks)
        samples = []
        for look in looks:
            if look.image not in decoded:
                decoded[look.image] = self.pixels(look.image)
            record = self.store.record(look.image)
            found = targets(record, look.view, self.min_visible, self.min_side)
            samples.append(Sample(look, render(decoded[look.image], look.view), found))
        if looks and self.frames is None:
            self.memory.keep(decoded, looks[-1].image)
        return samples

    def pixels(self, image: int) -> Pixels:
        """Image (3, H, W) uint8, decoded, or to be read part by part.

        Raises:
            ImageError: the file is missing or damaged, or its size is not the annotated one.
        """
        if self.frames is not None:
            return self.frames(image)
        path = self.store.path(image)
        try:
            pixels = open_pixels(path)
        except ImageError as error:
            raise ImageError(f"{error}; {REMEDY}") from error
        annotated = (int(self.store.widths[image]), int(self.store.heights[image]))
        size = (pixels.shape[2], pixels.shape[1])
        if size != annotated:
            raise ImageError(f"{path}: {size_fault(path, annotated, size)}; {REMEDY}")
        return pixels


def render(pixels: Pixels, view: View) -> Tensor:
    """Renders a view (3, h, w) uint8 of its image (3, H, W) uint8. Only pixels of its window are read.

    Colours are changed after resizing, when there are fewer pixels. Pixels outside the image have the colour `OUTSIDE`.
    """
    x1, y1, x2, y2 = view.window
    height, width = pixels.shape[1:]
    left, right = (min(max(x, 0), width) for x in (x1, x2))
    top, bottom = (min(max(y, 0), height) for y in (y1, y2))
    columns, rows = _span(left, right, x1, x2, view.size[1]), _span(top, bottom, y1, y2, view.size[0])
    shape = rows.stop - rows.start, columns.stop - columns.start
    part = torch.zeros(3, 0, 0, dtype=torch.uint8)
    if top < bottom and left < right and min(shape) > 0:
        part = resize_part(pixels, slice(top, bottom), slice(left, right), shape)
        if view.distortion is not None:
            part = distort(part, view.distortion)
    if shape != view.size:
        whole = torch.tensor(OUTSIDE, dtype=torch.uint8)[:, None, None].repeat(1, *view.size)
        if part.numel():
            whole[:, rows, columns] = part
        part = whole
    return part.flip(2) if view.flip else part


def _span(start: int, stop: int, low: int, high: int, length: int) -> slice:
    """Finds the pixels of a view that show ``start`` to ``stop`` of the original image, along one axis.

    Args:
        start: first pixel in the original image.
        stop: the pixel after the last one.
        low: begin of the window in the original image.
        high: end of the window.
        length: pixels of the view along this axis.
    """
    first, last = (round((x - low) * length / (high - low)) for x in (start, stop))
    return slice(first, max(first, last))


class Collate:
    """Pads samples to one canvas and one number of boxes.

    Args:
        canvas: side of a square canvas, or (height, width) of all views; None: the smallest that the batch fits in.
        step: of sides where ``canvas`` is None, a multiple of `STRIDE`.
    """

    def __init__(self, canvas: int | tuple[int, int] | None = None, step: int = STRIDE):
        self.step = step
        self.canvas = [_round_up(canvas, STRIDE)] * 2 if isinstance(canvas, int) else canvas

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Makes the batch."""
        sizes = [s.look.view.size for s in samples]
        height, width = self.canvas or (_round_up(max(side), self.step) for side in zip(*sizes, strict=True))
        count = _round_up(max(1, *(len(s.targets.labels) for s in samples), 1), BOX_PADDING)
        images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
        boxes = np.zeros((len(samples), count, 4), np.float32)
        labels = np.zeros((len(samples), count), np.int64)
        states, anchor_states = (np.full((len(samples), count), State.PADDING, np.int64) for _ in range(2))
        for number, sample in enumerate(samples):
            h, w = sizes[number]
            images[number, :, :h, :w] = sample.pixels
            n = len(sample.targets.labels)
            boxes[number, :n] = sample.targets.boxes
            # Ignored regions may be of any class (`ANY_CLASS`), but detectors take labels as positions.
            labels[number, :n] = np.maximum(sample.targets.labels, 0)
            states[number, :n] = sample.targets.states
            anchor_states[number, :n] = sample.targets.anchor_states
        views = [s.look.view for s in samples]
        return Batch(
            images=images,
            sizes=torch.tensor(sizes),
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(labels),
            states=torch.from_numpy(states),
            windows=torch.tensor([v.window for v in views], dtype=torch.float32),
            ranges=torch.tensor([v.valid_range for v in views], dtype=torch.float32),
            flips=torch.tensor([v.flip for v in views]),
            index=torch.tensor([s.look.image for s in samples]),
            inner=torch.tensor([v.inner for v in views]),
            tiles=torch.tensor([v.tiles or (0, 0, 0) for v in views], dtype=torch.float32),
            borders=torch.tensor([v.border for v in views], dtype=torch.float32),
            levels=torch.tensor([v.level for v in views]),
            anchor_states=torch.from_numpy(anchor_states),
        )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
