"""Imported by the process that test commands are forked from, so that they need not do it each.

It never computes anything: torch's threads do not survive a fork.
"""

import gc

import matplotlib.pyplot  # noqa: F401
import pycocotools.cocoeval  # noqa: F401
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import lightning_det.commands.eval
import lightning_det.commands.inspect
import lightning_det.commands.predict
import lightning_det.commands.train  # noqa: F401
from lightning_det.config import CONF, read_option, register_schema
from lightning_det.inspection import probe
from lightning_det.runs.numbering import register_numbering
from support import composing

composing.install()
probe.PATIENCE, probe.BATCH = 0.0, 2  # of `inspect`, which measures the machine for seconds
register_schema()
register_numbering()
# Composing once reads the files of the config folder and warms the parser of overrides.
initialize_config_dir(config_dir=str(CONF), version_base="1.3")
for command in ("train", "eval", "predict"):  # and the same options need not be merged again
    compose(command)
compose("train", overrides=["debug=limit", "strategy=[sniper,flip]", "dataset.resolution=[96,128]"])
GlobalHydra.instance().clear()
# Checks of lists of options compose each one, which a process remembers.
for option in ("single_scale", "flip", "sniper_no_negatives", "ohem"):
    read_option(f"strategy/{option}")
gc.set_threshold(10_000, 20, 100)  # as in `conftest`; it holds for those that are forked too
