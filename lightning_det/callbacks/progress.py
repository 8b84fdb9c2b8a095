"""The progress bar: one line of at most 80 columns, in training, validation, mining and inference."""

import logging
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn
from pytorch_lightning.trainer.states import TrainerFn
from rich.progress import ProgressColumn, Task, TextColumn
from rich.style import Style
from rich.text import Text

from lightning_det.data.datamodule import ViewData
from lightning_det.modules import keys
from lightning_det.protocols.structures import Batch

log = logging.getLogger("lightning_det")

LINES = 60.0
"""Seconds between two lines about a pass whose output is no terminal, where no bar is drawn."""

BAR = 12
"""Width of the bar itself, characters."""

WORDS = 10
"""Width of the words before the bar, at least."""


class TimeLeft(ProgressColumn):
    """The time left of a pass over images. In a training, the figures have that of all epochs, and need the room."""

    max_refresh = 0.5

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__()
        self._shown = trainer.state.fn != TrainerFn.FITTING

    def render(self, task: Task) -> Text:
        """The text beside a bar."""
        left = task.time_remaining
        return Text(f"left: {duration(left)}" if left is not None and self._shown else "")


class Batches(BatchesProcessedColumn):
    """Number of batches that are done. In passes over images it says so, since these have other numbers of images."""

    def __init__(self, trainer: pl.Trainer, style: str | Style) -> None:
        super().__init__(style=style)
        self._word = "" if trainer.state.fn == TrainerFn.FITTING else "batch "

    def render(self, task: Task) -> Text:
        """The text beside a bar."""
        return Text(f"{self._word}{super().render(task)}", style=self.style)


class TrainingProgress(RichProgressBar):
    """Lightning's progress bar with short names, epochs counted from 1, and the remaining time of the training.

    Lightning itself only shows times of an epoch. The time left is estimated from the time per batch so far,
    validations included.

    Args:
        validation: the word for a pass over images without training; None tells validations from evaluations.
        epochs: the word for the epochs of the training.
        **arguments: see Lightning.
    """

    _start = 0.0
    _said = 0.0
    _done = 0

    def __init__(self, validation: str | None = None, epochs: str = "epoch", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._validation, self._epochs = validation, epochs

    def configure_columns(self, trainer: pl.Trainer) -> list[ProgressColumn]:
        """The columns before the figures."""
        bar = CustomBarColumn(
            bar_width=BAR, complete_style=self.theme.progress_bar, finished_style=self.theme.progress_bar_finished
        )
        batches = Batches(trainer, style=self.theme.batch_progress)
        return [TextColumn("{task.description}"), bar, batches, TimeLeft(trainer)]

    @property
    def validation_description(self) -> str:
        """The words before the bar of a validation."""
        fits = self.trainer.state.fn == TrainerFn.FITTING
        return f"{self._validation or ('validation' if fits else 'evaluation'):{WORDS}}"

    @property
    def predict_description(self) -> str:
        """The words before the bar of predictions."""
        data: ViewData | None = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in `predict`
        store = None if data is None else data.val
        return f"{'predicting':{WORDS}}" if store is None else f"predicting {len(store)} images"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Counts the time to the first line from here."""
        super().setup(trainer, pl_module, stage)
        self._said = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._start, self._done = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts a batch and updates the bar."""
        self._done += 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._is_silent():
            words = self._get_train_description(trainer.current_epoch)
            figures = ", ".join(f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items())
            log.info("%s, batch %d/%s: %s", words.strip(), batch_idx + 1, trainer.num_training_batches, figures)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates the bar of a validation or an evaluation."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._is_silent():
            log.info("%s, batch %d/%s", self.validation_description.strip(), batch_idx + 1, trainer.num_val_batches[0])

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates the bar of predictions."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._is_silent():
            log.info("%s, batch %d/%s", self.predict_description.strip(), batch_idx + 1, trainer.num_predict_batches[0])

    def _is_silent(self) -> bool:
        """Whether a line is due: there is no terminal for a bar, and the last line is `LINES` seconds old."""
        if self._console is None or self._console.is_interactive or time.monotonic() - self._said < LINES:
            return False
        self._said = time.monotonic()
        return True

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The figures logged with ``prog_bar=True`` by their short names, and the time left, as far as they fit."""
        figures: dict[str, Any] = {**super().get_metrics(trainer, pl_module)}
        figures.pop("v_num", None)
        left = batches_left(trainer)
        if left and self._done:
            figures["left"] = duration((time.monotonic() - self._start) / self._done * left)
        return fitting({short(name): number(value) for name, value in figures.items()}, self._room(trainer))

    def _room(self, trainer: pl.Trainer) -> int:
        """Characters of a line that are left for figures."""
        total = f"{trainer.num_training_batches}"
        words = self._get_train_description(trainer.current_epoch)
        width = 80 if self._console is None else self._console.width
        return width - len(words) - BAR - 2 * len(total) - len(" /   ")

    def _get_train_description(self, current_epoch: int) -> str:
        """Returns ``epoch 1/12``, without the total for an unlimited number of epochs.

        A private method, checked with Lightning 2.6; `tests/callbacks/test_private_lightning.py` fails when it moves.
        """
        epochs = self.trainer.max_epochs or 0
        of = f"/{epochs}" if epochs > 0 else ""
        return f"{f'{self._epochs} {current_epoch + 1}{of}':{WORDS}}"


def short(name: str) -> str:
    """Shortens a figure's name for the progress bar: ``views/s`` for ``train/views_per_s``."""
    if name == keys.MEMORY:
        return "GB"
    return name.removeprefix("train/").replace("_per_", "/").replace("_", " ")


def number(value: Any) -> str:
    """A number in four digits or so; texts stay."""
    if isinstance(value, str):
        return value
    return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def duration(seconds: float) -> str:
    """A time as ``h:mm:ss``."""
    return str(timedelta(seconds=round(seconds)))


def fitting(figures: dict[str, str], room: int) -> dict[str, str]:
    """Leaves out figures for which a line has no room. The loss and the time left come first, then the others.

    Args:
        figures: by name, shown as ``NAME: FIGURE``, with a space between.
        room: characters.
    """
    order = sorted(figures, key=lambda name: name not in ("loss", "left"))
    kept: set[str] = set()
    for name in order:
        room -= len(f"{name}: {figures[name]} ")
        if room < -1:
            break
        kept.add(name)
    return {name: value for name, value in figures.items() if name in kept}


def batches_left(trainer: pl.Trainer) -> int | None:
    """Counts remaining batches, if all epochs are as long as this one; None if epochs and steps are unlimited."""
    counts = []
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]  # its default
    epochs = trainer.max_epochs or 0
    if epochs > 0:
        counts.append((epochs - trainer.current_epoch) * trainer.num_training_batches - done)
    if trainer.max_steps > 0:
        counts.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    return max(0, round(min(counts))) if counts else None
