"""Arguments of a wrong kind, to every public function: one clear TinylaneError, or it is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinylane
from tinylane.core.config import ModelConfig
from tinylane.core.hogwild import Hogwild
from tinylane.core.random_weights import random_params
from tinylane.methods.prompt import Settings
from tinylane.testing import tolerance

CONFIG = ModelConfig(vocab=40, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=32)
MODEL = tinylane.Model(CONFIG, random_params(CONFIG, seed=0))
THETA = MODEL.theta
RESULT = tinylane.generate(MODEL, [1, 2], max_tokens=1)
WRONG = [None, True, -1, 1.5, float("nan"), 10**400, "4", "", b"4", [], [None], ["4"], [[1]], ()]
WRONG += [{}, {"a": 1}, {0: 1}, set(), object(), range(3), iter("a"), 99, [99], {99}]
WRONG += [np.int64(1), np.float64(1.0), np.bool_(True), [np.int64(0)], lambda *x: None]
ARRAYS = [np.zeros((2, 2)), np.array("x"), np.array(3), np.array([])]
# where an array may stand, or be taken for what may
FOR_ARRAYS = {
    "prompt",
    "max_tokens",
    "tokens",
    "positions",
    "lanes",
    "rows",
    "omega",
    "theta",
    "slot",
}
FOR_ARRAYS |= {"visibility", "result", "lane_rope", "lane_mask", "sampler", "stop", "lane_prompts"}
FOR_ARRAYS |= {"lane", "of", "at", "sees", "order", "since", "until", "side", "on_step", "schedule"}
TIMES = {
    "since": np.zeros((2, 2), int),
    "until": np.ones((2, 2), int),
    "side": np.eye(2, dtype=bool),
}


def small(n: int = 1) -> tinylane.Decoding:
    return tinylane.Decoding(MODEL, [1], n, lane_mask=tinylane.LaneMask.joint(2))


def stepped(n: int = 1, **more: Any) -> tinylane.Decoding:
    decoding = tinylane.Decoding(MODEL, [1], n, lane_mask=tinylane.LaneMask.joint(2), **more)
    decoding.step()
    return decoding


def started() -> tinylane.LaneCache:
    return stepped().cache


def reloaded(**given: Any) -> tinylane.LaneCache:
    started().save("saved.safetensors")
    return tinylane.LaneCache.load("saved.safetensors", **given)


SHELL_GAME = Path(__file__).parents[2] / "weights" / "shell-game"
LOADED = tinylane.load(SHELL_GAME, backend="numpy")
TOKENIZER = LOADED.tokenizer
PROMPT = {"prompt": "A", "raw": None, "system": None, "prefill": None, "template_args": None}
OWN = {"prompt_lane": "own"}
DECODE = {"model": MODEL, "prompt": [1, 2], "lanes": 1, "max_tokens": 1}
LOAD = {"source": SHELL_GAME, "backend": "numpy", "dtype": "auto", "ops": "auto"}
LOAD |= {"adapter": None, "revision": None, "lanes": 1, "prompt_tokens": 0, "max_tokens": 0}
PASS = {"tokens": [1, 2], "positions": [0, 1], "lanes": [-1, -1]}
PASS |= dict.fromkeys(("lane_rope", "lane_mask", "cache", "rows"))
CACHED = {"lane_rope": None, "lane_mask": None}
MODE = {"name": "joint", "model": MODEL, "lanes": 2, "slot": 4, "omega": "ntk", "scale": 2.0}
MODE |= {**OWN, "visibility": None, "lag": None}
DRAW = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
# by name: a public function, and arguments that are right
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "load": (tinylane.load, LOAD),
    "Decoding": (tinylane.Decoding, DECODE),
    "generate": (tinylane.generate, {**DECODE, "on_step": None}),
    "stream": (lambda **x: list(tinylane.stream(**x)), DECODE),
    "call": (MODEL, PASS),
    "call_cached": (lambda **x: MODEL([1], [0], [0], cache=MODEL.new_cache(), **x), CACHED),
    "new_cache": (MODEL.new_cache, {"lane_rope": None}),
    "vote": (tinylane.vote, {"result": ["1"], "pattern": None, "extract": None, "key": None}),
    "best_of": (tinylane.best_of, {"result": RESULT, "score": None}),
    "extract": (tinylane.extract, {"text": "is 4", "pattern": None, "marked": False}),
    "LaneRoPE": (tinylane.LaneRoPE, {"omega": THETA, **OWN}),
    "none": (tinylane.LaneRoPE.none, {"theta": THETA, **OWN}),
    "group_think": (tinylane.LaneRoPE.group_think, {"theta": THETA, "slot": 4, **OWN}),
    "ntk": (tinylane.LaneRoPE.ntk, {"theta": THETA, "slot": 4, "scale": 2, **OWN}),
    "LaneMask": (tinylane.LaneMask, {"visibility": np.ones((2, 2), bool), "lag": 0}),
    "independent": (tinylane.LaneMask.independent, {"n": 2}),
    "joint": (tinylane.LaneMask.joint, {"n": 2, "lag": 0}),
    "neighbours": (tinylane.LaneMask.neighbours, {"n": 2, "k": 1, "lag": 0}),
    "star": (tinylane.LaneMask.star, {"n": 2, "lag": 0}),
    "named": (tinylane.LaneMask.named, {"name": "joint", "n": 2, "lag": 0}),
    "mode": (tinylane.mode, MODE),
    "Sampler": (tinylane.Sampler, {**DRAW, "logit_bias": None}),
    "from_config": (tinylane.Sampler.from_config, {"defaults": None}),
    "join": (lambda **x: small().join(**x), {"prompt": (), "max_tokens": 2, "sees": None}),
    "join_at": (lambda **x: small().join([1], sees="none", **x), {"at": None}),
    "fork": (lambda **x: small().fork(**x), {"source": 0, "max_tokens": None}),
    "drop": (lambda **x: small().drop(**x), {"lane": 0}),
    "finish": (lambda **x: small().finish(**x), {"lane": 0, "reason": "enough"}),
    "seal": (lambda **x: stepped().seal(**x), {"lane": 0}),
    "read": (lambda **x: stepped(2).read(**x), {"lane": 0, "of": 1, "yes": True}),
    "arrange": (lambda **x: stepped(2, lane_rope=Hogwild()).arrange(**x), {"lanes": [0]}),
    "pause": (lambda **x: stepped().pause(**x), {"lane": 0}),
    "resume": (lambda **x: stepped().resume(**x), {"lane": 0}),
    "give": (lambda **x: stepped().give(**x), {"lane": 0, "tokens": [1]}),
    "giving": (lambda **x: stepped().giving(**x), {"lane": 0}),
    "peek": (lambda **x: stepped().peek(**x), {"lane": 0, "tokens": [1]}),
    "reread": (lambda **x: stepped().reread(**x), {"lanes": [0]}),
    "end": (lambda **x: stepped().end(**x), {"lanes": [0]}),
    "position": (lambda **x: stepped().position(**x), {"lane": 0}),
    "Hogwild": (Hogwild, {"order": ()}),
    "silence": (tinylane.LaneMask.joint(2).silence, {"lane": 0}),
    "bridge": (tinylane.LaneMask.bridge, {"n": 2}),
    "times": (lambda **x: tinylane.LaneMask(np.ones((2, 2), bool), **x), TIMES),
    "rope": (MODEL.rope, {"lane_rope": None, "mask": None}),
    "mask": (MODEL.mask, {"n": 2}),
    "cache_fork": (lambda **x: started().fork(**x), {"source": 0, "target": 1}),
    "cache_drop": (lambda **x: started().drop(**x), {"lane": 0}),
    "cache_trim": (lambda **x: started().trim(**x), {"position": 1}),
    "cache_copy": (lambda **x: started().copy(**x), {"lanes": None}),
    "cache_save": (lambda **x: started().save(**x), {"path": "/nowhere/x"}),
    "prompt_ids": (lambda prompt, **x: TOKENIZER.prompt_ids(prompt, **x), PROMPT),
    "encode": (TOKENIZER.encode, {"text": "a"}),
    "decode": (TOKENIZER.decode, {"ids": [1]}),
    "text_stream": (TOKENIZER.stream, {"stop": ()}),
    "template": (
        lambda **x: tinylane.generate(LOADED, "A", max_tokens=1, template=x),
        {k: v for k, v in PROMPT.items() if k != "prompt"},
    ),
    "tolerance": (tolerance, {"dtype": "float32", "scale": 1.0, "angle": 0.0}),
    "cache": (tinylane.LaneCache.load, {"path": "/nowhere/x", "model": MODEL}),
    "cache_load": (reloaded, {"model": MODEL, "lane_rope": None, "lane_mask": None}),
}
CASES = [(name, argument) for name, (_, right) in CALLS.items() for argument in right]
CASES += [("Decoding", field.name) for field in fields(Settings) if field.name != "max_tokens"]


@pytest.mark.parametrize("name, argument", CASES)
def test_a_value_of_a_wrong_kind_is_one_clear_line_or_is_taken(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # "4" is the name of a file too
    function, right = CALLS[name]
    for value in WRONG + (ARRAYS if argument in FOR_ARRAYS else []):
        try:
            function(**{**right, argument: value})
        except tinylane.TinylaneError as error:
            line = str(error)
            assert len(line) > 10 and "\n" not in line, (value, line)
        except Exception as error:
            raise AssertionError(f"{name}({argument}={value!r}): {error!r}") from error


@pytest.mark.parametrize("settings", [{"template_args": 5}, {"temperature": 1}])
def test_a_setting_that_is_none_is_named_with_those_there_are(settings: dict[str, Any]) -> None:
    for call in (tinylane.generate, tinylane.Decoding, lambda *x, **y: [*tinylane.stream(*x, **y)]):
        with pytest.raises(tinylane.TinylaneError, match=r"is no setting; expected one of max_tok"):
            call(MODEL, [1], **settings)
    with pytest.raises(tinylane.TinylaneError, match="'tools' is no way to write a prompt"):
        tinylane.generate(LOADED, "A", template={"tools": []})


def test_integers_of_numpy_are_taken_wherever_integers_are() -> None:
    five = np.int64(5)
    decoding = tinylane.Decoding(MODEL, [1, 2], 2, lane_mask=tinylane.LaneMask.joint(2), stop=five)
    assert decoding.join([3], sees=[np.int64(0)], at=five).start == 6
    assert decoding.position(np.int64(2)) == 6 and decoding.end([np.int64(2)]) == 6
    decoding.step()
    assert decoding.end(np.array([0, 1])) == 3 and decoding.reread(np.array([2]))[0] == 3
    assert not decoding.giving(np.int64(1))
    assert Hogwild([np.int64(1), 0]).order == (1, 0)
    told = json.loads(json.dumps([decoding.result().settings["stop"], decoding.events]))
    assert told[0] == [5] and told[1][0]["at"] == 5


@pytest.mark.parametrize(
    "do, says",
    [
        (lambda d: d.position(99), r"lane 99; there are lanes 0 \.\. 1"),
        (lambda d: d.end([77]), r"lane 77; there are lanes 0 \.\. 1"),
        (lambda d: d.end(1), "end is 1; expected lanes"),
        (lambda d: d.arrange(1), "arrange is 1; expected lanes"),
        (lambda d: d.reread(1), "reread is 1; expected lanes"),
        (lambda d: d.giving([0]), r"lane \[0\]; there are lanes 0 \.\. 1"),
        (lambda d: d.join([1], sees=[2]), r"lane 2; there are lanes 0 \.\. 1"),
        (lambda d: d.join([1], sees=3), "sees is 3; expected all, none, or lanes"),
        (lambda d: d.read(0, 1, "no"), "yes is 'no'; expected true or false"),
    ],
)
def test_a_lane_that_is_not_there_is_said_with_those_there_are(
    do: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(tinylane.TinylaneError, match=says):
        do(stepped(2))


# What is called must do something when it is called.


def writes(decoding: Any) -> Any:
    decoding.finish(0)
    yield


async def waits(decoding: Any) -> None:
    decoding.finish(0)


async def both(decoding: Any) -> Any:
    yield decoding.finish(0)


class Writes:
    def __call__(self, decoding: Any) -> Any:
        yield decoding.finish(0)


@pytest.mark.parametrize("schedule", [writes, waits, both, Writes(), partial(writes)])
@pytest.mark.parametrize("name", ["schedule", "on_step"])
def test_a_generator_or_a_coroutine_that_would_never_run_is_refused_by_name(
    name: str, schedule: Any
) -> None:
    with pytest.raises(tinylane.TinylaneError, match=f"{name} is a generator or coroutine funct"):
        tinylane.generate(MODEL, [1], max_tokens=2, **{name: schedule})


@pytest.mark.parametrize("made", [writes, both])
def test_a_schedule_that_gives_a_generator_back_is_refused(made: Any) -> None:
    """A lambda or a decorator around a generator function: only the call shows it."""
    with pytest.raises(tinylane.TinylaneError, match="schedule is a generator or coroutine funct"):
        tinylane.generate(MODEL, [1], max_tokens=2, schedule=lambda d: made(d))


class Odd(tinylane.Sampler):
    """A sampler of somebody's own."""

    gives: Any = None

    def __call__(self, logits: Any, uniforms: Any, history: Any) -> Any:
        return self.gives


@pytest.mark.parametrize(
    "gives",
    [None, 5, ([1], [0.0]), ([1, 2], [0, 0]), ([1.0, 2.0], [0.0, 0.0]), ([1, 99], [0.0, 0.0])],
)
def test_a_sampler_of_one_s_own_gives_tokens_and_numbers_or_is_told_what_it_gave(
    gives: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Odd, "gives", gives)
    with pytest.raises(tinylane.TinylaneError, match=r"sampler gave .*; expected 2 tokens, 2 log"):
        tinylane.generate(MODEL, [1], lanes=2, max_tokens=2, sampler=Odd())
    monkeypatch.setattr(Odd, "gives", ([1, 2], [-0.5, -0.5]))
    result = tinylane.generate(MODEL, [1], lanes=2, max_tokens=2, sampler=Odd())
    assert [lane.tokens for lane in result.lanes] == [[1, 1], [2, 2]]
