"""What only wandb shows: tables, curves, and images whose boxes can be switched, filtered and searched."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from lightning_det.annotations.store import AnnotationStore
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
"""Of a view's boxes, by the names of their groups."""


class WandbMedia(pl.Callback):
    """Logs to wandb, if there is such a logger; without one it does nothing, and wandb is not imported.

    Every epoch: views of its first batch (chips, if the strategy cuts them), their boxes grouped by state. Every
    validation: the first images with ground truth and detections, a table of the classes and their
    precision-recall curves. Training ends with AP by object size, of the last validation, which takes an evaluation of
    its own.

    Args:
        count: how many views and images.
        score_threshold: detections below this are left out of images.
    """

    def __init__(self, count: int = 8, score_threshold: float = 0.1):
        self.count = count
        self.score_threshold = score_threshold

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Shows what an epoch begins with."""
        if batch_idx == 0 and _shown(trainer):
            store, names = trainer.datamodule.train, pl_module.labels.names
            shown = [view_image(batch, view, store, names) for view in range(min(self.count, len(batch)))]
            _log(trainer, {VIEWS: shown})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows what the `Evaluator` found."""
        evaluator = _evaluator(trainer)
        if trainer.sanity_checking or evaluator is None or not _shown(trainer):
            return
        results = evaluator.results
        images = [
            predictions(trainer.datamodule.val, results, int(image), self.score_threshold)
            for image in results.seen[: self.count]
        ]
        found = {PER_CLASS: class_table(evaluator.evaluation), PR_CURVES: pr_curves(evaluator.evaluation)}
        _log(trainer, found | {PREDICTIONS: images})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures octaves of object size, which validations do without."""
        evaluator = _evaluator(trainer)
        # A training that went on behind its last validation has nothing to measure.
        if evaluator is not None and evaluator.results is not None and _shown(trainer):
            store, found = trainer.datamodule.val, evaluator.results
            cuts, most = evaluator.size_cuts, evaluator.counted
            log_ap_by_size(trainer, evaluate(store, found, cuts, most, curve=True, backend=evaluator.backend).curve())


def log_ap_by_size(trainer: pl.Trainer, curve: Sequence[Mapping[str, float]]) -> None:
    """Plots an `Evaluation.curve` in wandb, if there is such a logger; a row is a figure of an octave."""
    if not _shown(trainer):
        return
    import wandb

    columns = ["from", "to", "boxes", "figure", "value"]
    rows = [[row["from"], row["to"], row["boxes"], name, row[name]] for row in curve for name in ("AP", "AP50")]
    table = wandb.Table(columns=columns, data=rows)
    title = "AP by object size: octaves up to sqrt(area), px"
    _log(trainer, {AP_BY_SIZE: wandb.plot.line(table, "to", "value", stroke="figure", title=title)})


def class_table(evaluation: Evaluation) -> "wandb.Table":
    """Boxes, AP and AP50 of every class."""
    import wandb

    rows = [[name, row["boxes"], row["AP"], row["AP50"]] for name, row in evaluation.per_class().items()]
    return wandb.Table(columns=["class", "boxes", "AP", "AP50"], data=rows)


def pr_curves(evaluation: Evaluation) -> "wandb.plot.CustomChart":
    """Precision over recall at IoU 0.5: of every class that has boxes, and their mean."""
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
    """A view of a batch, its boxes grouped by `State`; the caption names image, scale and window."""
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
    """Boxes (n, 4) ``xyxy`` pixels with labels (n,), and scores (n,) if they have some, as wandb wants them."""
    found = []
    for number, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
        one = {"position": position, "domain": "pixel", "class_id": label, "box_caption": names[label]}
        if scores is not None:
            score = float(scores[number])
            one |= {"scores": {"score": score}, "box_caption": f"{names[label]} {score:.2f}"}
        found.append(one)
    return found


def _image(pixels: np.ndarray, groups: Mapping[str, list], names: Sequence[str], caption: str) -> "wandb.Image":
    """An image (h, w, 3) uint8 with groups of boxes; those without boxes are left out."""
    import wandb

    classes = dict(enumerate(names))
    boxes = {name: {"box_data": group, "class_labels": classes} for name, group in groups.items() if group}
    return wandb.Image(Image.fromarray(pixels), caption=caption, boxes=boxes)


def _evaluator(trainer: pl.Trainer) -> Evaluator | None:
    return next((c for c in trainer.callbacks if isinstance(c, Evaluator)), None)


def _shown(trainer: pl.Trainer) -> bool:
    return trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers)


def _log(trainer: pl.Trainer, content: dict[str, Any]) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics(content, trainer.global_step)
