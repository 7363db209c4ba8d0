"""The engine that shares a model, what is kept of prompts, and how tokens are spelled."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import tokenizers
from helpers_text import byte_level

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.result import Step
from tinylane.core.sampling import Sampler
from tinylane.methods import Setup
from tinylane.methods.decoding import Decoding
from tinylane.serve.answers import Reply, error_body, piece
from tinylane.serve.engine import Busy, Engine, ServerLimits, TurnTaker
from tinylane.serve.job import Begun, Ended, Served, Wanted
from tinylane.serve.prefixes import Prefixes

# The engine.


class Turns(TurnTaker):
    """A task of some turns, which notes who had one, and what became of it."""

    def __init__(self, name: str, turns: int, notes: list[str], lanes: int = 1) -> None:
        self.name, self.turns, self.notes, self.lanes = name, turns, notes, lanes
        self.told: list[Any] = []
        self.done = threading.Event()
        self.held = True  # what `free` lets go

    def turn(self) -> bool:
        self.notes.append(self.name)
        self.turns -= 1
        if self.turns < 0:
            raise ZeroDivisionError("on\npurpose")
        if self.turns == 0:
            self.done.set()
        return self.turns > 0

    def end(self, why: str) -> None:
        self.told.append(why)
        self.done.set()

    def fail(self, error: BaseException) -> None:
        self.told.append(error)
        self.done.set()

    def free(self) -> None:
        self.held = False


@pytest.fixture
def said() -> list[str]:
    return []


def test_tasks_take_turns(said: list[str]) -> None:
    """One turn each, in order, until a task has no more."""
    engine, notes = Engine(ServerLimits(), said.append), []
    works = [Turns(name, turns, notes) for name, turns in (("a", 3), ("b", 1), ("c", 2))]
    for work in works:
        engine.submit(work)
    engine.start()
    assert all(work.done.wait(10) for work in works)
    assert "".join(notes) == "abcaca" and said == []
    engine.close()
    assert not any(work.held for work in works)


def test_a_task_that_fails_ends_alone_and_in_one_line(said: list[str]) -> None:
    engine, notes = Engine(ServerLimits(), said.append), []
    bad, good = Turns("bad", 0, notes), Turns("good", 3, notes)
    for work in (bad, good):
        engine.submit(work)
    engine.start()
    assert bad.done.wait(10) and good.done.wait(10)
    assert isinstance(bad.told[0], ZeroDivisionError) and good.told == []
    assert said == ["a request failed: ZeroDivisionError: on purpose"]
    status, body = error_body(bad.told[0])
    assert status == 500 and "purpose" not in str(body)  # nothing of the inside for clients
    engine.close()


def test_what_has_no_room_waits_in_order(said: list[str]) -> None:
    """A small task does not overtake a large one; and one that could never run is refused."""
    engine, notes = Engine(ServerLimits(lanes=4, queue=3), said.append), []
    first, large, small = (Turns(n, 2, notes, k) for n, k in (("f", 3), ("L", 4), ("s", 1)))
    for work in (first, large, small):
        engine.submit(work)
    with pytest.raises(Busy, match="3 requests wait already"):
        engine.submit(Turns("x", 1, notes))
    with pytest.raises(TinylaneError, match="5 lanes; this server runs at most 4"):
        engine.submit(Turns("x", 1, notes, 5))
    engine.start()
    assert small.done.wait(10)
    assert "".join(notes) == "ffLLss"
    engine.close()
    with pytest.raises(Busy, match="the server is ending"):
        engine.submit(Turns("x", 1, notes))


def test_a_task_whose_time_is_over_ends_and_one_whose_client_left_is_forgotten(
    said: list[str],
) -> None:
    engine, notes = Engine(ServerLimits(lanes=1), said.append), []
    slow, left = Turns("s", 10**9, notes), Turns("l", 5, notes)
    slow.deadline = time.monotonic() + 0.2
    engine.submit(slow)
    engine.submit(left)
    engine.cancel(left)
    engine.start()
    assert slow.done.wait(10) and slow.told == ["time"]
    last = Turns("z", 1, notes)
    engine.submit(last)
    assert last.done.wait(10)
    assert left.told == [] and "l" not in notes and not left.held
    engine.close()


def test_closing_ends_what_runs_and_what_waits(said: list[str]) -> None:
    engine, notes = Engine(ServerLimits(lanes=1), said.append), []
    runs, waits = Turns("r", 10**9, notes), Turns("w", 1, notes)
    engine.submit(runs)
    engine.submit(waits)
    engine.start()
    while len(notes) < 10:
        time.sleep(0.001)
    engine.close()
    assert runs.told == waits.told == ["closing"]


def test_a_long_prompt_does_not_hold_up_a_short_one(said: list[str], model: Model) -> None:
    """Its blocks take turns with the other's steps."""
    told: list[tuple[str, str]] = []
    engine, done = Engine(ServerLimits(), said.append), threading.Event()

    def job(name: str, prompt: list[int]) -> Served:
        def tell(what: Any) -> None:
            told.append((name, type(what).__name__))
            if told.count(("long", "Ended")) and told.count(("short", "Ended")):
                done.set()

        settings = {"max_tokens": 3, "sampler": Sampler(logit_bias={2: -np.inf})}
        return Served(model, Wanted(prompt, 1, settings), Prefixes(8, 1 << 20), tell)

    engine.submit(job("long", [3] * 200))
    engine.submit(job("short", [5, 6]))
    engine.start()
    assert done.wait(30) and said == []
    assert told.index(("short", "Ended")) < told.index(("long", "Begun"))
    engine.close()


