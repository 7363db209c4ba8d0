"""One run over several processes or hosts, each with a share of the problems (`mlx.distributed`).

    mlx.launch -n 2 --backend ring -- tinylane eval ...       two processes of this machine
    mlx.launch --hostfile hosts.json --backend ring -- ...    one process a host
    MLX_RANK=0 MLX_HOSTFILE=ring.json tinylane eval ...       by hand, once for every rank

The `--` keeps mlx.launch from reading tinylane's flags as its own. ring.json is a list of every
rank's addresses: [["10.0.0.1:5000"], ["10.0.0.2:5000"]].

Problem k belongs to rank k modulo the number of ranks. A rank writes its own file; nothing is
computed together, so nothing can come out differently. What goes through the ring is small: how far
everybody is (a table each half second, which also shows who has gone), and at the beginning and the
end what the ranks' files hold, so that hosts need no disk in common.

A rank that is lost (killed, cut off, silent for `timeout` seconds) ends the others after the
problem at hand, each with one line and exit code 1; what was finished stays, and the same command
goes on.
The connections are held by a process of their own, `tinylane.ring_worker`.

Not handled: MLX's other backends (MPI, JACCL, NCCL), and a rank that hangs while its machine lives:
the others wait for it, and the progress says for whom.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import read_bytes
from tinylane.files.run_dir import differing

TIMEOUT = 120.0  # s without a sign of life from the ring
PIECE = 4 << 20  # bytes of a gather that go through the ring at once


class Lost(TinylaneError):
    """Another rank has gone; what this one finished is kept. The command line exits 1."""

    code = 1


class Ring:
    """The ranks of one run. done: how many problems every rank has finished, as last heard.

    Made by `ring`. Raises Lost from any method when another rank has gone.
    """

    def __init__(self, rank: int, size: int, timeout: float = TIMEOUT) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.done = [0] * size
        self._left = False
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tinylane.ring_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # MLX writes a line for every socket that closes
        )
        self._last = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            met = self._wait("rank", max(timeout, TIMEOUT))  # the others may start a little later
            if (met["rank"], met["size"]) != (rank, size):
                raise TinylaneError(f"rank {rank} of {size} was expected, MLX says {show(met)}")
        except BaseException:
            self.close()
            raise

    def check(self, done: int) -> None:
        """Hear whether everybody is still there, and tell how many problems are done here."""
        self._tell(done=done)
        while True:
            try:
                self._take(self._heard.get_nowait())
            except queue.Empty:
                break
        self._alive()

    def gather(self, data: bytes) -> list[bytes]:
        """What every rank gives, on every rank, by rank. All ranks must call it, in one order."""
        sizes = [int(n) for n in self._gather(str(len(data)).encode())]
        found = [b""] * self.size
        for at in range(0, max(sizes), PIECE):
            parts = self._gather(data[at : at + PIECE])
            found = [whole + part for whole, part in zip(found, parts, strict=True)]
        return found

    def agree(self, what: str, value: dict[str, Any]) -> None:
        """Raise TinylaneError, on every rank, unless `value` (JSON) is the same on all of them."""
        parts = [json.loads(part) for part in self.gather(json.dumps(value).encode())]
        for rank, part in enumerate(parts):
            if difference := differing(parts[0], part):
                raise TinylaneError(
                    f"rank {rank} has another {what} than rank 0 ({difference}); start the same "
                    "command everywhere"
                )

    def leave(self) -> None:
        """Wait until every rank is here, and part."""
        self._tell(leave=True)
        self._wait("left")
        self._left = True

    def close(self) -> None:
        """End the connections: for the others this rank is lost, unless all have left."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(1 if self._left else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # Within.

    def _gather(self, data: bytes) -> list[bytes]:
        self._tell(gather=base64.b64encode(data).decode())
        return [base64.b64decode(part) for part in self._wait("gathered")["gathered"]]

    def _tell(self, **order: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it has ended, and may have said why
            self._wait("nothing more")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last = time.monotonic()
            self._heard.put(json.loads(line))
        self._heard.put(None)

    def _take(self, said: dict[str, Any] | None) -> dict[str, Any]:
        if said is None:
            raise Lost("the process that holds the ring ended; see the host file and the ranks")
        if "lost" in said:
            raise Lost(f"another rank was lost ({said['lost']})")
        self.done = said.get("done", self.done)
        return said

    def _alive(self, timeout: float | None = None) -> None:
        timeout = self.timeout if timeout is None else timeout
        if time.monotonic() - self._last > timeout:
            raise Lost(f"no sign of life from the other ranks for {timeout:.0f} s")

    def _wait(self, what: str, timeout: float | None = None) -> dict[str, Any]:
        while True:
            try:
                said = self._take(self._heard.get(timeout=1))
            except queue.Empty:
                self._alive(timeout)
                continue
            if what in said:
                return said


@contextmanager
def ring(timeout: float = TIMEOUT) -> Iterator[Ring | None]:
    """The ring that MLX's launcher has prepared for this process; None for one process alone.

    Read from MLX_RANK and MLX_HOSTFILE, as `mlx.distributed` does. SIGTERM, by which the launcher
    ends the other ranks when one is lost, becomes an exception. Raises TinylaneError for a rank or
    host file that cannot be right, or where MLX is missing; Lost where the others do not come.
    """
    place = _place()
    if place is None:
        yield None
        return
    with _terminated():
        found = Ring(*place, timeout)
        try:
            yield found
            found.leave()
        finally:
            found.close()


def _place() -> tuple[int, int] | None:
    """This process's rank and the number of ranks."""
    rank, path = os.environ.get("MLX_RANK"), os.environ.get("MLX_HOSTFILE")
    if rank is None and path is None:
        return None
    if rank is None or path is None:
        missing = "MLX_RANK" if rank is None else "MLX_HOSTFILE"
        raise TinylaneError(f"{missing} is not set; start the ranks by mlx.launch --backend ring")
    said = read_bytes(path, 1 << 20).strip()
    if not said:
        return None  # the launcher's way to say that there is one
    try:
        hosts = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"MLX_HOSTFILE {path}: not JSON ({error})") from None
    lists = isinstance(hosts, list) and hosts and all(isinstance(host, list) for host in hosts)
    if not lists or not all(host and all(isinstance(a, str) for a in host) for host in hosts):
        raise TinylaneError(
            f'MLX_HOSTFILE {path}: {show(hosts, 60)}; expected [["host:port"], ...], a list a rank'
        )
    if not (rank.isascii() and rank.isdigit() and len(rank) < 10 and int(rank) < len(hosts)):
        raise TinylaneError(f"MLX_RANK is {show(rank, 40)}; expected 0 to {len(hosts) - 1}")
    if len(hosts) == 1:
        return None
    import importlib.util

    if importlib.util.find_spec("mlx") is None:
        raise TinylaneError("several ranks need MLX; install tinylane[mlx]")
    return int(rank), len(hosts)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM as an exception, while it lasts."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise Lost("stopped from outside (SIGTERM): the launcher does so when a rank is lost")

    if threading.current_thread() is not threading.main_thread():  # no signals to be had
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
