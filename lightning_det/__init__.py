"""Detection research framework: which pixels, which boxes and which losses a detector learns from."""

import os
import sys

# Read once, when torch is loaded. By default, OpenMP's threads spin for milliseconds while they wait for each other. If
# anything else runs on the machine, this doubles the time of a training step; on an idle machine, it saves nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if any(word.startswith("lightning_det.") for word in sys.orig_argv[1:4]):  # python -m lightning_det.train
    from lightning_det.system.interrupt import install_handler

    install_handler()  # imports take seconds

__version__ = "0.1.0"
