"""Tables, curves and images for wandb, which can filter and search their boxes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from lightning_det.annotations.labels import ANY_CLASS, ANY_NAME, name_of
from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks.access import find_callback, module_of, train_store, val_store
from lightning_det.callbacks.evaluation import Evaluator
from lightning_det.data.images import decode
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.results import Results
from lightning_det.modules.keys import AP_BY_SIZE, PER_CLASS, PR_CURVES, PREDICTIONS, VIEWS
from lightning_det.protocols.structures import Batch, State

if TYPE_CHECKING:
    import wandb

STATES = {"valid": State.VALID, "invalid": State.INVALID, "ignored": State.IGNORED}
"""The states of boxes by the names of their groups in wandb."""


class WandbMedia(pl.Callback):
    """Logs to wandb. Without a wandb logger it does nothing and does not import wandb.

    Each epoch it logs the views of the first batch (chips, if the strategy cuts them) with their boxes grouped by
    state; each validation, the first images with ground truth and detections, a table of the classes and their
    precision-recall curves. At the end of the training it evaluates the last validation by object size.

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
        if batch_idx == 0 and _logs_to_wandb(trainer):
            store, names = train_store(trainer), module_of(pl_module).labels.names
            shown = [view_image(batch, view, store, names) for view in range(min(self.count, len(batch)))]
            _log(trainer, {VIEWS: shown})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the detections and the figures of the `Evaluator`."""
        evaluator = find_callback(trainer, Evaluator)
        if trainer.sanity_checking or evaluator is None or not _logs_to_wandb(trainer):
            return
        results, evaluation, store = evaluator.results, evaluator.evaluation, val_store(trainer)
        assert results is not None, "a validation has ended"
        assert evaluation is not None, "a validation has ended"
        images = [predictions(store, results, int(image), self.score_threshold) for image in results.seen[: self.count]]
        figures = {PER_CLASS: class_table(evaluation), PR_CURVES: pr_curves(evaluation)}
        _log(trainer, figures | {PREDICTIONS: images})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluates the last validation by octaves of object size, which validations leave out."""
        evaluator = find_callback(trainer, Evaluator)
        # A run that was resumed after its last validation has no results.
        if evaluator is not None and evaluator.results is not None and _logs_to_wandb(trainer):
            store, results = val_store(trainer), evaluator.results
            cuts, most = evaluator.size_cuts, evaluator.counted
            log_ap_by_size(trainer, evaluate(store, results, cuts, most, curve=True, backend=evaluator.backend).curve())


def log_ap_by_size(trainer: pl.Trainer, curve: Sequence[Mapping[str, float]]) -> None:
    """Plots an `Evaluation.curve` in wandb, if there is a wandb logger."""
    if not _logs_to_wandb(trainer):
        return
    import wandb

    columns: list[str | int] = ["from", "to", "boxes", "figure", "value"]
    rows = [[row["from"], row["to"], row["boxes"], name, row[name]] for row in curve for name in ("AP", "AP50")]
    table = wandb.Table(columns=columns, data=rows)
    title = "AP by object size: octaves up to sqrt(area), px"
    _log(trainer, {AP_BY_SIZE: wandb.plot.line(table, "to", "value", stroke="figure", title=title)})


def class_table(evaluation: Evaluation) -> "wandb.Table":
    """A table with the boxes, AP and AP50 of every class."""
    import wandb

    rows = [[name, row["boxes"], row["AP"], row["AP50"]] for name, row in evaluation.per_class().items()]
    return wandb.Table(columns=["class", "boxes", "AP", "AP50"], data=rows)


def pr_curves(evaluation: Evaluation) -> "wandb.plot.CustomChart":
    """Precision over recall at IoU 0.5, of every class that has boxes and their mean."""
    import wandb

    recall, precision = evaluation.precision_recall(0.5)
    known = [k for k in range(len(evaluation.names)) if precision[k, 0] > -1]
    curves = {evaluation.names[k]: precision[k] for k in known}
    if known:
        curves = {"all classes": precision[known].mean(axis=0)} | curves
    rows = [[name, float(r), float(p)] for name, curve in curves.items() for r, p in zip(recall, curve, strict=True)]
    table = wandb.Table(columns=["class", "recall", "precision"], data=rows)
    return wandb.plot.line(table, "recall", "precision", stroke="class", title="precision over recall, IoU 0.5")


def predictions(store: AnnotationStore, results: Results, image: int, score_threshold: float) -> "wandb.Image":
    """An image with its detections, ground truth and ignored regions as groups of boxes."""
    names, record = store.label_map.names, store.record(image)
    rows = [row for row in results.of_image(image) if results.scores[row] >= score_threshold]
    truth, ignored = ~record.ignored, record.ignored
    groups = {
        "predictions": boxes_of(results.boxes[rows], results.labels[rows], names, results.scores[rows]),
        "ground_truth": boxes_of(record.boxes[truth], record.labels[truth], names),
        "ignored": boxes_of(record.boxes[ignored], record.labels[ignored], names),
    }
    return _image(decode(store.path(image)).permute(1, 2, 0).numpy(), groups, names, store.files[image])


def view_image(batch: Batch, view: int, store: AnnotationStore, names: Sequence[str]) -> "wandb.Image":
    """A view of a batch with its boxes grouped by `State`. The caption names image, scale and window."""
    height, width = batch.sizes[view].tolist()
    pixels = batch.images[view, :, :height, :width].permute(1, 2, 0).cpu().numpy()
    boxes, labels, states = (t[view].cpu().numpy() for t in (batch.boxes, batch.labels, batch.states))
    groups = {name: boxes_of(boxes[states == state], labels[states == state], names) for name, state in STATES.items()}
    window = " ".join(f"{v:g}" for v in batch.windows[view].round().tolist())
    mirrored = ", mirrored" if batch.flips[view] else ""
    caption = f"{store.files[int(batch.index[view])]} x {float(batch.scales[view]):.2f}, window {window}{mirrored}"
    return _image(pixels, groups, names, caption)


def boxes_of(
    boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], scores: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Boxes in the format of wandb.

    Args:
        boxes: (n, 4) ``xyxy`` pixels of the image.
        labels: (n,) positions in ``names``, or `ANY_CLASS`.
        names: of the classes.
        scores: (n,); None for ground truth.
    """
    rows = []
    for number, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
        one = {"position": position, "domain": "pixel", "class_id": label, "box_caption": name_of(label, names)}
        if scores is not None:
            score = float(scores[number])
            one |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        rows.append(one)
    return rows


def _image(
    pixels: np.ndarray, groups: Mapping[str, list[dict[str, Any]]], names: Sequence[str], caption: str
) -> "wandb.Image":
    """An image (h, w, 3) uint8 with groups of boxes. Empty groups are left out."""
    import wandb

    classes = dict(enumerate(names))
    if any(box["class_id"] == ANY_CLASS for group in groups.values() for box in group):
        classes[ANY_CLASS] = ANY_NAME
    boxes = {name: {"box_data": group, "class_labels": classes} for name, group in groups.items() if group}
    return wandb.Image(Image.fromarray(pixels), caption=caption, boxes=boxes)


def _logs_to_wandb(trainer: pl.Trainer) -> bool:
    """Whether this rank has a wandb logger to log to."""
    return trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers)


def _log(trainer: pl.Trainer, content: dict[str, Any]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics(content, trainer.global_step)
