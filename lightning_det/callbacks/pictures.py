"""Draws detections next to ground truth after every validation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from lightning_det.annotations.labels import name_of
from lightning_det.annotations.store import AnnotationStore
from lightning_det.callbacks.access import find_callback, val_store
from lightning_det.callbacks.evaluation import Evaluator
from lightning_det.data.resizing import for_picture
from lightning_det.data.windows import open_pixels
from lightning_det.evaluation.results import Results
from lightning_det.modules import keys
from lightning_det.plotting.boxes import draw_boxes, side_by_side
from lightning_det.plotting.colours import GREY, Colour, class_colour
from lightning_det.plotting.key import with_key
from lightning_det.protocols.structures import ImageRecord

LEGIBLE = 600
"""Images with a shorter long side, in pixels, are enlarged before boxes are drawn."""

COMPRESSION = 1
"""Of PNG files. Pillow's default takes four times as long and saves a seventh: five seconds for a large image."""


class Pictures(pl.Callback):
    """Draws the first validation images with boxes and detections, for the run folder and the loggers.

    Args:
        folder: for PNG files; those of the last validation are kept.
        count: how many images.
        score_threshold: detections below this are not drawn.
    """

    def __init__(self, folder: str, count: int = 8, score_threshold: float = 0.3):
        self.folder = Path(folder)
        self.count = count
        self.score_threshold = score_threshold

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the detections of the `Evaluator`."""
        evaluator = find_callback(trainer, Evaluator)
        results = None if evaluator is None else evaluator.results
        if trainer.sanity_checking or not trainer.is_global_zero or results is None:
            return
        store = val_store(trainer)
        pictures = [
            draw_comparison(store, results, int(image), self.score_threshold) for image in results.seen[: self.count]
        ]
        publish(trainer, self.folder, "val", pictures)


def publish(trainer: pl.Trainer, folder: Path, name: str, pictures: Sequence[np.ndarray]) -> None:
    """Writes pictures into a folder, replacing earlier ones of the same name, and to wandb and TensorBoard.

    Args:
        trainer: has the loggers.
        folder: gets ``NAME_00.png`` and so on.
        name: of the kind of pictures.
        pictures: each (h, w, 3) uint8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob(f"{name}_[0-9][0-9].png"))[len(pictures) :]:
        old.unlink()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{name}_{number:02d}.png", compress_level=COMPRESSION)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(keys.pictures(name), list(pictures), step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            for number, picture in enumerate(pictures):
                logger.experiment.add_image(
                    f"{name}/picture_{number:02d}", picture, trainer.global_step, dataformats="HWC"
                )


def draw_comparison(store: AnnotationStore, results: Results, image: int, score_threshold: float) -> np.ndarray:
    """Draws the ground truth and the detections of an image side by side, (h, w, 3) uint8, above a colour key.

    Ignored regions are grey and dashed. Small images are enlarged by an integer factor, so there is room for captions;
    huge ones are shrunk.
    """
    pixels, shrunk = for_picture(open_pixels(store.path(image)))
    enlarge = max(1, LEGIBLE // max(pixels.shape[:2]))
    pixels, scale = pixels.repeat(enlarge, axis=0).repeat(enlarge, axis=1), shrunk * enlarge
    record, names = store.record(image), store.label_map.names
    truth = draw_boxes(
        pixels,
        record.boxes * scale,
        [name_of(label, names) for label in record.labels],
        [GREY if i else class_colour(label) for label, i in zip(record.labels, record.ignored, strict=True)],
        dashed=record.ignored.tolist(),
    )
    rows = results.of_image(image)
    rows = rows[results.scores[rows] >= score_threshold]
    rows = rows[np.argsort(-results.scores[rows], kind="stable")]
    labels = results.labels[rows]
    captions = [f"{names[label]} {score:.2f}" for label, score in zip(labels, results.scores[rows], strict=True)]
    found = draw_boxes(pixels, results.boxes[rows] * scale, captions, [class_colour(label) for label in labels])
    drawn = side_by_side(truth, found, (f"ground truth: {store.files[image]}", f"detections above {score_threshold:g}"))
    return with_key(drawn, _key(record, labels, names))


def _key(record: ImageRecord, found: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, Colour]]:
    """Colour key of the classes (n,) of an image's annotations and detections; ignored regions have their own entry."""
    classes = np.union1d(record.labels[~record.ignored], found).astype(int)
    entries = [(names[label], class_colour(label)) for label in classes.tolist()]
    return entries + [("ignored", GREY)] * bool(record.ignored.any())
