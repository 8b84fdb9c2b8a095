"""Checkpoints are data: what a file claims is checked before any of it is read, and nothing in it is called."""

from lightning_det.checkpoint.plain import check_references, keep_references
from lightning_det.checkpoint.reading import checkpoint_file, read_checkpoint, read_weights
from lightning_det.checkpoint.structure import is_own

__all__ = ["check_references", "checkpoint_file", "is_own", "keep_references", "read_checkpoint", "read_weights"]