def test_lanes_that_a_task_begins_while_it_runs_wait_where_there_is_no_room(
    said: list[str],
) -> None:
    """The first of those that run always has its turn; the others while there is room for all."""
    engine, notes = Engine(ServerLimits(lanes=4), said.append), []
    seen: list[int] = []

    class Grows(Turns):
        def turn(self) -> bool:
            seen.append(sum(task.lanes for task in engine._ready()))
            more = super().turn()
            self.lanes = 3
            return more

    tasks = [Grows(name, 3, notes, 1) for name in "abc"]
    for task in tasks:
        engine.submit(task)
    engine.start()
    assert all(task.done.wait(10) for task in tasks)
    assert "".join(notes) == "abcaabbcc" and max(seen) <= 4 and said == []
    engine.close()


@pytest.mark.parametrize(
    "lanes, nbytes, says", [(2, 1 << 30, "4 lanes"), (9, 20 << 10, "of memory")]
)
def test_a_method_s_own_lanes_and_their_rows_count_against_the_limits(
    said: list[str], model: Model, lanes: int, nbytes: int, says: str
) -> None:
    engine, done = Engine(ServerLimits(lanes=lanes, memory=nbytes), said.append), threading.Event()
    told: list[Any] = []

    def tell(what: Any) -> None:
        told.append(what)
        if isinstance(what, (BaseException, Ended)):
            done.set()

    def schedule(d: Decoding) -> None:
        if d.steps == 2:
            for _ in range(3):
                d.join([5] * 4, sees="none", max_tokens=40)

    none = LaneMask.independent(1)
    setup = Setup(1, {"schedule": schedule, "lane_mask": none})
    settings = {"max_tokens": 40, "sampler": Sampler(logit_bias={2: -np.inf})}
    work = Wanted([3, 4], 1, settings, setup=setup)
    job = Served(model, work, Prefixes(8, 1 << 20), tell, check=engine.check)
    job.row = 1 << 10
    engine.submit(job)
    engine.start()
    assert done.wait(30) and said == []
    assert isinstance(told[-1], TinylaneError) and says in str(told[-1])
    assert job.lanes == 4 and error_body(told[-1])[0] == 400
    engine.close()


# What is kept of prompts.


@pytest.fixture(scope="module")
def model() -> Model:
    config = ModelConfig(context=256)
    return Model(config, random_params(config, seed=1))


def read(model: Model, prefixes: Prefixes, tokens: list[int]) -> tuple[Any, int]:
    """A cache with a prompt's whole blocks, as a job makes it; and how many rows were known."""
    cache = model.new_cache()
    known = prefixes.fill(cache, tokens)
    for start in range(known, prefixes.whole(tokens), prefixes.size):
        rows = np.arange(start, start + prefixes.size)
        model(tokens[start : rows[-1] + 1], rows, np.full(len(rows), SHARED), cache=cache)
        prefixes.keep(cache, tokens, start + prefixes.size)
    return cache, known


def test_known_blocks_have_the_bits_that_would_be_computed(model: Model) -> None:
    """As far as two prompts begin alike, in whole blocks; the last row is never known."""
    prefixes = Prefixes(8, 1 << 30)
    first, other = list(range(1, 34)), [*range(1, 20), *range(50, 64)]
    assert read(model, prefixes, first)[1] == 0
    for tokens, known in ((first, 32), (first[:32], 24), (other, 16), (other[::-1], 0)):
        cache, had = read(model, prefixes, tokens)
        fresh, _ = read(model, Prefixes(8, 0), tokens)
        assert had == known and len(cache) == len(fresh) == prefixes.whole(tokens)
        assert cache.tokens.tolist() == tokens[: len(cache)]
        for layer in range(model.config.layers):
            for a, b in zip(cache.rows(layer), fresh.rows(layer), strict=True):
                assert np.array_equal(a, b)


