"""Hostile run files, JSON Lines, prompts and matrices for `hostile.py`.

JSON Lines are what a command reads line by line: problems (`eval jsonl`, `eval gsm8k`, `collect`),
transcripts (`train sft`, `train kto`), the results in a run directory (`report`, going on).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers_cli import GAME
from hostile_texts import Make, put

WRONG: tuple[Any, ...] = ("x", -1, 1.5, 10**19, [[1]], {}, None, True)


def lines_that_are_none(good: bytes) -> Iterator[tuple[str, Make]]:
    """Bad lines for any file of JSON Lines; `good` is a good first line."""
    deep = b'{"a":' * 3000 + b"1" + b"}" * 3000
    for what, data in {
        "a list": b"[1, 2]\n",
        "a number": b"3\n",
        "text": b'"a"\n',
        "cut": good[: len(good) // 2] + b"\n",
        "two on a line": good + good + b"\n",
        "cut after a good one": good + b"\n" + good[:-1] + b"\n",
        "not UTF-8": good.replace(b"{", b'{"\xff":0,', 1) + b"\n",
        "UTF-16": (good.decode() + "\n").encode("utf-16"),
        "NUL bytes": bytes(1000) + b"\n",
        "a key twice": good.replace(b"{", b'{"x":0,"x":1,', 1) + b"\n",
        "NaN": good.replace(b"{", b'{"x":NaN,', 1) + b"\n",
        "1e999": good.replace(b"{", b'{"x":1e999,', 1) + b"\n",
        "5000 digits": good.replace(b"{", b'{"x":' + b"9" * 5000 + b",", 1) + b"\n",
        "3000 deep": deep + b"\n",
        "lists 900 deep": b'{"a":' + b"[" * 900 + b"]" * 900 + b"}\n",
        "a pickle": b"cos\nsystem\n(S'touch CANARY'\ntR.",
    }.items():
        yield what, lambda path, data=data: put(path, data)

    def endless(path: Path) -> None:  # one line of 1 TiB that takes no room
        put(path, b"{")
        os.truncate(path, 1 << 40)

    yield "a line without end", endless
    yield "a folder", lambda path: path.mkdir()
    yield "a pipe", lambda path: os.mkfifo(path)
    yield "a link to /dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "a link to itself", lambda path: path.symlink_to(path.name)
    yield "nothing", lambda path: path.symlink_to("absent")


def row(**fields: Any) -> Make:
    """A file of one line."""
    data = json.dumps(fields).encode() + b"\n"
    return lambda path: put(path, data)


def problems() -> Iterator[tuple[str, Make]]:
    """Data files of `eval jsonl` and `eval gsm8k`."""
    good = {"question": "What is 1 + 1?", "answer": "#### 2"}
    yield from lines_that_are_none(json.dumps(good).encode())
    for key in good:
        yield f"no {key}", row(**{k: v for k, v in good.items() if k != key})
        for value in ("", " \n", None, True, [], ["2"], {}, {"a": 1}):
            yield f"{key} {json.dumps(value)}", row(**{**good, key: value})
    yield "no ####", row(question="1 + 1?", answer="2")
    yield "nothing after ####", row(question="1 + 1?", answer="2 #### ")
    yield "escapes in a field's name", row(**{"\x1b[2J\n": "x"})
    yield "a line of 5 MiB", row(question="x" * (5 << 20), answer="#### 2")
    yield "4 MiB of lists", lambda path: put(path, b'{"question":[' + b"[]," * 1_300_000 + b"0]}\n")
    yield "empty lines only", lambda path: put(path, b"\n" * 100_000)


def transcripts() -> Iterator[tuple[str, Make]]:
    """Data files of `train sft` and `train kto`, for the base model."""
    good: dict[str, Any] = {"prompt": "cups ABC, swap 1-2 : where?", "lanes": ["ABC", "BAC"]}
    good |= {"lane_prompts": ["1/2", "2/2"], "label": True}
    yield from lines_that_are_none(json.dumps(good).encode())
    for key, values in {
        "prompt": (*WRONG[1:6], True, [], ["a"], [10**6], [-1], [1.5], "cups " * 99),
        "prompt_ids": ("x", {}, 3, [], ["a"], [[1]], [True], [-1], [10**6], [2**70]),
        "lanes": (*WRONG, [], [1, 2], [None, None], [{}, {}], ["ABC"], ["ABC"] * 3, [[], []]),
        "lane_prompts": ("x", 3, {}, ["1/2"], [1, 2], [{}, {}], [[-1], [0]], [["a"], ["b"]]),
        "lane_prompt_ids": ("x", ["a", "b"], [[10**6], [0]], [[1.5], [0]], [[True], [0]]),
        "lane_ids": ("x", [[1]], ["a", "b"], [[10**6], [0]], [[-1], [0]], [[[]], [0]]),
        "finished": ("x", 1, [1, 1], [True], [None, None], {}),
        "given": ("x", [[0, 1], []], [[[0, 9]], []], [[[1, 0]], []], [[["a", "b"]], []], {}),
        "label": ("x", 1, [], {}, 0),
        "messages": ([], "x", [1], [{}], [{"role": 3, "content": 4}], [{"role": "user"}]),
    }.items():
        for value in values:
            less = ("prompt",) if key in ("messages", "prompt_ids") else ()
            fields = {k: v for k, v in good.items() if k not in less}
            yield f"{key} {json.dumps(value)[:30]}", row(**{**fields, key: value})
    yield "longer than the context", row(**{**good, "lanes": ["ABC " * 90, "BAC"]})
    yield "after its end", row(**{**good, "lanes": ["ABC <end> ABC", "BAC"]})
    yield "escapes", row(**{**good, "label": "\x1b[2J\x9b\r\n\u202e"})
    yield (
        "a number of lanes that changes",
        lambda path: put(
            path, "".join(json.dumps({**good, **x}) + "\n" for x in ({}, {"lanes": ["A"] * 3}))
        ),
    )
    yield "17 MiB", row(**{**good, "x": "y" * (17 << 20)})
    yield "16 MiB of lists", lambda path: put(path, b'{"lanes":[' + b"[]," * (5 << 20) + b"0]}\n")


def results(good: Path) -> Iterator[tuple[str, Make]]:
    """Run directories that `report` reads; `good` is one of `eval shell-game`."""
    lines = (good / "results.jsonl").read_bytes().splitlines(keepends=True)
    settings = json.loads((good / "settings.json").read_text())
    first = json.loads(lines[0])

    def folder(results: Any = None, record: Any = None) -> Make:
        def make(path: Path) -> None:
            path.mkdir()
            raw = settings if record is None else record
            put(path / "settings.json", raw if isinstance(raw, bytes) else json.dumps(raw))
            if callable(results):
                results(path / "results.jsonl")
            else:
                put(path / "results.jsonl", b"".join(lines) if results is None else results)

        return make

    def one(changed: dict[str, Any]) -> Make:
        return folder(json.dumps(changed).encode() + b"\n")

    for what, make in lines_that_are_none(lines[0].strip()):
        yield what, folder(make)
    for key in ("mode", "lanes", "steps", "seconds", "groups", "lane", "clock", "problem"):
        yield f"no {key}", one({k: v for k, v in first.items() if k != key})
    for key, values in {
        "mode": ("x", "hogwild", 3, [], {}, None, "\x1b[2J"),
        "lanes": ("x", -1, 1.5, 10**19, [[1]], {}, None, True, 3),
        "steps": ("x", -1, 1.5, 10**19, [[1]], {}, None, True, 0),
        "seconds": ("x", [], {}, None),
        "groups": ("x", 3, {}, [], [1], [{}]),
        "clock": ("x", [], ["a"], [[1]], {}, None, [0.1]),
        "lane": ("x", 3, {}, [], [1, 2], [{}, {}]),
    }.items():
        for value in values:
            yield f"{key} {json.dumps(value)[:24]}", one({**first, key: value})
    for key, values in {
        "tokens": ("x", 3, [], [-1] * 4, [1.5] * 4, ["a"] * 4, [[1]] * 4, None),
        "logprobs": ("x", 3, [], ["a"] * 4, [1e308] * 4, [[1]] * 4, None),
        "answers": ("x", 3, [[1]], [[0, 0]], [[9, 0]], [[1, 9]], [[2, 0], [1, 0]], [["a", 0]]),
    }.items():
        for value in values:
            lane = [{**first["lane"][0], key: value}, *first["lane"][1:]]
            yield f"lane.{key} {json.dumps(value)[:24]}", one({**first, "lane": lane})
    yield "a result twice", folder(lines[0] * 2)
    yield "no results", folder(b"")
    asked = settings["settings"]
    for what, record in {
        "settings a list": b"[]",
        "settings empty": b"",
        "settings a pickle": b"cos\nsystem\n(S'touch CANARY'\ntR.",
        "settings deep": b'{"settings":' * 3000 + b"1" + b"}" * 3000,
        "settings 17 MiB": b'{"settings":[' + b"[]," * (6 << 20) + b"0]}",
        "no settings in it": {},
        "settings of collect": {"settings": {"what": "transcripts"}},
        "no cells": {"settings": {**asked, "cells": []}},
        "cells of numbers": {"settings": {**asked, "cells": [1]}},
        "cells without end": {"settings": {**asked, "cells": {}}},
        "an unknown mode": {"settings": {**asked, "cells": [{**asked["cells"][0], "mode": "x"}]}},
        "count of text": {"settings": {**asked, "count": "many"}},
        "no task": {"settings": {k: v for k, v in asked.items() if k != "task"}},
    }.items():
        yield what, folder(None, record)
    for name in ("settings.json", "results.jsonl"):
        for target in (good / name, Path("/etc/passwd"), Path("/dev/zero")):

            def linked(path: Path, name: str = name, target: Path = target) -> None:
                folder()(path)
                (path / name).unlink()
                (path / name).symlink_to(target)

            yield f"{name} a link to {target.name}", linked
    yield "60 MiB of text", folder(b'{"a":"' + b"x" * (60 << 20) + b'"}\n')
    wide = "\U0001f600".encode()
    yield "15 MiB of text, one wide", folder(b'{"a":"' + b"x" * (15 << 20) + wide + b'"}\n')
    yield "15 MiB of lists", folder(b'{"a":[' + b"[]," * (5 << 20) + b"0]}\n")


def runs(good: Path) -> Iterator[tuple[str, Make]]:
    """Run files, each one value away from a good one of the base model."""
    raw = json.loads(good.read_text())

    def write(value: Any) -> Make:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return lambda path: put(path, data)

    def changed(path: tuple[Any, ...], value: Any) -> Make:
        copy = json.loads(json.dumps(raw))
        at = copy
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return write(copy)

    lane, wrong = ("lanes", 0), ("x", -1, 1.5, 10**19, [[1]], {}, None, True)
    pause = {"event": "pause", "lane": 0, "step": 0, "clock": 9}
    fork = {**pause, "event": "fork", "source": 0}
    places: dict[tuple[Any, ...], tuple[Any, ...]] = {
        ("format",): (None, "tinylane run 9"),
        ("model",): ([], None),
        ("model", "identity"): ("0" * 64, 3),
        ("prompt", "ids"): (*wrong, [], [-1], [10**6], [2**40], [1.5], ["a"]),
        ("settings", "seed"): ("x", -1, 1.5, "9" * 60, "²", [], None),
        ("settings", "omega"): ("x", [], [[]], [1], [[1, 2], [1]], ["a"], [[[1]]], [10**19] * 3),
        ("settings", "visibility"): ("x", [], [[1]], [[1, 0]], [[2, 2], [2, 2]], [["a"]]),
        ("settings", "lag"): wrong,
        ("settings", "prompt_lane"): (1, "x", None, []),
        ("settings", "stop"): ("x", [1.5], None),
        ("settings", "sampler"): ([], {}, {"temperature": 1}),
        ("settings", "sampler", "temperature"): ("x", -1, None, []),
        ("settings", "sampler", "top_k"): ("x", -1, 1.5, []),
        ("settings", "sampler", "logit_bias"): (
            "x",
            [[1]],
            [["a", 1]],
            [[1, "x"]],
            [[-1, 1]],
            [[1, []]],
        ),
        ("lanes",): ("x", [], [1], [{}], raw["lanes"] * 3),
        (*lane, "index"): wrong,
        (*lane, "start"): (*wrong, 0, 10**6),
        (*lane, "tokens"): (*wrong, [], [10**6] * 2, [-1] * 2, ["a"] * 2),
        (*lane, "logprobs"): (*wrong, [1.0] * 2, ["x"] * 2, []),
        (*lane, "prompt"): (*wrong, [10**6]),
        (*lane, "max_tokens"): wrong,
        (*lane, "finish_reason"): (3, [], {}),
        (*lane, "text"): (3, None),
        (*lane, "forked"): ("x", [0, 0], [0, 1, 2], [-1, 3], 3),
        (*lane, "dropped"): ("x", -1, 0, 1.5),
        (*lane, "spans"): (
            *("x", 1, [1], [[0, 0]], [[1, 99, 0]], [[0, -1, 0]], [[0, 10**19, 0]]),
            [[0, 99, 10**9]],
            [[0, 99, 0]] * 2,
        ),
        (*lane, "follows"): ("x", -1, 0, 1.5),
        ("settings", "events"): (
            *("x", 1, [1], [[]], [{}], [{**pause, "lane": 99}], [{**pause, "step": 10**6}]),
            *([{**pause, "event": []}], [{**pause, "more": 1}], [pause, {**pause, "clock": 8}]),
            *([fork], [fork] * 99, [{**pause, "event": "drop"}]),
        ),
        ("settings", "times"): (
            *("x", 1, [1], [[]], [[0, 0, 0, 0]], [[0, 1, 5, 4]], [[0, 99, 0, None]]),
            [[0, 1, -1, None]],
        ),
        ("steps",): wrong,
        ("seconds",): ("x", -1, None, []),
        ("extra",): ([], 3),
    }
    for path, values in places.items():
        for value in values:
            name = ".".join(map(str, path))
            yield f"{name} {json.dumps(value)[:24]}", changed(path, value)
    tokens = [list(lane["tokens"]) for lane in raw["lanes"]]
    for last in (len(GAME.vocabulary), 2**31 - 1):  # a last token is fed to nothing
        for reason in ("stop", "length", None):
            copy = json.loads(json.dumps(raw))
            copy["lanes"][1]["tokens"] = [*tokens[1][:-1], last]
            copy["lanes"][1]["finish_reason"] = reason
            yield f"last token {last}, {reason}", write(copy)
    data = json.dumps(raw).encode()
    for length in range(0, len(data), max(1, len(data) // 12)):
        yield f"the first {length} bytes", write(data[:length])
    for what, value in {
        "a list": b"[]",
        "a pickle": b"cos\nsystem\n(S'touch CANARY'\ntR.",
        "UTF-16": "{}".encode("utf-16"),
        "deep": b'{"format":' * 3000 + b"1" + b"}" * 3000,
        "NaN": data.replace(b'"steps": ', b'"steps": NaN, "x": '),
        "a key twice": data[:-1] + b', "steps": 1}',
        "17 MiB of lists": b'{"format":[' + b"[]," * (17 << 18) + b"0]}",
        "15 MiB of numbers": b'{"format":[' + b"999," * (15 << 18) + b"0]}",
        "15 MiB of lists": b'{"format":[' + b"[]," * (5 << 20) + b"0]}",
        "15 MiB of text, one wide": b'{"format":"'
        + b"x" * (15 << 20)
        + "\U0001f600".encode()
        + b'"}',
    }.items():
        yield what, write(value)


PROMPTS = {
    "empty": "",
    "no swap": "where is everything?",
    "a place 0": "0-1",
    "a place too far": "1-9",
    "the same place": "2-2",
    "a negative place": "-1-9",
    "too many": "1-2 " * 100,
    "a million": "1-2 " * 1_000_000,
    "a place of 5000 digits": "9" * 5000 + "-1",
    "places of a million digits": "9" * 1_000_000 + "-" + "9" * 1_000_000,
    "superscripts": "¹-²",
    "another script's digits": "٣-٩",
    "many spaces": "1" + " " * 300_000 + "2",
    "spaces and dashes": ("1" + " " * 2000) * 200,
    "escapes": "\x1b[2J\x9b1-9\r\n\u202e",
    "half a surrogate": "\ud800 7-8",
    "NUL": "\0" * 1000,
}

MATRICES = {
    "empty": b"",
    "not JSON": b"[[",
    "deep": b"[" * 100_000,
    "100 deep": b"[" * 100 + b"1" + b"]" * 100,
    "not square": b"[[1, 0]]",
    "ragged": b"[[1, 0], [1]]",
    "twos": b"[[2, 2], [2, 2]]",
    "texts": b'[["a"]]',
    "null": b"[[null]]",
    "an object": b'{"a": 1}',
    "huge": b"[[" + b"9" * 30 + b"]]",
    "5000 digits": b"[[" + b"9" * 5000 + b"]]",
    "NaN": b"[[NaN]]",
    "not UTF-8": b"\xff\xfe",
    "2000 lanes": json.dumps([[1] * 2000] * 2000).encode(),
    "8 MiB of lists": b"[" + b"[]," * 2_700_000 + b"[]]",
    "33 MiB": b" " * (33 << 20),
}
