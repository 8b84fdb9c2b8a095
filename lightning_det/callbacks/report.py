"""Settings of the report that a run ends with."""

from pathlib import Path

import pytorch_lightning as pl

REPORT = "report.html"
"""Name of the file in a run folder."""


class Report(pl.Callback):
    """Asks for ``report.html`` at the end of a run, and removes the one of an earlier end when a training goes on.

    So an interrupted training has none. The command writes it, when all figures of the run are there.

    Args:
        folder: the run folder.
        worst: number of images with the most errors to show.
        best: number of images with the fewest errors to show.
    """

    def __init__(self, folder: str, worst: int = 12, best: int = 6):
        if worst < 0 or best < 0:
            raise ValueError(f"worst and best are numbers of images, at least 0, got {worst} and {best}")
        self.file = Path(folder) / REPORT
        self.worst = worst
        self.best = best

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Removes an earlier report. Where nothing is left to train, Lightning does not get here."""
        if trainer.is_global_zero:
            self.file.unlink(missing_ok=True)
