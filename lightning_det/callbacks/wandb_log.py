"""wandb's run that goes on with its run folder."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_det.system.files import write_json

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
        log_model: whether a training that ends well leaves its checkpoints as versions ``last`` and ``best`` of the
            artifact ``model-ID``, offline too; Lightning's own refuses that.
        **arguments: see Lightning.
    """

    def __init__(
        self,
        save_dir: str,
        name: str | None = None,
        group: str | None = None,
        log_model: bool = False,
        **arguments: Any,
    ):
        # wandb reads the environment once per process, but every job of a sweep has a name of its own there.
        name, group = name or os.environ.get("WANDB_NAME"), group or os.environ.get("WANDB_RUN_GROUP")
        super().__init__(name=name, save_dir=save_dir, id=run_id(Path(save_dir)), group=group, **arguments)
        self._checkpoints = Path(save_dir) / "checkpoints" if log_model else None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Logs a module's hyperparameters, with ``settings`` resolved: a checkpoint keeps references in them."""
        settings = OmegaConf.to_container(OmegaConf.create(params["settings"]), resolve=True)
        # Not at the top: wandb's agents lock what they set there, such as `detector`, which is a node here.
        super().log_hyperparams({**params, "settings": settings})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Logs the checkpoints, if that was asked for; the best comes last and so is also the ``latest``."""
        if status != "success" or self._checkpoints is None:
            return
        import wandb

        for file in sorted(self._checkpoints.glob("*.ckpt"), reverse=True):
            artifact = wandb.Artifact(f"model-{self.version}", "model", metadata={"file": file.name})
            artifact.add_file(str(file), file.name)
            self.experiment.log_artifact(artifact, aliases=[file.stem])


@contextmanager
def end_wandb_run(trainer: pl.Trainer) -> Iterator[None]:
    """Ends wandb's run with what is done inside, failed ones as failed: the next job of a sweep would log into it."""
    code = 1
    try:
        yield
        code = 0
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish(exit_code=code)


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
