"""The evaluation in the report of a run, as tables, charts and images of wandb."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_det.callbacks.wandb_boxes import boxes_of, image_with_boxes
from lightning_det.data.resizing import for_picture
from lightning_det.data.windows import open_pixels
from lightning_det.evaluation.diagnosis import BACKGROUND, Diagnosis
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.outcomes import Outcome
from lightning_det.modules import keys

if TYPE_CHECKING:
    import wandb

KINDS = {"right": Outcome.RIGHT, "wrong_class": Outcome.WRONG_CLASS, "false": Outcome.FALSE}
"""The groups of detections in images, and their outcomes."""

CELLS = 10_000
"""Maximum number of cells of a confusion matrix with its empty ones: wandb draws so many rows of a table."""


def diagnosis_media(diagnosis: Diagnosis, images: int) -> dict[str, Any]:
    """Makes all tables, charts and images of a diagnosis by their keys.

    Args:
        diagnosis: of an evaluation with the octaves of object size.
        images: number of the worst, and of the best images.
    """
    evaluation = diagnosis.evaluation
    curves = {key: pr_curves(evaluation, iou, words) for key, (iou, words) in keys.PR_CURVES_BY_IOU.items()}
    return curves | {
        keys.AP_BY_SIZE: ap_by_size(evaluation.curve()),
        keys.THRESHOLDS: threshold_table(diagnosis),
        keys.CONFUSION: confusion_chart(diagnosis),
        keys.WORST: [error_image(diagnosis, position) for position in diagnosis.worst(images)],
        keys.BEST: [error_image(diagnosis, position) for position in diagnosis.best(images)],
    }


def ap_by_size(curve: Sequence[Mapping[str, float]]) -> "wandb.plot.CustomChart":
    """A chart of an `Evaluation.curve`."""
    import wandb

    columns: list[str | int] = ["from", "to", "boxes", "figure", "value"]
    rows = [[row["from"], row["to"], row["boxes"], name, row[name]] for row in curve for name in ("AP", "AP50")]
    table = wandb.Table(columns=columns, data=rows)
    title = "AP by object size: octaves up to sqrt(area), px"
    return wandb.plot.line(table, "to", "value", stroke="figure", title=title)


def pr_curves(evaluation: Evaluation, iou: float | None = 0.5, words: str = "IoU 0.5") -> "wandb.plot.CustomChart":
    """A chart of precision over recall, of every class that has boxes and their mean.

    Args:
        evaluation: has the curves.
        iou: see `Evaluation.precision_recall`.
        words: the IoU in the title.
    """
    import wandb

    curves = evaluation.pr_curves(iou)
    recall = np.linspace(0, 1, evaluation.precision.shape[1])
    rows = [[name, float(r), float(p)] for name, curve in curves for r, p in zip(recall, curve, strict=True)]
    table = wandb.Table(columns=["class", "recall", "precision"], data=rows)
    return wandb.plot.line(table, "recall", "precision", stroke="class", title=f"precision over recall, {words}")


def threshold_table(diagnosis: Diagnosis) -> "wandb.Table":
    """A table of the best score of every class, and of precision, recall and F1 there."""
    import wandb

    columns: list[str | int] = ["class", "boxes", "threshold", "measured", "precision", "recall", "F1"]
    return wandb.Table(columns=columns, data=[[row[str(name)] for name in columns] for row in diagnosis.per_class()])


def confusion_chart(diagnosis: Diagnosis) -> "wandb.plot.CustomChart":
    """The confusion matrix, in the chart that ``wandb.plot.confusion_matrix`` makes of single labels."""
    import wandb

    names, matrix = [*diagnosis.evaluation.names, BACKGROUND], diagnosis.confusion
    cells = [[names[a], names[b], int(n)] for (a, b), n in np.ndenumerate(matrix) if n or matrix.size <= CELLS]
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=cells),
        {str(name): name for name in columns},
        {"title": "confusion matrix at the best scores, IoU 0.5"},
    )


def error_image(diagnosis: Diagnosis, position: int) -> "wandb.Image":
    """An image with right detections and errors as groups of boxes."""
    store, results, names = diagnosis.store, diagnosis.results, diagnosis.evaluation.names
    image = int(results.seen[position])
    rows, missed = diagnosis.of_image(image)
    pixels, scale = for_picture(open_pixels(store.path(image)))
    groups = {"missed": boxes_of(store.boxes[missed] * scale, store.labels[missed], names)}
    for name, kind in KINDS.items():
        some = rows[diagnosis.found.kinds[rows] == kind]
        groups[name] = boxes_of(results.boxes[some] * scale, results.labels[some], names, results.scores[some])
    caption = f"{store.files[image]}: {diagnosis.describe(position)}"
    return image_with_boxes(pixels, groups, names, caption)
