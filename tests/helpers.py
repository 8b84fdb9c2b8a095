"""What several test modules need."""

import json

import numpy as np
import torch

from lightning_det.structures import Batch, ImageRecord, State

SMALL = (
    "dataset.source.train=24",
    "dataset.source.val=8",
    "dataset.source.width=128",
    "dataset.source.height=96",
    "dataset.source.sizes=[8,48]",
    "dataset.resolution=[96,128]",
    "dataset.pyramid=[[192,256],[96,128],[48,64]]",
)
"""Generated images that a command trains on in seconds."""

CHIPS = (
    "dataset.sniper.size=64",
    "dataset.sniper.scales=[2.0,1.0,[-1,64]]",
    "dataset.sniper.pyramid=[[192,256],[96,128],[48,64]]",
    "dataset.snip.sub_image=128",
    "views.train.windows.dense=[3,3]",
)
"""SNIPER's chips of such images."""


def read(file):
    return json.loads(file.read_text())


def record(width=640, height=480, boxes=(), ignored=()):
    """An image with boxes of different classes."""
    boxes = np.array(boxes, float).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool)
    flags[list(ignored)] = True
    return ImageRecord(width, height, boxes, np.arange(len(boxes)), flags)


def losses_of(model, batch, steps, lr):
    """The detector's total loss at each of some SGD steps on one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    seen = []
    for _ in range(steps):
        total = sum(model.losses(batch).values())
        seen.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return seen


def make_batch(count=2, height=192, width=256, boxes=5, padded=16, classes=6, seed=0, scale=1.0, ranges=None):
    """Random uint8 views with ``boxes`` valid boxes each, padded to ``padded``."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, padded, 2, generator=rng) * torch.tensor([width, height]) * 0.6
    side = 8 + torch.rand(count, padded, 2, generator=rng) * torch.tensor([width, height]) * 0.35
    states = torch.full((count, padded), State.PADDING)
    states[:, :boxes] = State.VALID
    real = (states != State.PADDING)[..., None]
    return Batch(
        images=torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * count),
        boxes=torch.cat([corner, corner + side], dim=-1) * real,
        labels=torch.randint(0, classes, (count, padded), generator=rng) * real[..., 0],
        states=states,
        windows=torch.tensor([[0.0, 0.0, width / scale, height / scale]] * count),
        ranges=torch.tensor([ranges or (0.0, float("inf"))] * count),
        flips=torch.zeros(count, dtype=torch.bool),
        index=torch.arange(count),
    )
