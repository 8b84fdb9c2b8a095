"""Measures how fast this machine trains and tests a detector, in a few seconds."""

import time
from collections.abc import Callable
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks.pictures import COMPRESSION
from lightning_det.data.dataset import Collate, Look, ViewDataset
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch, State
from lightning_det.views.view import View

PATIENCE = 2.0
"""Seconds after which no other repetition begins."""

SIDE = 256
"""Side of the measured views, if the views of training have different sizes, pixels."""

BATCH = 4
"""Number of views in the measured batch."""

OBJECTS = 8
"""Number of objects in a view of the measured batch."""

ZOOM = 0.8
"""Scale of the views that are cut to measure how long it takes."""

IMAGES = 3
"""Number of image files that are decoded."""


class Speed(NamedTuple):
    """Seconds that parts of a run take on this machine."""

    train: float
    """Training, per megapixel of the views."""
    test: float
    """Inference, per megapixel of the views."""
    decode: float
    """Decoding of one image."""
    cut: float
    """Cutting of one small view out of a decoded image, and its place in a batch."""
    resize: float
    """Resizing of a whole image, per megapixel of the image."""
    draw: float
    """Writing of a picture that shows an image twice: with its objects and with detections."""
    own: float = 1.0
    """Share of the time that the training wanted processors in which it had them: below 1 if other programs slowed it
    down."""


def measure_speed(detector: Detector, store: AnnotationStore, side: int, device: str = "cpu") -> Speed:
    """Times training steps, inference and decoding.

    Args:
        detector: newly initialised; it is moved to the device, and its gradients are set.
        store: images, a few of which are decoded.
        side: of the square views, pixels.
        device: where to train, ``cpu`` or ``cuda``.

    Raises:
        ImageError: an image cannot be decoded.
    """
    batch = random_batch(BATCH, side).to(device)
    detector.to(device)
    megapixels = len(batch) * side**2 / 1e6

    def step() -> None:
        torch.stack(list(detector.losses(batch).values())).sum().backward()
        _finish(device)

    def detect() -> None:
        with torch.inference_mode():
            detector(batch.images, batch.sizes, 0.05, 0.5, 100)
        _finish(device)

    detector.train()
    begun = time.perf_counter(), time.process_time(), seconds_in_queue()
    trained = fastest(step, PATIENCE, device == "cpu")
    own = own_share(*begun) if device == "cpu" else 1.0
    detector.eval()
    tested = fastest(detect, PATIENCE, device == "cpu")
    return Speed(trained / megapixels, tested / megapixels, *measure_images(store, side), own)


def measure_images(store: AnnotationStore, side: int) -> tuple[float, float, float, float]:
    """Times what a training does with a few images: see ``decode``, ``cut``, ``resize`` and ``draw`` of `Speed`.

    Args:
        store: images, a few of which are decoded.
        side: of the views that are cut, pixels.

    Raises:
        ImageError: an image cannot be decoded.
    """
    positions = np.linspace(0, len(store) - 1, min(len(store), IMAGES)).round().astype(int).tolist()
    decode, cut, resize = np.mean([_loading(store, position, side) for position in positions], axis=0).tolist()
    pixels = ViewDataset(store).pixels(positions[0])[:, :, :].permute(1, 2, 0).numpy()
    image = Image.fromarray(np.concatenate([pixels, pixels], axis=1))
    draw = fastest(lambda: image.save(BytesIO(), "PNG", compress_level=COMPRESSION), patience=0.0)
    return decode, cut, resize, draw


def _loading(store: AnnotationStore, image: int, side: int) -> tuple[float, float, float]:
    width, height = int(store.widths[image]), int(store.heights[image])
    dataset, collate = ViewDataset(store, room=3 * width * height), Collate()

    def seconds(scale: float, right: int, bottom: int) -> float:
        look = Look(image, View(scale, (0, 0, min(width, right), min(height, bottom))))
        return fastest(lambda: collate(dataset.__getitems__([look])), patience=0.0)

    decode = fastest(lambda: dataset.pixels(image), patience=0.0)
    dataset.__getitems__([Look(image, View(1.0, (0, 0, 1, 1)))])  # from now on, the image is in memory
    cut = seconds(ZOOM, ceil(side / ZOOM), ceil(side / ZOOM))
    whole = seconds(min(1.0, side / max(width, height)), width, height)
    return decode, cut, max(0.0, whole - cut) / (width * height / 1e6)


def random_batch(count: int, side: int) -> Batch:
    """Makes square views of random pixels, with objects at random places."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(side / 16, side / 4, (count, OBJECTS, 2))
    corners = rng.uniform(0, side - sides)
    whole = torch.tensor([[0.0, 0.0, side, side]]).repeat(count, 1)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)),
        sizes=torch.full((count, 2), side),
        boxes=torch.from_numpy(np.concatenate([corners, corners + sides], axis=2)).float(),
        labels=torch.zeros((count, OBJECTS), dtype=torch.int64),
        states=torch.full((count, OBJECTS), State.VALID),
        windows=whole,
        ranges=torch.tensor([[0.0, torch.inf]]).repeat(count, 1),
        flips=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
    )


def seconds_in_queue() -> float | None:
    """Seconds for which threads of this process were ready, but had no processor; None where Linux does not say it."""
    try:
        files = list(Path("/proc/self/task").glob("*/schedstat"))
        return sum(int(file.read_text().split()[1]) for file in files) / 1e9 if files else None
    except (OSError, ValueError, IndexError):  # a thread has ended meanwhile
        return None


def own_share(start: float, spent: float, queued: float | None) -> float:
    """Computes ``own`` of `Speed` since a moment.

    Args:
        start: ``time.perf_counter()`` of that moment.
        spent: its ``time.process_time()``.
        queued: its `seconds_in_queue`.
    """
    spent = max(1e-9, time.process_time() - spent)
    now = seconds_in_queue()
    if queued is None or now is None:
        return min(1.0, spent / (time.perf_counter() - start))
    return spent / (spent + max(0.0, now - queued))


def _finish(device: str) -> None:
    """Waits for what the device still computes."""
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(act: Callable[[], object], patience: float, on_cores: bool = True) -> float:
    """Measures how long an action takes on a machine without other programs.

    It is repeated until ``patience`` seconds are over, twice at least, and the fastest repetition counts. What computes
    on processors needs no longer than the seconds that they spend on it; the rest of the time, others have them.

    Args:
        act: what to do.
        patience: seconds.
        on_cores: whether the action computes on processors of this machine, and not on another device.
    """
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 2 or time.perf_counter() - begun < patience:
        start, spent = time.perf_counter(), time.process_time()
        act()
        seconds.append(time.perf_counter() - start)
        if on_cores:
            seconds[-1] = min(seconds[-1], time.process_time() - spent)
    return min(seconds)
