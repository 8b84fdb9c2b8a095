"""The checks of a configuration."""

from lightning_det.config import (
    validate,
)
from lightning_det.runs.composition import overridden_keys


def accepted(cfg):
    """What `checked` does, without a look at the lists of strategies: Hydra takes a while to repeat them."""
    return validate(cfg, {}, overridden_keys())
