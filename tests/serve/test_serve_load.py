"""200 requests, 8 at a time, some of whose clients go away: nothing is lost, nothing stays."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers_serve import GAME, Server, serving

REQUESTS, AT_ONCE = 200, 8


def request(k: int) -> dict[str, Any]:
    """The k-th request: of some twelve kinds, so that each is asked alone too."""
    kind = k % 12
    return {
        "prompt": f"{GAME} {1 + kind % 4}/4",
        "n": 1 + kind % 3,
        "max_tokens": 8 + 8 * (kind % 2),
        "seed": kind,
        "temperature": 3,
        "logit_bias": {"1": -100},  # no end token: all lanes write to the end
        "logprobs": 2 if kind % 5 == 0 else None,
        "lanes": {"prompts": [""] * (1 + kind % 3)} if kind % 4 == 3 else None,
    }


def leaves(k: int) -> bool:
    """Whether the client of the k-th request goes away in the middle."""
    return k % 7 == 3


def one(server: Server, k: int) -> Any:
    if not leaves(k):
        if k % 2:
            return server.text(request(k))["choices"]
        return list(server.stream("/v1/completions", request(k)))
    raw = server.open({**request(k), "stream": True, "max_tokens": 300})
    assert b"200 OK" in raw.recv(64)
    time.sleep(0.01 * (k % 5))
    raw.close()
    return None


def texts(answer: Any) -> list[str]:
    """Of an answer, or of the pieces of a stream."""
    said: dict[int, str] = {}
    for choice in answer if "choices" not in answer[0] else [p["choices"][0] for p in answer]:
        said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    return [said[m] for m in sorted(said)]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")
def test_200_requests_8_at_a_time_get_what_they_get_alone(
    record_property: pytest.RecordProperty,
) -> None:
    """And the memory that the server holds after 50 of them is what it holds after 200, to 5%."""
    with serving("--prefill-step-size", 8, "--quiet") as server:
        alone = [texts(server.text(request(k))["choices"]) for k in range(12)]
        assert all(len(set(said)) == len(said) for said in alone)
        held: dict[int, int] = {}
        done, lock = [0], threading.Lock()

        def work(k: int) -> Any:
            answer = one(server, k)
            with lock:
                done[0] += 1
                if done[0] in (50, REQUESTS):
                    held[done[0]] = server.resident()
            return answer

        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(work, range(REQUESTS)))
        end = time.monotonic() + 20
        while server.ask("GET", "/health")[1]["lanes"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.log == []
        grown = held[REQUESTS] / held[50] - 1
    record_property("grown", grown)
    kept = [k for k in range(REQUESTS) if not leaves(k)]
    assert len(kept) > 150
    for k in kept:
        assert texts(answers[k]) == alone[k % 12], k
    assert grown < 0.05, held
