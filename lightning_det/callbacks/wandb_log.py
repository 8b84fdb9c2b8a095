"""wandb's run that goes on with its run folder."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_det.files import write_json

FILE = "wandb.json"
"""Of a run folder: ``id``, which wandb knows the run by."""


class WandbLog(WandbLogger):
    """Lightning's `WandbLogger`, which continues the run that an earlier part of the training logged to.

    Online, the run goes on; offline, each part of the training leaves a folder of its own with the same id, and
    ``wandb sync`` puts them together in order of time.

    Args:
        save_dir: the run folder; it keeps the id in ``wandb.json``.
        name: of the run; None takes ``WANDB_NAME``, or lets wandb invent one.
        group: of runs; None takes ``WANDB_RUN_GROUP``.
        **arguments: see Lightning.
    """

    def __init__(self, save_dir: str, name: str | None = None, group: str | None = None, **arguments: Any):
        # wandb reads the environment once per process, but every job of a sweep has a name of its own there.
        name, group = name or os.environ.get("WANDB_NAME"), group or os.environ.get("WANDB_RUN_GROUP")
        super().__init__(name=name, save_dir=save_dir, id=run_id(Path(save_dir)), group=group, **arguments)


@rank_zero_only
def run_id(folder: Path) -> str:
    """The id of a run folder's wandb run: an earlier part's, else ``WANDB_RUN_ID``, else a new one.

    None on other ranks than zero, which do not log.
    """
    file = folder / FILE
    if file.exists():
        return json.loads(file.read_text())["id"]
    new = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    write_json(file, {"id": new})
    return new
