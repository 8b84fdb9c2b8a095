"""Finds settings that Lightning's trainer refuses before it starts, and explains its refusals by their keys."""

import inspect
import re
import traceback
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Precisions that detectors support. Weights and boxes stay in float32, which NMS and losses need."""

ALIASES = {None: "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


OWN = {
    "logger": " (logger=csv and others)",
    "callbacks": " (callbacks=[default] and others)",
    "plugins": "",
    "enable_checkpointing": " (callbacks.best and callbacks.last)",
    "default_root_dir": " (hydra.run.dir)",
    "use_distributed_sampler": "",
    "reload_dataloaders_every_n_epochs": "",
}
"""Arguments of the trainer that the commands set, and the keys to use instead."""


def trainer_problem(settings: Mapping[str, Any]) -> str:
    """Says why a trainer would fail later or ignore settings; empty if it would work.

    Args:
        settings: the node ``trainer``.
    """
    accelerator, precision = settings.get("accelerator", "auto"), settings.get("precision")
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not gpu:
        return (
            f"trainer.accelerator={accelerator}: torch {torch.__version__} finds no GPU on this machine; trainer=cpu "
            "does without"
        )
    own = [name for name in OWN if name in settings]
    if own:
        return f"trainer.{own[0]} is set by the commands themselves{OWN[own[0]]}; leave it out"
    if settings.get("overfit_batches"):
        return (
            f"trainer.overfit_batches={settings['overfit_batches']}: epochs draw their views anew, so each would "
            "have other batches; debug=overfit trains on eight images"
        )
    if not _is_time(settings.get("max_time")):
        return f"trainer.max_time must be days, hours, minutes and seconds as 00:12:00:00, got {settings['max_time']}"
    name = ALIASES.get(precision if precision is None else str(precision), precision)
    if name not in PRECISIONS:
        return f"trainer.precision must be {' or '.join(PRECISIONS)}, got {precision}"
    if name == "16-mixed" and (accelerator == "cpu" or not gpu):
        return f"trainer.precision={precision} needs a GPU; bf16-mixed and 32-true do without"
    return ""


def _is_time(value: Any) -> bool:
    """Whether Lightning reads a duration from a value."""
    if isinstance(value, Mapping):
        names = {"days", "hours", "minutes", "seconds", "weeks"}
        return set(value) <= names and all(isinstance(v, int | float) for v in value.values())
    return value is None or (isinstance(value, str) and re.fullmatch(r"\d+:\d+:\d+:\d+", value) is not None)


def explain_refusal(error: Exception) -> str | None:
    """Returns Lightning's message about refused settings, with their keys; None for other errors."""
    if not isinstance(error, MisconfigurationException):
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        module = frames[-1].f_globals.get("__name__", "") if frames else ""
        by_lightning = module.startswith(("pytorch_lightning.", "lightning_fabric."))
        if not (isinstance(error, ValueError | RuntimeError) and by_lightning):
            return None
    return name_keys(str(error))


def name_keys(text: str) -> str:
    """Replaces the trainer's arguments in a message of Lightning by keys of the configuration."""
    known = list(inspect.signature(pl.Trainer).parameters)
    longer = "|".join(name for name in known if "_" in name)  # the others are also ordinary words
    text = re.sub(rf"`?Trainer\((({'|'.join(known)})=[^)]*)\)`?", r"trainer.\1", " ".join(text.split()))
    text = re.sub(rf"`({'|'.join(known)})`", r"trainer.\1", text)
    text = re.sub(rf"(?<![\w.])({'|'.join(known)})(?==)", r"trainer.\1", text)
    text = re.sub(rf"(?<![\w.])({longer})(?![\w(])", r"trainer.\1", text)
    return text if "trainer." in text else f"trainer: {text}"
