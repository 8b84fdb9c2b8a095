"""Label assignment and selection: which regions are positive and which carry loss, batched with static shapes."""

from lightning_det.selection.all import AllSelector
from lightning_det.selection.hard import HardSelector
from lightning_det.selection.priors import HardNegativeSelector
from lightning_det.selection.random import RandomSelector

__all__ = ["AllSelector", "HardNegativeSelector", "HardSelector", "RandomSelector"]
