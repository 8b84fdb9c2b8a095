"""``data.batch_size=auto``: finds the largest training batch that fits into memory.

Lightning's `Tuner.scale_batch_size` is not used. It tries the first batches of an epoch, but ours differ in size, and
the largest one has to fit; its callback refuses several ranks; and it measures nothing on a CPU, where a process that
runs out of memory is killed.
"""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.memory import garbage_collection_cuda
from pytorch_lightning.utilities.seed import isolate_rng

from lightning_det.annotations import AnnotationStore
from lightning_det.checkpoint import load_checkpoint
from lightning_det.config.data import build_data
from lightning_det.config.module import build_module
from lightning_det.config.trainer import build_trainer
from lightning_det.runs.launch import meeting_point, shared_store
from lightning_det.runs.rendezvous import expected_ranks
from lightning_det.runs.resume import is_unstarted
from lightning_det.runs.trial import Trial
from lightning_det.system.errors import out_of_memory
from lightning_det.system.interrupt import is_started_by_lightning
from lightning_det.system.workload import available_memory

log = logging.getLogger("lightning_det")

AUTO = "auto"

FEWEST_STEPS = 10
"""A batch is at most so large that an epoch has this many optimizer steps: fewer learn too little."""

DEVICE_SHARE = 0.9
"""Share of the accelerator's memory that the search may use. The rest is for averages of weights, the gradients that
ranks exchange, and fragmentation."""

CPU_SHARE = 0.5
"""Share of the available memory that a batch may take on a CPU."""

CPU_LARGEST = 16
"""Largest batch on a CPU, where larger ones are not faster."""

BACKWARD = 2.0
"""Memory of a training step on a CPU, in units of what its forward pass keeps for the backward pass."""

HANDED = "LIGHTNING_DET_BATCH_SIZE"
"""Environment variable with which the first process of a node tells the number to the processes that it starts."""

PATIENCE = timedelta(hours=1)
"""How long ranks wait for the search of the slowest one."""


def settle_batch_size(cfg: DictConfig, store: AnnotationStore, folder: Path) -> DictConfig:
    """Replaces ``data.batch_size=auto`` by a number, which is the same on all ranks. It is logged.

    A resumed run takes the number that it began with. Random numbers drawn here do not shift those drawn afterwards.

    Args:
        cfg: the whole configuration.
        store: images to learn from.
        folder: the run folder.
    """
    if cfg.data.get("batch_size") != AUTO:
        return cfg
    number, why = _recorded(cfg), "as the run began"
    if number is None and is_started_by_lightning():
        number = int(os.environ[HANDED])
    if number is None:
        number, why = find_batch_size(cfg, store, folder)
        number = agree(number, expected_ranks(cfg.trainer))
        os.environ[HANDED] = str(number)
    log.info("data.batch_size=auto: %d (%s)", number, why)
    cfg = cfg.copy()
    cfg.data.batch_size = number
    return cfg


def _recorded(cfg: DictConfig) -> int | None:
    """The number that a resumed run began with; None if there is none."""
    if cfg.get("resume") is None:
        return None
    if is_unstarted(cfg.resume):
        file = Path(cfg.resume) / "config.yaml"
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    else:
        settings = load_checkpoint(cfg.resume, "last")["hyper_parameters"]["settings"]
    number = OmegaConf.select(OmegaConf.create({"data": (settings or {}).get("data")}), "data.batch_size")
    return number if isinstance(number, int) else None


def find_batch_size(cfg: DictConfig, store: AnnotationStore, folder: Path) -> tuple[int, str]:
    """Finds the largest batch that a training step has memory for, and says what limits it.

    Args:
        cfg: the whole configuration.
        store: images to learn from.
        folder: the run folder.

    Raises:
        RuntimeError: not even one view fits.
    """
    cfg = cfg.copy()
    cfg.module.compiled = None  # every size would be compiled anew
    with isolate_rng():
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        trainer = build_trainer(cfg, folder, learning=False)
        trial = Trial(build_module(cfg, store.label_map), build_data(cfg, store, None), store, trainer)
        steps = FEWEST_STEPS * trainer.accumulate_grad_batches * trainer.world_size
        most = max(1, trial.views // steps)
        if trial.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(DEVICE_SHARE, trial.device)
            try:
                number = largest_that_fits(trial.step, sizes_up_to(most))
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0, trial.device)
        else:
            number = _fits_on_cpu(trial, min(most, CPU_LARGEST))
    if number == most:
        kept = "keeps" if trial.views >= steps else "cannot have"
        return number, f"an epoch of {trial.views} views {kept} {FEWEST_STEPS} steps"
    if trial.device.type == "cpu" and number == CPU_LARGEST:
        return number, "larger ones are not faster on a CPU"
    return number, f"the largest that fits into the memory of {trial.device}"


def sizes_up_to(most: int) -> list[int]:
    """Sizes to try: powers of two, 1.5 times these, and ``most``. Rough steps give the same number in every run."""
    powers = [2**n for n in range(most.bit_length())]
    return sorted({size for power in powers for size in (power, power * 3 // 2) if size < most} | {most})


def largest_that_fits(step: Callable[[int], None], sizes: Sequence[int]) -> int:
    """Tries ascending sizes until one runs out of memory, and returns the one before.

    Args:
        step: does a training step with a batch of a size.
        sizes: to try.

    Raises:
        RuntimeError: the smallest size runs out of memory.
    """
    best = None
    for size in sizes:
        try:
            step(size)
        except Exception as error:
            if not out_of_memory(error) or best is None:
                raise
            break
        finally:
            garbage_collection_cuda()
        best = size
    if best is None:
        raise ValueError("no size to try")
    return best


def _fits_on_cpu(trial: Trial, most: int) -> int:
    """The largest size whose training step takes its share of the available memory.

    Running out of memory ends a process on a CPU, so nothing is tried: the bytes that one and two views keep for the
    backward pass tell those of more.
    """
    if most == 1:
        return 1
    one, two = trial.kept_bytes(1), trial.kept_bytes(2)
    budget = CPU_SHARE * available_memory()
    fitting = [size for size in sizes_up_to(most) if BACKWARD * (one + (size - 1) * (two - one)) <= budget]
    return max(fitting, default=1)


def agree(number: int, ranks: int | None) -> int:
    """The smallest number of all ranks that a launcher has started.

    Args:
        number: of this rank.
        ranks: how many there are; None if that is unknown, and the first one decides.
    """
    point = meeting_point()
    if point is None:
        return number
    store, key = shared_store(point), f"lightning_det/batch_size/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    store.set(f"{key}/{point.rank}", str(number))
    if point.rank == 0:
        others = [f"{key}/{rank}" for rank in range(1, ranks or 1)]
        store.wait([f"{key}/0", *others], PATIENCE)
        store.set(key, str(min([number, *(int(store.get(other)) for other in others)])))
    store.wait([key], PATIENCE)
    return int(store.get(key))
