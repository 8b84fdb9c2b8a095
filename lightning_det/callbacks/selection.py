"""The RoIs or priors that carry loss: figures of every step, pictures of every epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_det.callbacks.access import module_of
from lightning_det.callbacks.pictures import LEGIBLE, publish
from lightning_det.modules import keys
from lightning_det.plotting.boxes import class_colour, draw_boxes
from lightning_det.protocols.detector import Selected
from lightning_det.protocols.structures import Batch

WHITE = (255, 255, 255)
MOST = 64
"""More boxes hide the view."""


class SelectionLog(pl.Callback):
    """Logs the share of objects among the regions that carry loss, and the mean and largest loss of them and of all.

    Regions are RoIs, or the priors of single-shot detectors. Several may lie on one object: how many different objects
    of a view they lie on, on average, is logged too. The losses of all candidates, and the share that was
    selected, are known where a strategy ranks them (OHEM), and for priors. Detectors that select nothing log nothing.

    Args:
        folder: where the pictures go; those of the last epoch stay.
        count: views drawn per epoch, of its first batch.
    """

    def __init__(self, folder: str, count: int = 4):
        self.folder = Path(folder)
        self.count = count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Logs figures, and draws where an epoch begins."""
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
    """Figures of a step by name, on the device; 0 where nothing was selected.

    Args:
        selected: the regions that carried loss.
        boxes: the number of boxes that the batch's views are padded to.
    """
    chosen = selected.chosen
    count = chosen.sum().clamp(min=1)
    losses = selected.losses * chosen
    positive = (selected.labels > 0) & chosen
    # A place more than there are boxes takes the background.
    seen = torch.zeros(len(chosen), boxes + 1, dtype=torch.bool, device=chosen.device)
    seen.scatter_(1, selected.objects.masked_fill(~positive, boxes), True)
    found = {
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
    return {keys.selected(selected.kind, name): value.float() for name, value in found.items()}


def draw(batch: Batch, selected: Selected, view: int, names: tuple[str, ...]) -> np.ndarray:
    """The regions of a view that carried loss, (h, w, 3) uint8: objects in their class's colour, background white.

    The hardest third has captions with its class and loss; the rest is dashed. Of many, the `MOST` hardest are drawn.
    """
    height, width = batch.sizes[view].tolist()
    pixels = batch.images[view, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    enlarge = max(1, LEGIBLE // max(pixels.shape[:2]))
    pixels = pixels.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    rows = selected.chosen[view].nonzero().squeeze(1)
    rows = rows[torch.argsort(selected.losses[view, rows], descending=True)][:MOST]
    labels, losses = selected.labels[view, rows].tolist(), selected.losses[view, rows].tolist()
    hard = -(-len(rows) // 3)
    captions = [f"{names[n - 1] if n else 'background'} {loss:.2f}" for n, loss in zip(labels, losses, strict=True)]
    return draw_boxes(
        pixels,
        selected.boxes[view, rows].float().cpu().numpy() * enlarge,
        captions[:hard] + [""] * (len(rows) - hard),
        [class_colour(n - 1) if n else WHITE for n in labels],
        dashed=[rank >= hard for rank in range(len(rows))],
    )
