"""Measures how fast this machine trains and tests a detector, in a few seconds."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.images import decode
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Batch, State

PATIENCE = 2.0
"""Seconds after which no other repetition begins."""

SIDE = 256
"""Side of the measured views, if the views of training have different sizes, pixels."""

BATCH = 4
"""Number of views in the measured batch."""

OBJECTS = 8
"""Number of objects in a view of the measured batch."""

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
    own: float = 1.0
    """Seconds of processors that the training got per second: below 1 if other programs slowed it down."""


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
    begun = time.perf_counter(), time.process_time()
    trained = fastest(step, PATIENCE)
    own = (time.process_time() - begun[1]) / (time.perf_counter() - begun[0]) if device == "cpu" else 1.0
    detector.eval()
    tested = fastest(detect, PATIENCE)
    positions = np.linspace(0, len(store) - 1, min(len(store), IMAGES)).round().astype(int)
    decoded = [fastest(partial(decode, store.path(position)), patience=0.0) for position in positions]
    return Speed(trained / megapixels, tested / megapixels, float(np.mean(decoded)), own)


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


def _finish(device: str) -> None:
    """Waits for what the device still computes."""
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(act: Callable[[], object], patience: float) -> float:
    """Repeats an action until ``patience`` seconds are over, twice at least; returns the seconds of the fastest one."""
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < 2 or time.perf_counter() - begun < patience:
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
