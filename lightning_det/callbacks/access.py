"""Typed access to the parts of a training that Lightning hands to callbacks without types."""

from typing import TypeVar, cast

import pytorch_lightning as pl

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.datamodule import ViewData
from lightning_det.modules.module import DetectionModule

Kind = TypeVar("Kind", bound=pl.Callback)


def data_of(trainer: pl.Trainer) -> ViewData:
    """Returns the DataModule of a training or validation."""
    return trainer.datamodule  # type: ignore[attr-defined]  # a property that Lightning adds to the class later


def module_of(pl_module: pl.LightningModule) -> DetectionModule:
    """Narrows the module that a callback's hook gets. Hooks cannot declare it: Lightning's signatures are wider."""
    return cast(DetectionModule, pl_module)


def train_store(trainer: pl.Trainer) -> AnnotationStore:
    """Returns the images that a training learns from."""
    store = data_of(trainer).train
    assert store is not None, "a training has images"
    return store


def val_store(trainer: pl.Trainer) -> AnnotationStore:
    """Returns the images of a validation."""
    store = data_of(trainer).val
    assert store is not None, "a validation has images"
    return store


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Returns all callbacks of a trainer."""
    return trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's callback connector


def find_callback(trainer: pl.Trainer, kind: type[Kind]) -> Kind | None:
    """Finds the first callback of a class; None if there is none."""
    return next((c for c in callbacks_of(trainer) if isinstance(c, kind)), None)
