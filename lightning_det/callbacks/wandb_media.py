"""Tables, curves and images for wandb, which can filter and search their boxes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks.access import find_callback, module_of, train_store, val_store
from lightning_det.callbacks.evaluation import Evaluator
from lightning_det.callbacks.wandb_boxes import boxes_of, image_with_boxes
from lightning_det.callbacks.wandb_diagnosis import diagnosis_media, pr_curves
from lightning_det.data.resizing import for_picture
from lightning_det.data.windows import open_pixels
from lightning_det.evaluation.diagnosis import Diagnosis
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.results import Results
from lightning_det.modules.keys import PER_CLASS, PR_CURVES, PREDICTIONS, VIEWS
from lightning_det.protocols.structures import Batch, State

if TYPE_CHECKING:
    import wandb

STATES = {"valid": State.VALID, "invalid": State.INVALID, "ignored": State.IGNORED}
"""The states of boxes by the names of their groups in wandb."""


class WandbMedia(pl.Callback):
    """Logs to wandb. Without a wandb logger it does nothing and does not import wandb.

    Each epoch it logs the views of the first batch (chips, if the strategy cuts them) with their boxes grouped by
    state; each validation, the first images with ground truth and detections, a table of the classes and their
    precision-recall curves. At the end of the training it logs what the report shows of the last validation.

    Args:
        count: number of views and of images.
        score_threshold: detections below this are not drawn.
    """

    def __init__(self, count: int = 8, score_threshold: float = 0.1):
        self.count = count
        self.score_threshold = score_threshold

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Logs the views of an epoch's first batch."""
        if batch_idx == 0 and logs_to_wandb(trainer):
            store, names = train_store(trainer), module_of(pl_module).labels.names
            shown = [view_image(batch, view, store, names) for view in range(min(self.count, len(batch)))]
            log_media(trainer, {VIEWS: shown})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the detections and the figures of the `Evaluator`."""
        evaluator = find_callback(trainer, Evaluator)
        if trainer.sanity_checking or evaluator is None or not logs_to_wandb(trainer):
            return
        results, evaluation, store = evaluator.results, evaluator.evaluation, val_store(trainer)
        assert results is not None, "a validation has ended"
        assert evaluation is not None, "a validation has ended"
        images = [predictions(store, results, int(image), self.score_threshold) for image in results.seen[: self.count]]
        figures = {PER_CLASS: class_table(evaluation), PR_CURVES: pr_curves(evaluation)}
        log_media(trainer, figures | {PREDICTIONS: images})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates the last validation by octaves of object size, which validations leave out, and diagnoses it."""
        evaluator = find_callback(trainer, Evaluator)
        # A run that was resumed after its last validation has no results.
        if evaluator is not None and evaluator.results is not None and logs_to_wandb(trainer):
            log_diagnosis(trainer, evaluator.diagnose(val_store(trainer)))


def log_diagnosis(trainer: pl.Trainer, diagnosis: Diagnosis) -> None:
    """Logs what the report shows of an evaluation, if there is a wandb logger and a `WandbMedia`."""
    media = find_callback(trainer, WandbMedia)
    if media is not None and logs_to_wandb(trainer):
        log_media(trainer, diagnosis_media(diagnosis, media.count))


def class_table(evaluation: Evaluation) -> "wandb.Table":
    """A table with the boxes, AP and AP50 of every class."""
    import wandb

    rows = [[name, row["boxes"], row["AP"], row["AP50"]] for name, row in evaluation.per_class().items()]
    return wandb.Table(columns=["class", "boxes", "AP", "AP50"], data=rows)


def predictions(store: AnnotationStore, results: Results, image: int, score_threshold: float) -> "wandb.Image":
    """An image with its detections, ground truth and ignored regions as groups of boxes."""
    names, record = store.label_map.names, store.record(image)
    pixels, scale = for_picture(open_pixels(store.path(image)))
    rows = [row for row in results.of_image(image) if results.scores[row] >= score_threshold]
    truth, ignored = ~record.ignored, record.ignored
    groups = {
        "predictions": boxes_of(results.boxes[rows] * scale, results.labels[rows], names, results.scores[rows]),
        "ground_truth": boxes_of(record.boxes[truth] * scale, record.labels[truth], names),
        "ignored": boxes_of(record.boxes[ignored] * scale, record.labels[ignored], names),
    }
    return image_with_boxes(pixels, groups, names, store.files[image])


def view_image(batch: Batch, view: int, store: AnnotationStore, names: Sequence[str]) -> "wandb.Image":
    """A view of a batch with its boxes grouped by `State`. The caption names image, scale and window."""
    height, width = batch.sizes[view].tolist()
    pixels = batch.images[view, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    boxes, labels, states = (t[view].cpu().numpy() for t in (batch.boxes, batch.labels, batch.states))
    groups = {name: boxes_of(boxes[states == state], labels[states == state], names) for name, state in STATES.items()}
    window = " ".join(f"{v:g}" for v in batch.windows[view].round().tolist())
    mirrored = ", mirrored" if batch.flips[view] else ""
    caption = f"{store.files[int(batch.index[view])]} x {float(batch.scales[view]):.2f}, window {window}{mirrored}"
    return image_with_boxes(pixels, groups, names, caption)


def logs_to_wandb(trainer: pl.Trainer) -> bool:
    """Whether this rank has a wandb logger to log to."""
    return trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers)


def log_media(trainer: pl.Trainer, content: dict[str, Any]) -> None:
    """Logs to all wandb loggers at the trainer's step."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics(content, trainer.global_step)
