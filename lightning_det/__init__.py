"""Detection research framework: which pixels, which boxes and which losses a detector learns from."""

__version__ = "0.1.0"