def test_memory_is_bounded_and_what_was_not_used_for_long_goes_first(model: Model) -> None:
    """Of a prompt the last block goes first: it is of no use without those before it."""
    one = Prefixes(8, 1 << 30)
    read(model, one, list(range(1, 10)))
    block = one.nbytes
    prefixes = Prefixes(8, 3 * block)
    old, new = list(range(1, 18)), list(range(101, 118))
    read(model, prefixes, old)
    read(model, prefixes, new)
    assert prefixes.nbytes == 3 * block
    assert read(model, prefixes, new)[1] == 16
    assert prefixes.fill(model.new_cache(), old) == 8
    assert Prefixes(8, block - 1).fill(model.new_cache(), old) == 0
    none = Prefixes(8, block - 1)
    assert read(model, none, old)[1] == 0 and none.nbytes == 0


# Tokens.


class Pieces:
    """A tokenizer of five tokens, as `piece` asks it."""

    byte_level = False

    def __init__(self) -> None:
        self.core = self
        self.names = ["<s>", "\u2581the", "<0xE2>", "<0x41>", "x"]

    def id_to_token(self, token: int) -> str | None:
        return self.names[token] if token < len(self.names) else None

    def is_special(self, token: int) -> bool:
        return token == 0


@pytest.mark.parametrize(
    ("token", "text", "data"),
    [
        (0, "<s>", b"<s>"),
        (1, " the", b" the"),
        (2, "\ufffd", b"\xe2"),
        (3, "A", b"A"),
        (4, "x", b"x"),
        (5, "", b""),
    ],
)
def test_a_token_is_spelled_with_its_space_and_its_bytes(
    token: int, text: str, data: bytes
) -> None:
    assert piece(Pieces(), token) == (text, data)


def test_parts_of_a_character_are_spelled_as_bytes() -> None:
    """A byte-level vocabulary that has no token for the whole of it."""
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(byte_level()))
    ids = tokenizer.encode("\U0001f980")
    pieces = [piece(tokenizer, token) for token in ids]
    assert len(ids) > 1 and b"".join(data for _, data in pieces).decode() == "\U0001f980"
    answer = Reply(Model(ModelConfig(), {}, tokenizer=tokenizer), "m", "id", [ids], 1,
                    chat=False, echo=True, top=1, seed=0)  # fmt: skip
    answer.begun(0, Begun(0, [(-1.0, [(token, -1.0)]) for token in ids[1:]]))
    told = answer.whole()["choices"][0]["logprobs"]
    data = "".join(token.removeprefix("bytes:") for token in told["tokens"])
    assert bytes.fromhex(data.replace("\\x", "")).decode() == "\U0001f980"
    assert told["token_logprobs"] == [None] + [-1.0] * (len(ids) - 1)


def test_offsets_count_whole_characters() -> None:
    """Whole, and piece by piece, where a token ends in the middle of a character."""
    spelled = "a\U0001f980b\u6f22c"
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(byte_level()))
    ids = tokenizer.encode(spelled)
    model = Model(ModelConfig(), {}, tokenizer=tokenizer)
    whole, pieces = (
        Reply(model, "m", "id", [ids[:split]], 1, chat=False, echo=True, top=0, seed=0)
        for split in (len(ids), 3)
    )
    whole.begun(0, Begun(0, [(-1.0, [])] * (len(ids) - 1)))
    offsets = whole.whole()["choices"][0]["logprobs"]["text_offset"]
    ends = [tokenizer.decode(ids[:k]).rstrip("\ufffd") for k in range(len(ids))]
    assert offsets == [len(text) for text in ends] and len(offsets) > len(spelled)
    (first,) = pieces.begun(0, Begun(0, [(-1.0, [])] * 2))
    told = first["choices"][0]["logprobs"]["text_offset"]
    for k, token in enumerate(ids[3:]):
        step = Step(k, 3 + k, [token], [-1.0], [""], {}, [[]])
        told += pieces.step(0, step)[0]["choices"][0]["logprobs"]["text_offset"]
    assert told == offsets


def test_without_a_tokenizer_a_token_is_its_number() -> None:
    assert piece(None, 7) == ("7", b"7")
