"""The checks of a configuration."""

from lightning_det.config import (
    validated,
)
from lightning_det.runs.command import overridden_keys


def accepted(cfg):
    """What `checked` does, without a look at the lists of strategies: Hydra takes a while to repeat them."""
    return validated(cfg, {}, overridden_keys())
