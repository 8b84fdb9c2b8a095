"""What the processes of a run have in common: when it was started, and that none outlives it."""

import ctypes
import os
import signal
import sys
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

from omegaconf import OmegaConf
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch.distributed import DistError, TCPStore

from lightning_det.system.errors import ConfigError
from lightning_det.system.interrupt import PARENT, is_lightnings

LIMIT = "LIGHTNING_DET_MEETING"
"""Environment variable: seconds that ranks wait for each other where they meet."""


def limit() -> float:
    """`LIMIT`, or a minute.

    Raises:
        ConfigError: it is no number of seconds.
    """
    given = os.environ.get(LIMIT, "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{LIMIT}={given}: seconds, such as 600")
    return seconds


class Meeting(NamedTuple):
    """Where the ranks of a run meet, before they train and after: torch's process group shares the port."""

    address: str
    port: int
    rank: int
    hosts: bool
    """Whether this rank serves the others."""


def end_with_parent() -> None:
    """Has Linux end this process with the one that started it, if that is a sweep, or the first rank for Lightning.

    A rank that is killed cannot tell the others, who wait for it with their devices until torch gives up.
    """
    mine = os.environ.get(PARENT) == str(os.getppid())
    if sys.platform == "linux" and (mine or is_lightnings()):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def is_first() -> bool:
    """Whether this process is the first rank of its run, or its only one: others leave the run's folder to it."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order
    rank = next((os.environ[name] for name in ranks if name in os.environ), "0")
    return rank == os.environ.get("NODE_RANK", "0") == "0"


def register_started() -> None:
    """Makes ``${started:PATTERN}`` known, for folders that all ranks of a run shall share.

    Hydra's ``${now:PATTERN}`` is the clock of every process: ranks would have folders a second apart.
    """
    OmegaConf.register_new_resolver("started", lambda pattern: _moment().strftime(pattern), replace=True)


@cache
def _moment() -> datetime:
    """This moment, or what the first rank takes for it.

    Raises:
        ConfigError: the first rank cannot be asked.
    """
    now, place = datetime.now(), meeting()
    if place is None:
        return now
    key = f"lightning_det/started/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = store_of(place)
        if place.rank == 0:
            store.set(key, now.isoformat())
        return datetime.fromisoformat(store.get(key).decode())
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"rank {place.rank} cannot ask rank 0 at {place.address}:{place.port} for the run's folder ({reason}); "
            f"start all ranks with the same command and launcher, within {limit():g} s of each other or with "
            f"{LIMIT}=SECONDS, or give hydra.run.dir"
        ) from error


@cache
def store_of(place: Meeting) -> TCPStore:
    """What the ranks write for each other; kept as long as the process, since others may ask the first one later.

    Raises:
        DistError: the first rank cannot be reached, or its port is taken.
    """
    patience = timedelta(seconds=limit())
    shared = {"wait_for_workers": False, "multi_tenant": True}
    return TCPStore(place.address, place.port, is_master=place.hosts, timeout=patience, **shared)


def meeting() -> Meeting | None:
    """Where to meet the ranks that others have started; None for a process that is alone, or starts them itself."""
    if TorchElasticEnvironment.detect():
        launcher = TorchElasticEnvironment()
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    elif SLURMEnvironment.detect() and {"SLURM_PROCID", "SLURM_STEP_ID"} <= os.environ.keys():  # started by srun
        try:
            launcher, served = SLURMEnvironment(), False
        except RuntimeError:
            return None  # Lightning refuses these settings of srun where it makes a trainer
    elif {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        # Started by hand on every node, Lightning's first process of a node starts the others, with its folder.
        # With LOCAL_RANK all of them are started by hand.
        node, local = (int(os.environ.get(name, 0)) for name in ("NODE_RANK", "LOCAL_RANK"))
        rank = node * int(os.environ.get("LOCAL_WORLD_SIZE", 1)) + local
        return Meeting(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, rank == 0)
    else:
        return None
    if launcher.world_size() == 1:
        return None
    rank = launcher.global_rank()
    return Meeting(launcher.main_address, launcher.main_port, rank, rank == 0 and not served)
