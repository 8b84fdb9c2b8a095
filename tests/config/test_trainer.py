"""The trainer: what of Lightning's it replaces."""

import inspect

import pytest
import pytorch_lightning as pl

from lightning_det.config.trainer import build_trainer


@pytest.mark.parametrize("steps", [-1, 7])
def test_a_run_starts_again_by_epochs(composed, tmp_path, steps):
    cfg = composed("train", f"trainer.max_steps={steps}")
    cfg.callbacks = cfg.logger = None
    trainer = build_trainer(cfg, tmp_path)
    assert trainer.max_steps == steps
    assert not trainer.fit_loop._iteration_based_training()


def test_lightning_still_asks_the_method_that_is_replaced():
    """It is private: if this fails, look where Lightning now decides that a checkpoint is from within an epoch."""
    loop = type(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit_loop)
    assert "trainer.max_steps != -1" in inspect.getsource(loop._iteration_based_training)
    assert "self._iteration_based_training()" in inspect.getsource(loop.restarting.fset)
    assert inspect.getsource(loop).count("self._iteration_based_training()") == 2
