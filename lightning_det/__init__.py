"""Detection research framework: which pixels, which boxes and which losses a detector learns from."""

import os

# Read once, when torch is loaded. By default OpenMP's threads burn their core for milliseconds while they wait for each
# other: with anything else running on the machine, a training step then takes twice as long; without, no shorter.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
