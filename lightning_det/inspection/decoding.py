"""How often a loader decodes the images of a dataset."""

from collections.abc import Sequence

import torch

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.data.memory import ImageMemory, Reader


def count_decoding(store: AnnotationStore, passes: Sequence[list[list[Look]]], reader: Reader) -> list[int]:
    """Counts how many images a loader decodes in each of several passes.

    Args:
        store: annotations.
        passes: batches of each pass.
        reader: how images are read; its processes take turns.
    """
    memories = [ImageMemory(reader.room) for _ in range(max(1, reader.workers))]
    counts = []
    for batches in passes:
        counts.append(0)
        for number, batch in enumerate(batches):
            memory = memories[number % len(memories)]
            wanted = dict.fromkeys(look.image for look in batch)
            here = memory.recall(wanted)
            counts[-1] += len(wanted) - len(here)
            memory.keep({image: here.get(image, _without_pixels(store, image)) for image in wanted}, batch[-1].image)
    return counts


def _without_pixels(store: AnnotationStore, image: int) -> torch.Tensor:
    """A tensor with the size of a decoded image that takes no memory."""
    return torch.empty(3, store.heights[image], store.widths[image], dtype=torch.uint8, device="meta")
