"""Checks that all ranks have the same configuration."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from lightning_det.system.errors import ConfigError


class SameConfiguration(pl.Callback):
    """Stops a training whose ranks have different configurations, which would go unnoticed otherwise.

    This can happen if a launcher starts each rank with its own command line, environment or checkout.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the settings of all ranks with those of the first one.

        Raises:
            ConfigError: they differ. Raised on every rank, so that none waits for another.
        """
        own = pl_module.hparams["settings"]
        first, *others = (trainer.strategy.broadcast(own, src=rank) for rank in range(trainer.world_size))
        for rank, other in enumerate(others, start=1):
            if differing := sorted(differences(first, other)):
                raise ConfigError(
                    f"rank {rank} has another configuration than rank 0: {', '.join(differing)}; start all ranks with "
                    "the same command"
                )


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Lists the dotted keys whose values differ between two pieces of plain data, in their order."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = dict.fromkeys((*first, *second))  # in their order: a set of strings has another one in each process
        return [
            found
            for key in keys
            for found in differences(first.get(key), second.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if first == second else [path]
