"""Callbacks that restore their state from a checkpoint, but keep the settings given now."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from lightning_det.callbacks.access import callbacks_of

log = logging.getLogger("lightning_det")

UNSTOPPED = (EarlyStoppingReason.NOT_STOPPED.value, EarlyStoppingReason.PATIENCE_EXHAUSTED.value)


class KeepSettings(pl.Callback):
    """Keeps Lightning's callbacks from restoring settings along with their state.

    - `EarlyStopping` would use the checkpoint's patience, and would continue after it had stopped: a run that was
      killed at its end and resumed would have one more epoch than an uninterrupted run.
    - `ModelCheckpoint` would forget the best score if the folder was moved or the saving interval changed, and would
      then overwrite the best checkpoint with a worse one. It would also use the checkpoint's number of files, and keep
      nothing that is worse than a file that was deleted.
    """

    def __init__(self) -> None:
        self._stopped = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Changes the states in a checkpoint before the callbacks load them."""
        states = checkpoint["callbacks"]
        before, now = checkpoint["hyper_parameters"]["settings"], pl_module.hparams["settings"]
        for callback in callbacks_of(trainer):
            if isinstance(callback, EarlyStopping) and callback.state_key in states:
                state = states[callback.state_key]
                self._stopped |= has_stopped(
                    state, callback.patience, early_stopping_nodes(before) == early_stopping_nodes(now)
                )
                states[callback.state_key] = state | {"patience": callback.patience}
            if isinstance(callback, ModelCheckpoint) and (state := _state_of_best(callback, states)):
                states[callback.state_key] = retain_best(state, callback)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops at once if early stopping had ended the training before."""
        trainer.should_stop = trainer.should_stop or self._stopped


def early_stopping_nodes(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of all `EarlyStopping` callbacks without their patience, by the name of the callback.

    They are recognised by the name of the class, as Lightning does in the key of their state. A class that a checkpoint
    names is not imported.

    Args:
        settings: as plain data.
    """
    nodes = {name: node for name, node in (settings.get("callbacks") or {}).items() if isinstance(node, dict)}
    nodes = {name: node for name, node in nodes.items() if _class_name(node) == EarlyStopping.__qualname__}
    return {name: {k: v for k, v in node.items() if k != "patience"} for name, node in nodes.items()}


def _class_name(node: Mapping[str, Any]) -> str:
    """The name of the class that a node makes, without its module."""
    return str(node.get("_target_")).rpartition(".")[2]


def has_stopped(state: Mapping[str, Any], patience: int, same: bool) -> bool:
    """Whether an `EarlyStopping` has ended a training, and would also do so with the current settings.

    Args:
        state: its state in a checkpoint.
        patience: the current setting.
        same: whether its other settings are those of the checkpoint.
    """
    # Lightning looks at its patience after a validation without an improvement only.
    return state["wait_count"] >= max(1, patience) or (
        same and state.get("stopping_reason", UNSTOPPED[0]) not in UNSTOPPED
    )


def _state_of_best(callback: ModelCheckpoint, states: Mapping[str, Any]) -> dict[str, Any] | None:
    """Finds the state of a `ModelCheckpoint` that monitored the same figure. Its key also has the interval.

    The format of the key is private; checked with Lightning 2.6, `tests/callbacks/test_private_lightning.py` fails when
    it changes.
    """
    if callback.state_key in states:
        return states[callback.state_key]
    kind, mode = callback.state_key.partition("{")[0], f"'mode': {callback.mode!r}"
    found = [s for key, s in states.items() if key.startswith(f"{kind}{{") and mode in key]
    found = [state for state in found if callback.monitor is not None and state["monitor"] == callback.monitor]
    return found[0] if len(found) == 1 else None


def retain_best(state: Mapping[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """Limits the state of a `ModelCheckpoint` to files that exist in its folder, and to the current number of files.

    Args:
        state: its state in a checkpoint.
        callback: the one that will load it.
    """
    best = dict(state["best_k_models"])
    before, folder = state["dirpath"], callback.dirpath
    if before != folder and before and folder:
        moved = {path: str(Path(folder) / Path(path).relative_to(before)) for path in best}
        if not best or not all(Path(path).is_file() for path in moved.values()):
            return dict(state)  # a new folder gets its own best checkpoint; Lightning warns about that
        state = {**state, "dirpath": folder, "last_model_path": ""}
        best = {moved[path]: score for path, score in best.items()}
    if deleted := [path for path in best if not Path(path).is_file()]:
        log.warning("resume: %s is gone; the best checkpoint from now on is kept", ", ".join(deleted))
        best = {path: score for path, score in best.items() if path not in deleted}
        state = {**state, "best_k_models": {}, "best_model_path": "", "best_model_score": None}
    order = sorted(best, key=lambda path: float(best[path]), reverse=callback.mode == "max")
    if callback.save_top_k > 0:
        order = order[: callback.save_top_k]
    if not order:
        return dict(state)
    return {
        **state,
        "best_k_models": {path: best[path] for path in best if path in order},
        "best_model_path": order[0],
        "best_model_score": best[order[0]],
        "kth_best_model_path": order[-1],
        "kth_value": best[order[-1]],
    }
