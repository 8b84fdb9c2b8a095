"""``metrics.csv``: every row on the disk at once, and a run that goes on continues its file."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from lightning_det.system.files import atomic_write


class CSVLog(Logger):
    """Logs figures as rows of ``metrics.csv``, a column each, and the step.

    Lightning's `CSVLogger` deletes what an earlier part of the run wrote, and keeps rows in memory between its saves.
    Here an interruption loses nothing, a row that it cut is dropped, and rows of steps that are done again, because
    the run went on from an earlier checkpoint, are replaced.

    Args:
        save_dir: folder of ``metrics.csv``.

    Attributes:
        after_row: called when a row is on the disk.
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.file = Path(save_dir) / "metrics.csv"
        self._columns: list[str] | None = None
        self.after_row: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """Of the logger; Lightning names things by it."""
        return ""

    @property
    def version(self) -> str:
        """There is one log per run folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of ``metrics.csv``."""
        return str(self.file.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds a row."""
        step = 0 if step is None else step
        if self._columns is None:
            rows = [row for row in _rows(self.file) if int(row["step"]) < step]
            self._columns = sorted({name for row in rows for name in row})
            if self.file.exists():
                self._rewrite(rows)
        row = {name: v.item() if hasattr(v, "item") else v for name, v in metrics.items()} | {"step": step}
        new = [name for name in row if name not in self._columns]
        if new:
            rows = _rows(self.file)
            self._columns = sorted({*self._columns, *new})
            self._rewrite([*rows, row])
        else:
            with self.file.open("a", newline="") as stream:
                stream.write(_text([row], self._columns))
        if self.after_row is not None:
            self.after_row()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        with atomic_write(self.file) as stream:
            stream.write(_text([dict(zip(self._columns, self._columns, strict=True)), *rows], self._columns))


def _rows(file: Path) -> list[dict[str, str]]:
    """Complete rows of a log, without empty fields."""
    if not file.exists():
        return []
    text = file.read_text()
    complete = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(complete))
    return [{name: value for name, value in row.items() if value} for row in rows]


def _text(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
