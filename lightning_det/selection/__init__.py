"""Which boxes are positives and which losses count: matching and selection, batched and static in shape."""

from lightning_det.selection.all import AllSelector
from lightning_det.selection.hard import HardSelector
from lightning_det.selection.priors import HardNegativeSelector
from lightning_det.selection.random import RandomSelector

__all__ = ["AllSelector", "HardNegativeSelector", "HardSelector", "RandomSelector"]
