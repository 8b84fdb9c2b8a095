"""Logs to a wandb run, which a resumed training continues."""

import json
import os
import secrets
from argparse import Namespace
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
"""File of a run folder with the ``id`` of its wandb run."""


class WandbLog(WandbLogger):
    """Lightning's `WandbLogger`, which continues the wandb run of an earlier part of the training.

    Offline, each part of the training writes a separate folder with the same id, and ``wandb sync`` joins them in
    chronological order.

    Args:
        save_dir: the run folder, which keeps the id in ``wandb.json``.
        name: of the run; None takes ``WANDB_NAME``, or lets wandb invent one.
        group: of runs; None takes ``WANDB_RUN_GROUP``.
        log_model: whether a training that succeeds logs its checkpoints as versions ``last`` and ``best`` of the
            artifact ``model-ID``. Unlike Lightning's own, this also works offline.
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
        # wandb reads the environment once per process, but there each job of a sweep has another name.
        name, group = name or os.environ.get("WANDB_NAME"), group or os.environ.get("WANDB_RUN_GROUP")
        super().__init__(name=name, save_dir=save_dir, id=run_id(Path(save_dir)), group=group, **arguments)
        self._checkpoints = Path(save_dir) / "checkpoints" if log_model else None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs a module's hyperparameters with ``settings`` resolved: checkpoints keep their interpolations."""
        given = dict(vars(params)) if isinstance(params, Namespace) else params
        settings = OmegaConf.to_container(OmegaConf.create(given["settings"]), resolve=True)
        # Not at the top level: wandb's agents lock the keys that they set there, and `detector` is a node here.
        super().log_hyperparams({**given, "settings": settings})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Logs the checkpoints if ``log_model`` is set. The best comes last, and so is also the ``latest``."""
        if status != "success" or self._checkpoints is None:
            return
        import wandb

        for file in sorted(self._checkpoints.glob("*.ckpt"), reverse=True):
            artifact = wandb.Artifact(f"model-{self.version}", "model", metadata={"file": file.name})
            artifact.add_file(str(file), file.name)
            self.experiment.log_artifact(artifact, aliases=[file.stem])


@contextmanager
def end_wandb_run(trainer: pl.Trainer) -> Iterator[None]:
    """Ends the wandb run after the body, as failed if it raises. Otherwise the next job of a sweep would log to it."""
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
    """Returns the id of a run folder's wandb run: from an earlier part, else ``WANDB_RUN_ID``, else a new one.

    On ranks other than zero, which do not log, it is None.
    """
    file = folder / FILE
    if file.exists():
        return json.loads(file.read_text())["id"]
    new = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    write_json(file, {"id": new})
    return new
