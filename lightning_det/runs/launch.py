"""The processes of a run: finds the first one, shares what it says, connects them, and ends them together."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from lightning_det.system.errors import ConfigError
from lightning_det.system.interrupt import PARENT, is_started_by_lightning

if TYPE_CHECKING:
    from torch.distributed import TCPStore

TIMEOUT = "LIGHTNING_DET_MEETING"
"""Environment variable: seconds that ranks wait for each other when they start."""


def timeout() -> float:
    """Seconds that ranks wait for each other when they start: the value of `TIMEOUT`, or 60.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    given = os.environ.get(TIMEOUT, "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{TIMEOUT}={given}: seconds, such as 600")
    return seconds


class MeetingPoint(NamedTuple):
    """The address at which the ranks of a run connect before and after training. torch uses the same port."""

    address: str
    port: int
    rank: int
    hosts: bool
    """Whether this rank serves the store that the others connect to."""


def end_with_parent() -> None:
    """Lets Linux end this process when its parent ends, if the parent is a sweep or Lightning's first rank.

    A rank that is killed cannot tell the others, which wait for it and occupy their devices until torch gives up.
    """
    has_parent = os.environ.get(PARENT) == str(os.getppid())
    if sys.platform == "linux" and (has_parent or is_started_by_lightning()):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def is_first_rank() -> bool:
    """Whether this process is the first or only rank of its run. Only the first rank manages the run folder."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order
    rank = next((os.environ[name] for name in ranks if name in os.environ), "0")
    return rank == os.environ.get("NODE_RANK", "0") == "0"


def shared(name: str, make: Callable[[], str]) -> str:
    """Returns, on all ranks, the text that a function makes on the first one.

    Args:
        name: under which the ranks' store keeps it.
        make: is called on the first rank.

    Raises:
        ConfigError: the first rank cannot be reached.
    """
    point = meeting_point()
    if point is None:
        return make()
    from torch.distributed import DistError

    key = f"lightning_det/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = shared_store(point)
        if point.rank == 0:
            store.set(key, make())
        return store.get(key).decode()
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"rank {point.rank} cannot ask rank 0 at {point.address}:{point.port} for the run's folder ({reason}); "
            f"start all ranks with the same command and launcher, within {timeout():g} s of each other or with "
            f"{TIMEOUT}=SECONDS, or give hydra.run.dir"
        ) from error


@cache
def shared_store(point: MeetingPoint) -> "TCPStore":
    """Returns the key-value store of the ranks. It exists as long as the process, because others may ask later.

    Raises:
        DistError: the first rank cannot be reached, or its port is taken.
    """
    from torch.distributed import TCPStore

    return TCPStore(
        point.address,
        point.port,
        is_master=point.hosts,
        timeout=timedelta(seconds=timeout()),
        wait_for_workers=False,
        multi_tenant=True,
    )


def meeting_point() -> MeetingPoint | None:
    """Returns the meeting point of ranks that a launcher has started; None if there is no launcher."""
    if not any(name.startswith(("TORCHELASTIC_", "SLURM_", "MASTER_")) for name in os.environ):
        return None
    from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

    launcher: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        launcher = TorchElasticEnvironment()
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    elif SLURMEnvironment.detect() and {"SLURM_PROCID", "SLURM_STEP_ID"} <= os.environ.keys():  # started by srun
        try:
            launcher, served = SLURMEnvironment(), False
        except RuntimeError:
            return None  # Lightning refuses these settings of srun when it makes the trainer
    elif {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        # Started by hand on every node. Lightning's first process of a node starts the node's other processes and
        # hands them its folder. If LOCAL_RANK is set, all of them were started by hand.
        node, local = (int(os.environ.get(name, 0)) for name in ("NODE_RANK", "LOCAL_RANK"))
        rank = node * int(os.environ.get("LOCAL_WORLD_SIZE", 1)) + local
        return MeetingPoint(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, rank == 0)
    else:
        return None
    if launcher.world_size() == 1:
        return None
    rank = launcher.global_rank()
    return MeetingPoint(launcher.main_address, launcher.main_port, rank, rank == 0 and not served)
