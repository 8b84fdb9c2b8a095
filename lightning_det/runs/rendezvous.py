"""Ranks that others have started, by hand or with srun, notice when one of them does not come or is gone.

Torch waits half an hour for a rank that was killed while they meet. Here each rank keeps a connection to the first
one, which the kernel closes with the process that holds it, whatever that was at.
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch.distributed import DistError

from lightning_det.runs.launch import LIMIT, Meeting, limit, meeting, store_of
from lightning_det.system.errors import ConfigError

KEY = "lightning_det/runs/rendezvous"
"""In the store that the ranks share: the port of the first one's watch."""

GRACE = 5.0
"""Seconds in which a rank that has lost another one may still say itself what is wrong."""

NAME, DONE = b"rank ", b"done\n"
"""How a rank introduces itself to the first one, and how it leaves."""

WORDS = 1000
"""Bytes, more than a rank ever says."""

COMMANDS = ("train", "eval", "predict", "mine")
"""Those that may run in several ranks."""


class _Watch:
    """Of this process."""

    connections: list[socket.socket] = []  # noqa: RUF012
    over = False
    """This process ends by itself."""


def expected(trainer: Mapping[str, Any]) -> int | None:
    """How many processes are started by others; None if that cannot be told.

    Args:
        trainer: settings of Lightning's trainer.
    """
    if "SLURM_PROCID" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1))
    nodes = int(trainer.get("num_nodes") or 1)
    if "LOCAL_RANK" not in os.environ:  # the first process of a node starts the others, and they end with it
        return nodes
    devices = trainer.get("devices", 1)
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return nodes * int(devices) if str(devices).isdigit() else None


def meet(ranks: int | None) -> None:
    """Joins the other ranks and, from then on, ends this process when one of them ends without `leave`.

    The first rank does not wait here, but ends if the others do not come in time.

    Args:
        ranks: how many there are, see `expected`.

    Raises:
        ConfigError: the first rank is not there.
    """
    place = None if ranks == 1 else meeting()
    if place is None or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun ends its ranks itself
        return
    _Watch.over = False
    if place.hosts:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        store_of(place).set(KEY, str(server.getsockname()[1]))
        target, arguments = _serve, (server, ranks)
    else:
        connection = _joined(place)
        _Watch.connections.append(connection)
        target, arguments = _follow, (connection,)
    threading.Thread(target=target, args=arguments, daemon=True).start()


def leave(well: bool) -> None:
    """Ends the watch.

    Args:
        well: whether this process has done what it was to do; if not, the others end with it.
    """
    _Watch.over = True
    for connection in _Watch.connections if well else ():
        with suppress(OSError):  # it has left before
            connection.sendall(DONE)
    if well:
        _Watch.connections.clear()


def _joined(place: Meeting) -> socket.socket:
    """A connection to the first rank."""
    try:
        port = int(store_of(place).get(KEY))
        connection = socket.create_connection((place.address, port), timeout=limit())
    except (DistError, OSError) as error:
        raise ConfigError(
            f"rank {place.rank} does not reach rank 0 at {place.address}:{place.port} ({str(error).splitlines()[0]}); "
            f"start all ranks with the same command, within {limit():g} s of each other, or give more time with "
            f"{LIMIT}=SECONDS"
        ) from error
    connection.settimeout(None)
    _keep_alive(connection)
    connection.sendall(f"rank {place.rank} (process {os.getpid()} on {socket.gethostname()})\n".encode())
    return connection


def _serve(server: socket.socket, ranks: int | None) -> None:
    """Waits for the other ranks, and for what becomes of them."""
    said: dict[socket.socket, bytes] = {}  # what else connects to the port, such as a scan, is no rank
    end = time.monotonic() + limit()
    with selectors.DefaultSelector() as waiting:
        waiting.register(server, selectors.EVENT_READ)
        while True:
            came = 1 + sum(words.startswith(NAME) for words in said.values())
            missing = ranks is not None and came < ranks
            ready = waiting.select(max(0.0, end - time.monotonic()) if missing else None)
            if missing and not ready:
                _end(
                    f"{came} of {ranks} ranks came within {limit():g} s; start all with the same command, or give "
                    f"more time with {LIMIT}=SECONDS"
                )
            for key, _ in ready:
                if key.fileobj is server:
                    connection, _ = server.accept()
                    _keep_alive(connection)
                    waiting.register(connection, selectors.EVENT_READ)
                    said[connection] = b""
                    _Watch.connections.append(connection)
                elif (received := _received(key.fileobj)) and len(said[key.fileobj]) < WORDS:
                    said[key.fileobj] += received
                else:
                    waiting.unregister(key.fileobj)
                    words = said[key.fileobj]
                    if words.startswith(NAME) and not words.endswith(DONE):
                        _lost(words.decode(errors="replace").strip())


def _follow(connection: socket.socket) -> None:
    """Waits for what becomes of the first rank."""
    said = b""
    while received := _received(connection):
        said += received
    if not said.endswith(DONE):
        _lost("rank 0")


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def _lost(rank: str) -> None:
    time.sleep(GRACE)
    _end(f"{rank} has ended before its time, and this rank ends with it; that one says why, unless it was killed")


def _end(message: str) -> None:
    if not _Watch.over:
        os.write(2, f"error: {message}\n".encode())
        os._exit(1)


def _keep_alive(connection: socket.socket) -> None:
    """Has a connection end with the machine at its other end too, after about a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
