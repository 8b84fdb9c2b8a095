"""Logs the RoIs or priors that carry loss: figures of every step, and pictures of every epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_det.callbacks.access import module_of
from lightning_det.callbacks.pictures import LEGIBLE, publish
from lightning_det.modules import keys
from lightning_det.plotting.boxes import draw_boxes
from lightning_det.plotting.colours import WHITE, Colour, class_colour
from lightning_det.plotting.key import with_key
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.structures import Batch

MOST = 64
"""Maximum number of drawn boxes; more would hide the view."""


class SelectionLog(pl.Callback):
    """Logs the number of regions that carry loss, the share of objects among them, and their mean and largest loss.

    Regions are RoIs, or the priors of single-shot detectors. As several may lie on one object, the mean number of
    different objects per view is logged too. The losses of all candidates, and the share that was selected, are also
    logged for priors, and if a strategy ranks candidates (OHEM). Detectors that select nothing log nothing.

    Args:
        folder: for the pictures; those of the last epoch are kept.
        count: number of views of each epoch's first batch that are drawn.
    """

    def __init__(self, folder: str, count: int = 4):
        self.folder = Path(folder)
        self.count = count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Logs figures, and draws pictures at the start of an epoch."""
        module = module_of(pl_module)
        selected = module.detector.selected
        if selected is None:
            return
        pl_module.log_dict(figures(selected, batch.boxes.shape[1]), batch_size=len(batch))
        if batch_idx == 0 and trainer.is_global_zero and self.count > 0:
            names = module.labels.names
            pictures = [draw(batch, selected, view, names) for view in range(min(self.count, len(batch)))]
            publish(trainer, self.folder, "selection", pictures)


def figures(selected: Selected, boxes: int) -> dict[str, Tensor]:
    """Computes the figures of a step by name, on the device; 0 if nothing was selected.

    Args:
        selected: the regions that carried loss.
        boxes: the number of boxes that the batch's views are padded to.
    """
    chosen = selected.chosen
    count = chosen.sum().clamp(min=1)
    losses = selected.losses * chosen
    positive = (selected.labels > 0) & chosen
    # The additional last column is for the background.
    seen = torch.zeros(len(chosen), boxes + 1, dtype=torch.bool, device=chosen.device)
    seen.scatter_(1, selected.objects.masked_fill(~positive, boxes), True)
    found = {
        "selected_per_view": chosen.sum() / len(chosen),
        "positive_share": positive.sum() / count,
        "objects_per_view": seen[:, :boxes].sum() / len(chosen),
        "selected_loss_mean": losses.sum() / count,
        "selected_loss_max": losses.max(),
    }
    if selected.candidates is not None:
        known = ~selected.candidates.isnan()
        losses = selected.candidates.nan_to_num(0.0)
        found |= {
            "selected_share": chosen.sum() / known.sum().clamp(min=1),
            "candidate_loss_mean": losses.sum() / known.sum().clamp(min=1),
            "candidate_loss_max": losses.max(),
        }
    return {keys.selection(selected.kind, name): value.float() for name, value in found.items()}


def draw(batch: Batch, selected: Selected, view: int, names: tuple[str, ...]) -> np.ndarray:
    """Draws the regions of a view that carried loss, (h, w, 3) uint8: objects in class colours, background white.

    The hardest third has captions with class and loss, where there is room; the others are dashed. At most the `MOST`
    hardest are drawn. A margin below the view has the colour key.
    """
    height, width = batch.sizes[view].tolist()
    pixels = batch.images[view, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    enlarge = max(1, LEGIBLE // max(pixels.shape[:2]))
    pixels = pixels.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    rows = selected.chosen[view].nonzero().squeeze(1)
    rows = rows[torch.argsort(selected.losses[view, rows], descending=True)][:MOST]
    labels, losses = selected.labels[view, rows].tolist(), selected.losses[view, rows].tolist()
    hard = -(-len(rows) // 3)
    captions = [f"{_name(n, names)} {loss:.2f}" for n, loss in zip(labels, losses, strict=True)]
    drawn = draw_boxes(
        pixels,
        selected.boxes[view, rows].float().cpu().numpy() * enlarge,
        captions[:hard] + [""] * (len(rows) - hard),
        [_colour(n) for n in labels],
        dashed=[rank >= hard for rank in range(len(rows))],
    )
    return with_key(drawn, [(_name(n, names), _colour(n)) for n in sorted(set(labels))])


def _name(label: int, names: tuple[str, ...]) -> str:
    return names[label - 1] if label else "background"


def _colour(label: int) -> Colour:
    return class_colour(label - 1) if label else WHITE
