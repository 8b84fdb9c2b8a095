"""Reads checkpoints as data: the contents are checked before tensors are read, and nothing in a file is called."""

from lightning_det.checkpoint.plain import check_references, keep_references
from lightning_det.checkpoint.reading import (
    checkpoint_file,
    load_checkpoint,
    read_checkpoint,
    read_tensors,
    read_weights,
)
from lightning_det.checkpoint.structure import is_own

__all__ = [
    "check_references",
    "checkpoint_file",
    "is_own",
    "keep_references",
    "load_checkpoint",
    "read_checkpoint",
    "read_tensors",
    "read_weights",
]
