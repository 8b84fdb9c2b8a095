"""Reads checkpoints and weights: their outline is checked first, then their tensors are read."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_det.checkpoint.outdated import refuse_outdated, update_former
from lightning_det.checkpoint.outline import OutlineError, StoredTensor, outline
from lightning_det.checkpoint.structure import check_own, check_weights, is_own
from lightning_det.system.errors import UserError

NESTED = ("state_dict", "model", "model_state_dict", "model_state", "weights")
"""Keys under which other packages save weights together with other data."""


def checkpoint_file(path: str | Path, prefer: str = "best") -> Path:
    """Finds the checkpoint file of a run folder, or returns the given file.

    Args:
        path: run folder or file.
        prefer: ``best`` or ``last``. Runs without validation have no best checkpoint; their last one is taken.

    Raises:
        UserError: there is no such checkpoint.
    """
    path = Path(path)
    files = [path / "checkpoints" / f"{name}.ckpt" for name in (prefer, "last")] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(f"{files[0]}: no such checkpoint")
    return file


def read_checkpoint(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint of this package, after checking all of its parts.

    Args:
        file: see `checkpoint_file`.
        map_location: device of the tensors, as in ``torch.load``.

    Raises:
        UserError: the file is damaged, contains more than tensors and plain data, or was not written by a training.
    """
    claimed = _outline(file, "checkpoint", "give a run folder or its *.ckpt")
    if not is_own(claimed):
        raise UserError(f"{file}: not a checkpoint of lightning-det (load other weights with train's weights=FILE)")
    try:
        check_own(claimed)
    except ValueError as error:
        raise UserError(
            f"{file}: not a checkpoint that lightning-det has left: {error}; take another checkpoint of the run, or "
            "train it anew"
        ) from error
    return _read(file, "checkpoint", "give a run folder or its *.ckpt", map_location)


def load_checkpoint(path: str | Path, prefer: str = "best") -> dict[str, Any]:
    """Reads the checkpoint of a file or run folder, for use with its settings, see `read_checkpoint`.

    Args:
        path: a file, or a run folder.
        prefer: ``best`` or ``last`` of a run folder.

    Raises:
        UserError: the file does not exist, is not a checkpoint of this package, or was written by an earlier version.
    """
    file = checkpoint_file(path, prefer)
    content = read_checkpoint(file)
    refuse_outdated(content["hyper_parameters"]["settings"], file)
    update_former(content["hyper_parameters"]["settings"])
    return content


def read_weights(file: Path) -> dict[str, Any]:
    """Reads a checkpoint of this package (see `read_checkpoint`), or a state_dict of another one (.pth, .safetensors).

    Args:
        file: see `checkpoint_file`.

    Raises:
        UserError: the file is neither.
    """
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    remedy = "give one of our checkpoints, or a state_dict that torch.save or safetensors has written"
    claimed = _outline(file, "weights", remedy)
    if is_own(claimed):
        return read_checkpoint(file)
    if not isinstance(claimed, dict) or not any(isinstance(v, StoredTensor) for v in claimed.values()):
        inner = next((n for n in NESTED if isinstance(claimed, dict) and isinstance(claimed.get(n), dict)), None)
        remedy = ""
        if inner is not None:
            remedy = f"; the weights seem to be in its {inner!r}: save torch.load(FILE)[{inner!r}] alone"
        raise UserError(f"{file}: not weights: neither one of our checkpoints nor a state_dict{remedy}")
    try:
        check_weights(claimed, "state_dict")
    except ValueError as error:
        raise UserError(f"{file}: not weights: {error}") from error
    return _read(file, "weights", remedy, "cpu")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads nothing but the tensors of weights, see `read_weights`.

    Args:
        path: a file, or a run folder.
    """
    content = read_weights(checkpoint_file(path))
    return content["state_dict"] if is_own(content) else content


def _read_safetensors(file: Path) -> dict[str, Any]:
    """Reads a file of the format safetensors, which holds tensors only."""
    try:
        content = load_file(file)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{file}: cannot be read as weights: {why[:200]}; give another file") from error
    if not content:
        raise UserError(f"{file}: not weights: it holds no tensor")
    return dict(content)


def _outline(file: Path, what: str, remedy: str) -> Any:
    try:
        return outline(file)
    except (OutlineError, OSError) as error:
        raise UserError(f"{file}: cannot be read as {_article(what)}: {_unreadable(error)}; {remedy}") from error


def _read(file: Path, what: str, remedy: str, map_location: Any) -> dict[str, Any]:
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(f"{file}: cannot be read as {_article(what)}: {_unreadable(error)}; {remedy}") from error


def _article(what: str) -> str:
    return what if what.endswith("s") else f"a {what}"


def _unreadable(error: Exception) -> str:
    """Says why a file was refused. torch's message would suggest loading it unsafely, which runs code in the file."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is damaged, or holds more than tensors and plain data, which could run anything and is not loaded"
