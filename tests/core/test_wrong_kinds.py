"""Arguments of a wrong kind, to every public function: one clear TinylaneError, or it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinylane
from tinylane.core.config import ModelConfig
from tinylane.core.decoding import Settings
from tinylane.core.random_weights import random_params
from tinylane.testing import tolerance

CONFIG = ModelConfig(vocab=40, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=32)
MODEL = tinylane.Model(CONFIG, random_params(CONFIG, seed=0))
THETA = MODEL.theta
RESULT = tinylane.generate(MODEL, [1, 2], max_tokens=1)
WRONG = [None, True, -1, 1.5, float("nan"), 10**400, "4", "", b"4", [], [None], ["4"], [[1]], ()]
WRONG += [{}, {"a": 1}, {0: 1}, set(), object(), range(3), iter("a")]
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


def small(n: int = 1) -> tinylane.Decoding:
    return tinylane.Decoding(MODEL, [1], n, lane_mask=tinylane.LaneMask.joint(2))


def started() -> tinylane.LaneCache:
    decoding = small()
    decoding.step()
    return decoding.cache


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
    "join": (lambda **x: small().join(**x), {"prompt": (), "max_tokens": 2}),
    "fork": (lambda **x: small().fork(**x), {"source": 0, "max_tokens": None}),
    "drop": (lambda **x: small().drop(**x), {"lane": 0}),
    "finish": (lambda **x: small().finish(**x), {"lane": 0}),
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
