"""Modules, data and trainers of a few steps."""

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_det.annotations import LabelMap
from lightning_det.data.datamodule import MultiScaleData
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import Detections
from lightning_det.views import Planner, Pyramid

LABELS = LabelMap(["cat", "dog"], [7, 90])


def data_of(store, batch_size=2, test_batch_size=2, flip=None, **arguments):
    views, test_views = Planner(Pyramid([1.0])), Planner(Pyramid([1.0]), flip=flip)
    return MultiScaleData(store, store, views, test_views, batch_size, test_batch_size, num_workers=0, **arguments)


def trainer_in(folder, **arguments):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    usual = {"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    usual["reload_dataloaders_every_n_epochs"] = 1
    return pl.Trainer(default_root_dir=folder, **(usual | quiet | arguments))


def ten(store):
    return store.select([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


class Stub(Detector):
    """A detector of one layer: fixed losses and detections.

    Args:
        found: makes boxes (B, N, 4), scores and labels (B, N) in the views of a batch's sizes.
        losses: makes losses of a batch.
    """

    def __init__(self, found=None, losses=None, ious=None):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.found = found
        self.terms = losses or (lambda batch: {"one": torch.tensor(1.0)})

    def losses(self, batch):
        return {name: value + 0 * self.layer(torch.ones(2)).sum() for name, value in self.terms(batch).items()}

    def forward(self, images, sizes, score_threshold, nms_iou, max_detections, ranges=None, passes=1):
        if self.found is None:
            empty = torch.zeros(len(images), 1)
            return Detections(empty[..., None].expand(-1, -1, 4), empty, empty.long(), empty.bool())
        boxes, scores, labels = self.found(images, sizes)
        return Detections(boxes, scores, labels, scores > score_threshold)


def fixed(boxes, scores=None, labels=None):
    """A stub that finds the same in every view."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    scores = torch.linspace(0.9, 0.8, len(boxes)) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return lambda images, sizes: (t.expand(len(images), *t.shape) for t in (boxes, scores, labels))
