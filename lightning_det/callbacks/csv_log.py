"""``metrics.csv`` that goes on with its run."""

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only


class CSVLog(CSVLogger):
    """Lightning's `CSVLogger`, which keeps what an earlier part of the run wrote: Lightning's deletes it.

    Rows of steps that are done again, because the run went on from an earlier checkpoint, are replaced.

    Args:
        save_dir: folder of ``metrics.csv``.
    """

    def __init__(self, save_dir: str):
        file = Path(save_dir) / "metrics.csv"
        self._before = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
        super().__init__(save_dir, name="", version="")

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs figures of a step."""
        writer = self.experiment
        if self._before:
            rows = [row for row in self._before if step is None or int(row["step"]) < step]
            writer.metrics = [{k: v for k, v in row.items() if v != ""} for row in rows]
            writer.save()  # the file is gone now: it must not take a whole interval of logging to come back
            self._before = []
        super().log_metrics(metrics, step)
