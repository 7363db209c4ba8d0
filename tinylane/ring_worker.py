"""The process that holds a rank's connections: `python -m tinylane.ring_worker`, lines of JSON.

`mlx.distributed` lives here and nowhere else, so that its waiting never stops the decoding, and
what ends it (a lost peer, a host file that crashes it) ends this process alone. Every tick all
ranks add up a table of three numbers a rank: problems done, gathers asked for, whether it is
leaving. All see the same table, so all agree on what comes next: a gather once every rank has asked
for it, the end once every rank is leaving.

In: {"done": n}, {"gather": base64}, {"leave": true}. Out: {"rank", "size"} at the beginning,
{"done": [n of every rank]} each tick, {"gathered": [base64 of every rank]}, {"left": true}, or
{"lost": why}.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import sys
from typing import Any

TICK = 0.5  # s between two tables


class _Orders:
    """Lines from the commanding process, without waiting for them."""

    def __init__(self, handle: int) -> None:
        self.handle, self.rest = handle, b""
        os.set_blocking(handle, False)

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """What came within so many seconds. Raises EOFError when the other side has gone."""
        if not select.select([self.handle], [], [], seconds)[0]:
            return []
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.handle, 1 << 20):
                self.rest += piece
            raise EOFError
        *whole, self.rest = self.rest.split(b"\n")
        return [json.loads(line) for line in whole]


def main() -> int:
    """Serve until all ranks leave, or one is lost."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the commanding process's to handle
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        import mlx.core as mx

        group = mx.distributed.init(strict=True, backend="ring")
        say(rank=group.rank(), size=group.size())
        _serve(mx, group, say)
    except (EOFError, BrokenPipeError):
        return 1  # the rank has gone; the others see its sockets close
    except Exception as error:
        say(lost=str(error) or type(error).__name__)
        return 1
    return 0


def _serve(mx: Any, group: Any, say: Any) -> None:
    rank, size = group.rank(), group.size()
    orders, own = _Orders(0), [0, 0, 0]
    waiting: list[bytes] = []
    gathered = 0
    while True:
        for order in orders.wait(0 if waiting else TICK):
            own[0] = order.get("done", own[0])
            own[2] = int(order.get("leave", own[2]))
            if "gather" in order:
                waiting.append(base64.b64decode(order["gather"]))
                own[1] += 1
        table = [[0, 0, 0] for _ in range(size)]
        table[rank] = own
        added = mx.distributed.all_sum(mx.array(table), group=group, stream=mx.cpu).tolist()
        say(done=[row[0] for row in added])
        if min(row[1] for row in added) > gathered:
            parts = _gather(mx, group, waiting.pop(0))
            gathered += 1
            say(gathered=[base64.b64encode(part).decode() for part in parts])
        elif all(row[2] for row in added):
            say(left=True)
            return


def _gather(mx: Any, group: Any, data: bytes) -> list[bytes]:
    """What every rank gives, on every rank."""
    lengths = mx.distributed.all_gather(mx.array([len(data)]), group=group, stream=mx.cpu).tolist()
    width = max(*lengths, 1)
    padded = mx.array(memoryview(data.ljust(width, b"\0")))
    every = bytes(mx.distributed.all_gather(padded, group=group, stream=mx.cpu))
    return [every[k * width :][:length] for k, length in enumerate(lengths)]


if __name__ == "__main__":
    sys.exit(main())
