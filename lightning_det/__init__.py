"""Detection research framework: which pixels, which boxes and which losses a detector learns from.

In Python, `load` loads a trained detector, and `compose` builds the parts of a training (docs/python.md).
"""

import os
import sys
from typing import TYPE_CHECKING

from lightning_det.system.lazy import lazy_names

if TYPE_CHECKING:
    from lightning_det.api.detector import LoadedDetector
    from lightning_det.api.loading import load
    from lightning_det.api.training import TrainingParts, compose
    from lightning_det.inference.detections import ImageDetections
    from lightning_det.inference.truth import Truth
    from lightning_det.system.errors import UserError

# Read once, when torch is loaded. By default, OpenMP's threads spin for milliseconds while they wait for each other. If
# anything else runs on the machine, this doubles the time of a training step; on an idle machine, it saves nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Read when torch first allocates, on Linux: tensors of megabytes lie on pages of 2 MB instead of 4 KB. With views of
# several megapixels, inference has a sixth of the page faults and takes 20 % less CPU time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if any(word.startswith("lightning_det.") for word in sys.orig_argv[1:4]):  # python -m lightning_det.train
    from lightning_det.system.interrupt import install_handler

    install_handler()  # imports take seconds

__version__ = "0.1.0"

__all__ = ["ImageDetections", "LoadedDetector", "TrainingParts", "Truth", "UserError", "compose", "load"]

_MODULES = {
    "ImageDetections": "inference.detections",
    "LoadedDetector": "api.detector",
    "TrainingParts": "api.training",
    "Truth": "inference.truth",
    "UserError": "system.errors",
    "compose": "api.training",
    "load": "api.loading",
}
"""Modules of the names above, which are imported when the names are used: torch and Lightning take seconds."""

__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
