"""Comparison of a detector without proposals with torchvision's, on equal random weights."""

import copy
from functools import cache

import torch
from helpers import make_batch
from torch import nn

from lightning_det.backbones import torchvision_backbone
from lightning_det.protocols.structures import State

SIZE = (128, 192)


@cache
def _backbone():
    """To be copied: its random weights take seconds."""
    return torchvision_backbone("resnet50", "pyramid", norm="batch")


def backbone():
    return copy.deepcopy(_backbone())


@cache
def reference(make, num_classes, box_bias=0.0):
    """Torchvision's detector with random weights and no resizing of its own; classes count from 0.

    Args:
        make: torchvision's function.
        num_classes: classes.
        box_bias: added to the regression. FCOS's boxes would else have no area.
    """
    torch.manual_seed(0)
    model = make(weights=None, weights_backbone=None, num_classes=num_classes, min_size=min(SIZE), max_size=max(SIZE))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "cls_logits" in name or "bbox_reg" in name:
                # Large shifts would move boxes out of the image; torchvision keeps such boxes without area.
                p.normal_(std=0.05 if "cls_logits" in name else 0.005)
            if "bbox_reg.bias" in name:
                p.add_(box_bias)
        for _ in range(5):  # BatchNorm statistics of real activations keep fifty random layers in range
            model.backbone(torch.randn(2, 3, *SIZE))
    return model.eval()


def check_detections(reference, detector, **settings):
    """All detections of two views are equal: as sets, whatever the order of nearly equal scores.

    Args:
        reference: torchvision's detector.
        detector: ours with its weights.
        settings: of inference, as torchvision's.
    """
    batch = make_batch(2, *SIZE, seed=3)
    detector.eval()
    with torch.no_grad():
        expected = reference(list(batch.images.float() / 255))
        found = detector(batch.images, batch.sizes, **settings)
    for number, target in enumerate(expected):
        valid = found.valid[number]
        assert valid.sum() == len(target["scores"]) > 20
        rows, expected_rows = (
            torch.cat([boxes, scores[:, None], labels[:, None]], dim=1)
            for boxes, scores, labels in (
                (found.boxes[number][valid], found.scores[number][valid], found.labels[number][valid]),
                (target["boxes"], target["scores"], target["labels"]),
            )
        )
        distance = torch.cdist(rows, expected_rows, p=float("inf"))
        assert distance.min(dim=1).values.max() < 1e-3
        assert distance.min(dim=0).values.max() < 1e-3
        torch.testing.assert_close(found.scores[number][valid], target["scores"], atol=1e-4, rtol=0)


def check_losses(reference, detector, names, batch=None):
    """Losses of a batch are equal; ``names`` are ours by torchvision's.

    Torchvision's RetinaNet divides image by image, so that only the loss of a single image is comparable.
    """
    batch = batch or make_batch(1, *SIZE, seed=5)
    count = int((batch.states[0] == State.VALID).sum())
    assert (batch.states[:, :count] == State.VALID).all()
    targets = [
        {"boxes": boxes[:count], "labels": labels[:count]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    for model in (reference, detector):
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    expected = reference(list(batch.images.float() / 255), targets)
    losses = detector.losses(batch)
    assert len(losses) == len(expected)
    for other, name in names.items():
        assert expected[other] > 0
        torch.testing.assert_close(losses[name], expected[other], atol=1e-5, rtol=1e-5)
