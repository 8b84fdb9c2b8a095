"""``metrics.csv``: each row is written to disk at once, and a resumed run continues its file."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_det.system.files import atomic_write


class CSVLog(Logger):
    """Logs figures to ``metrics.csv``: a column per figure, and the step.

    Lightning's `CSVLogger` deletes the file of an earlier part of the run, and keeps rows in memory between its saves.
    Here an interruption loses nothing. An incomplete row is dropped, and rows of steps that a resumed run repeats are
    replaced.

    Args:
        save_dir: folder of ``metrics.csv``.

    Attributes:
        after_row: called after each row is on disk.
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.file = Path(save_dir) / "metrics.csv"
        self._columns: list[str] | None = None
        self.after_row: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """Empty: there is one log per run folder."""
        return ""

    @property
    def version(self) -> str:
        """Empty: there is one log per run folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of ``metrics.csv``."""
        return str(self.file.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder has ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends a row, or rewrites the file if there is a new column."""
        step = 0 if step is None else step
        if self._columns is None:
            rows = [row for row in _rows(self.file) if int(row["step"]) < step]
            self._columns = sorted({name for row in rows for name in row})
            if self.file.exists():
                self._rewrite(rows, self._columns)
        row: dict[str, Any] = {n: v.item() if isinstance(v, Tensor | np.generic) else v for n, v in metrics.items()}
        row["step"] = step
        new = [name for name in row if name not in self._columns]
        if new:
            rows = _rows(self.file)
            self._columns = sorted({*self._columns, *new})
            self._rewrite([*rows, row], self._columns)
        else:
            with self.file.open("a", newline="") as stream:
                stream.write(_text([row], self._columns))
        if self.after_row is not None:
            self.after_row()

    def _rewrite(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        with atomic_write(self.file) as stream:
            stream.write(_text([dict(zip(columns, columns, strict=True)), *rows], columns))


def _rows(file: Path) -> list[dict[str, str]]:
    """Reads the complete rows of a log, without empty fields."""
    if not file.exists():
        return []
    text = file.read_text()
    complete = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(io.StringIO(complete))
    return [{name: value for name, value in row.items() if value} for row in rows]


def _text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Formats rows as lines of CSV."""
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
