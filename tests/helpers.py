"""What several test modules need."""

import torch

from lightning_det.structures import Batch, State


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
