"""Ends all ranks that a user or srun has started, if one of them does not connect, or ends early.

torch waits half an hour for a rank that was killed during the start. Here each rank keeps a connection to the first
one. The kernel closes it together with the process, whatever the process was doing.
"""

import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_det.runs.launch import TIMEOUT, MeetingPoint, meeting_point, shared_store, timeout
from lightning_det.system.errors import ConfigError

KEY = "lightning_det/runs/rendezvous"
"""Key in the ranks' store: the port on which the first rank waits for the others."""

GRACE = 5.0
"""Seconds that a rank waits before it ends because of another one: it may print an error of its own meanwhile."""

NAME, DONE = b"rank ", b"done\n"
"""Prefix of a rank's first message, and its last message."""

LONGEST = 1000
"""Buffer size in bytes, more than a rank ever sends."""

COMMANDS = ("train", "eval", "predict", "mine")
"""Commands that may run in several ranks."""

_connections: list[socket.socket] = []
_finished = threading.Event()
"""Set when this process ends by itself; lost connections are ignored from then on."""


def expected_ranks(trainer: Mapping[str, Any]) -> int | None:
    """The number of processes that the user or a launcher starts; None if it is unknown.

    Args:
        trainer: settings of Lightning's trainer.
    """
    if "SLURM_PROCID" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1))
    nodes = int(trainer.get("num_nodes") or 1)
    if "LOCAL_RANK" not in os.environ:  # the first process of a node starts the others, which end with it
        return nodes
    devices = trainer.get("devices", 1)
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return nodes * int(devices) if str(devices).isdigit() else None


def join(ranks: int | None) -> None:
    """Joins the other ranks. From then on this process ends if one of them ends without calling `leave`.

    The first rank does not wait here, but ends if the others do not come in time.

    Args:
        ranks: their number, see `expected_ranks`.

    Raises:
        ConfigError: the first rank cannot be reached.
    """
    point = None if ranks == 1 else meeting_point()
    if point is None or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun ends its ranks itself
        return
    _finished.clear()
    if point.hosts:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        shared_store(point).set(KEY, str(server.getsockname()[1]))
        thread = threading.Thread(target=_serve, args=(server, ranks), daemon=True)
    else:
        connection = _connect(point)
        _connections.append(connection)
        thread = threading.Thread(target=_follow, args=(connection,), daemon=True)
    thread.start()


def leave(succeeded: bool) -> None:
    """Stops watching the other ranks.

    Args:
        succeeded: whether this process has done its work. If not, the other ranks end, too.
    """
    _finished.set()
    for connection in _connections if succeeded else ():
        with suppress(OSError):  # the other rank has left before
            connection.sendall(DONE)
    if succeeded:
        _connections.clear()


def _connect(point: MeetingPoint) -> socket.socket:
    """A connection to the first rank."""
    from torch.distributed import DistError

    try:
        port = int(shared_store(point).get(KEY))
        connection = socket.create_connection((point.address, port), timeout=timeout())
    except (DistError, OSError) as error:
        raise ConfigError(
            f"rank {point.rank} does not reach rank 0 at {point.address}:{point.port} ({str(error).splitlines()[0]}); "
            f"start all ranks with the same command, within {timeout():g} s of each other, or give more time with "
            f"{TIMEOUT}=SECONDS"
        ) from error
    connection.settimeout(None)
    _keep_alive(connection)
    connection.sendall(f"rank {point.rank} (process {os.getpid()} on {socket.gethostname()})\n".encode())
    return connection


def _serve(server: socket.socket, ranks: int | None) -> None:
    """Runs in the first rank: accepts the other ranks, and ends this process when one of them is lost."""
    messages: dict[socket.socket, bytes] = {}  # a port scan also connects, but is not a rank
    end = time.monotonic() + timeout()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ, server)
        while True:
            arrived = 1 + sum(message.startswith(NAME) for message in messages.values())
            missing = ranks is not None and arrived < ranks
            ready = selector.select(max(0.0, end - time.monotonic()) if missing else None)
            if missing and not ready:
                _end(
                    f"{arrived} of {ranks} ranks came within {timeout():g} s; start all with the same command, or give "
                    f"more time with {TIMEOUT}=SECONDS"
                )
            for connection in (key.data for key, _ in ready):
                if connection is server:
                    accepted, _ = server.accept()
                    _keep_alive(accepted)
                    selector.register(accepted, selectors.EVENT_READ, accepted)
                    messages[accepted] = b""
                    _connections.append(accepted)
                elif (received := _receive(connection)) and len(messages[connection]) < LONGEST:
                    messages[connection] += received
                else:
                    selector.unregister(connection)
                    message = messages[connection]
                    if message.startswith(NAME) and not message.endswith(DONE):
                        _end_after(message.decode(errors="replace").strip())


def _follow(connection: socket.socket) -> None:
    """Runs in the other ranks: ends this process when the first rank is lost."""
    message = b""
    while received := _receive(connection):
        message += received
    if not message.endswith(DONE):
        _end_after("rank 0")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def _end_after(rank: str) -> None:
    """Ends this process because another rank has ended."""
    time.sleep(GRACE)
    _end(f"{rank} has ended before its time, and this rank ends with it; that one says why, unless it was killed")


def _end(message: str) -> None:
    if not _finished.is_set():
        os.write(2, f"error: {message}\n".encode())
        os._exit(1)


def _keep_alive(connection: socket.socket) -> None:
    """Lets a connection close about a minute after the other machine has disappeared."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS and Windows lack some
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
