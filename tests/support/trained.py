"""A small trained detector, for all tests of what is done with one."""

from pathlib import Path

from helpers import SMALL

from support.in_process import run
from support.shared import made_once

OPTIONS = ("seed=3", "trainer.max_epochs=1", "trainer.enable_progress_bar=false")


def trained_run(factory, shapes_root) -> Path:
    """The run folder of a detector with seed 3, trained for one epoch of `SMALL`; its files must stay as they are."""

    def train(folder: Path) -> str:
        outcome = run("train", *SMALL, *OPTIONS, f"dataset.root={shapes_root}", f"hydra.run.dir={folder}")
        assert outcome.code == 0, outcome.errors
        return ""

    return made_once(factory, "trained_for_python", train)[0]
