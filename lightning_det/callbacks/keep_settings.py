"""What a checkpoint says of callbacks, under the settings given now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

UNSTOPPED = (EarlyStoppingReason.NOT_STOPPED.value, EarlyStoppingReason.PATIENCE_EXHAUSTED.value)


class KeepSettings(pl.Callback):
    """Keeps Lightning's callbacks from restoring settings along with their state.

    - `EarlyStopping` would take the checkpoint's patience, and would train on where it had stopped: a run that was
      killed at its end would have an epoch more than one that was not.
    - `ModelCheckpoint` would forget the best score where the folder has moved, or where it saves at other times, and
      overwrite the best checkpoint with a worse one; and would go on to keep as many as before.
    """

    def __init__(self):
        self._stopped = False

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Changes the states before the callbacks load them."""
        states = checkpoint["callbacks"]
        before, now = checkpoint["hyper_parameters"]["settings"], pl_module.hparams["settings"]
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping) and callback.state_key in states:
                state = states[callback.state_key]
                self._stopped |= has_stopped(
                    state, callback.patience, early_stopping_nodes(before) == early_stopping_nodes(now)
                )
                states[callback.state_key] = state | {"patience": callback.patience}
            if isinstance(callback, ModelCheckpoint) and (state := _state_of_best(callback, states)):
                states[callback.state_key] = retain_best(state, callback)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends what had ended."""
        trainer.should_stop = trainer.should_stop or self._stopped


def early_stopping_nodes(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes of settings that describe an `EarlyStopping`, without its patience."""
    nodes = {name: node for name, node in (settings.get("callbacks") or {}).items() if isinstance(node, dict)}
    nodes = {name: node for name, node in nodes.items() if str(node.get("_target_")).endswith(".EarlyStopping")}
    return {name: {k: v for k, v in node.items() if k != "patience"} for name, node in nodes.items()}


def has_stopped(state: Mapping[str, Any], patience: int, same: bool) -> bool:
    """Whether an `EarlyStopping` had ended a training, and still would.

    Args:
        state: of a checkpoint.
        patience: given now.
        same: whether its other settings are those of the checkpoint.
    """
    return state["wait_count"] >= patience or (same and state.get("stopping_reason", UNSTOPPED[0]) not in UNSTOPPED)


def _state_of_best(callback: ModelCheckpoint, states: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of a `ModelCheckpoint` that compared the same figure; its key also holds when it saves."""
    if callback.state_key in states:
        return states[callback.state_key]
    kind, mode = callback.state_key.partition("{")[0], f"'mode': {callback.mode!r}"
    found = [s for key, s in states.items() if key.startswith(f"{kind}{{") and mode in key]
    found = [state for state in found if callback.monitor is not None and state["monitor"] == callback.monitor]
    return found[0] if len(found) == 1 else None


def retain_best(state: Mapping[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """A `ModelCheckpoint`'s state with the checkpoints that lie in its folder now, as many as it is to keep.

    Args:
        state: of a checkpoint.
        callback: that will load it.
    """
    best = dict(state["best_k_models"])
    before, folder = state["dirpath"], callback.dirpath
    if before != folder and before and folder:
        moved = {path: str(Path(folder) / Path(path).relative_to(before)) for path in best}
        if not best or not all(Path(path).is_file() for path in moved.values()):
            return dict(state)  # a new folder, with a best of its own: Lightning says so
        state = state | {"dirpath": folder, "last_model_path": ""}
        best = {moved[path]: score for path, score in best.items()}
    order = sorted(best, key=lambda path: float(best[path]), reverse=callback.mode == "max")
    if callback.save_top_k > 0:
        order = order[: callback.save_top_k]
    if not order:
        return dict(state)
    kept = {path: best[path] for path in best if path in order}
    return state | {
        "best_k_models": kept,
        "best_model_path": order[0],
        "best_model_score": best[order[0]],
        "kth_best_model_path": order[-1],
        "kth_value": best[order[-1]],
    }
