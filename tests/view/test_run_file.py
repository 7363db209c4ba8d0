"""run.json: what was saved comes back, nothing else is believed, and replay checks every number."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from helpers_lanes import FREE, WARM, omega, small
from helpers_run import F64, finished, lived, reloaded, set_
from helpers_text import byte_level
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import generate
from tinylane.view import run_file
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

# Saving and loading.


@pytest.mark.parametrize(
    "sampler",
    [
        WARM,
        FREE,
        Sampler(0.6, top_p=0.9, top_k=9, min_p=0.01, repetition_penalty=1.1, logit_bias={2: 1.5}),
    ],
    ids=["plain", "banned", "all"],
)
def test_a_run_comes_back_as_it_was_saved(sampler, tmp_path):
    result = finished(F64, sampler=sampler, seed=2**128 - 1)
    run = reloaded(tmp_path, result, F64, extra={"answer": ["42", None, 1.5]})
    assert run.result.lanes == result.lanes and run.result.prompt == result.prompt
    assert run.result == result
    assert (run.model_source, run.identity) == ("some/model", "small")
    assert (run.backend, run.dtype, run.seed) == ("numpy", "float64", 2**128 - 1)
    assert run.sampler == sampler and run.extra == {"answer": ["42", None, 1.5]}
    assert run.lane_rope.same_as(omega(F64)) and run.lane_mask.same_as(LaneMask.joint(5, lag=1))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    save_run(tmp_path / "again.json", run.result, F64, run.model_source, run.extra)
    assert (tmp_path / "again.json").read_text() == (tmp_path / "run.json").read_text()


def test_a_saved_run_can_be_run_again_from_its_file(tmp_path):
    """The settings are all there: the same lanes come out (mlx-lm 1245)."""
    result = finished(F64)
    run = reloaded(tmp_path, result, F64)
    again = generate(
        F64,
        run.result.prompt,
        lanes=3,
        lane_prompts=[lane.prompt for lane in run.result.lanes],
        max_tokens=[lane.max_tokens for lane in run.result.lanes],
        lane_rope=run.lane_rope,
        lane_mask=run.lane_mask,
        sampler=run.sampler,
        seed=run.seed,
    )
    assert again.lanes == result.lanes


def test_texts_of_any_kind_come_back(tmp_path):
    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    model = small(vocab=tokenizer.vocab_size, tokenizer=tokenizer)
    result = generate(model, "Überall 🎾", lanes=2, max_tokens=30, sampler=WARM, stop=["\u2028"])
    run = reloaded(tmp_path, result, model, extra={"odd": "\ud83c \u2028 \x1b \x00"})
    assert run.result == result and any(lane.text for lane in run.result.lanes)
    assert run.prompt_text == "Überall 🎾"
    assert run.extra == {"odd": "\ud83c \u2028 \x1b \x00"}


def test_a_run_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    result = finished(F64)
    with pytest.raises(TinylaneError, match="not JSON"):
        save_run(tmp_path / "run.json", result, F64, "x", extra={"array": np.zeros(2)})
    with pytest.raises(TinylaneError, match="not JSON"):
        save_run(tmp_path / "run.json", result, F64, "x", extra={"nan": math.nan})
    with pytest.raises(TinylaneError, match="cannot be written"):
        save_run(tmp_path / "absent" / "run.json", result, F64, "x")
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "format": (set_("format", "tinylane run 9"), "not a run"),
    "no format": (set_("format", KeyError), "not a run"),
    "no model": (set_("model", KeyError), "model is missing"),
    "model a list": (set_("model", []), r"model is \[\]"),
    "identity": (set_("model", "identity", 5), "identity is 5"),
    "no prompt": (set_("prompt", "ids", []), "prompt.ids is empty"),
    "prompt ids": (set_("prompt", "ids", [1, -1]), "ids is"),
    "prompt bools": (set_("prompt", "ids", [True]), "ids is"),
    "prompt text": (set_("prompt", "text", None), "text is missing"),
    "no lanes": (set_("lanes", []), "0 lanes"),
    "lanes a text": (set_("lanes", "three"), "lanes is 'three'"),
    "lane a number": (set_("lanes", 0, 7), "lane 0 is 7"),
    "lane without text": (set_("lanes", 0, "text", KeyError), "lane 0 is"),
    "lane with more": (set_("lanes", 0, "more", 1), "lane 0 is"),
    "index": (set_("lanes", 1, "index", 0), "lane 1.index is 0; expected"),
    "tokens": (set_("lanes", 0, "tokens", [1.0] * 8), "tokens is"),
    "logprobs short": (
        set_("lanes", 0, "logprobs", [-1.0]),
        "logprobs is .* 8 numbers",
    ),
    "logprobs texts": (
        set_("lanes", 0, "logprobs", ["-1"] * 8),
        "logprobs is .* 8 numbers",
    ),
    "logprobs positive": (
        set_("lanes", 0, "logprobs", [2.0] * 8),
        "logprobs is .* 8 numbers",
    ),
    "start": (set_("lanes", 0, "start", 5), "start is 5"),
    "huge start": (set_("lanes", 0, "start", 1 << 40), "start is"),
    "max_tokens": (set_("lanes", 0, "max_tokens", 0), "max_tokens is 0"),
    "reason": (set_("lanes", 0, "finish_reason", 3), "finish_reason is 3"),
    "lane text": (set_("lanes", 0, "text", ["a"]), "text is"),
    "forked shape": (set_("lanes", 1, "forked", [0]), "forked is"),
    "forked from itself": (set_("lanes", 1, "forked", [1, 7]), "cannot be forked"),
    "forked too late": (set_("lanes", 1, "forked", [0, 70]), "cannot be forked"),
    "dropped early": (set_("lanes", 0, "dropped", 7), "dropped is 7"),
    "seed": (set_("settings", "seed", -1), "seed is"),
    "seed text": (set_("settings", "seed", "12a"), "seed is"),
    "seed large": (set_("settings", "seed", "9" * 39), "seed is"),
    "sampler field": (set_("settings", "sampler", "heat", 1), "sampler has fields"),
    "sampler value": (set_("settings", "sampler", "temperature", -1), "temperature"),
    "sampler text": (set_("settings", "sampler", "top_p", "0.5"), "top_p"),
    "bias": (set_("settings", "sampler", "logit_bias", [[1, 2, 3]]), "logit_bias holds"),
    "bias text": (set_("settings", "sampler", "logit_bias", [[1, "x"]]), "logit_bias"),
    "omega": (set_("settings", "omega", [["1", "2"]]), "omega is"),
    "omega ragged": (set_("settings", "omega", [[1.0], [1.0, 2.0]]), "omega is"),
    "omega mixed": (set_("settings", "omega", [[1.0], 2.0]), "omega is"),
    "omega empty": (set_("settings", "omega", []), "Omega has shape"),
    "prompt_lane": (set_("settings", "prompt_lane", 1), "prompt_lane is 1"),
    "visibility": (set_("settings", "visibility", [[1, 1]]), "visibility has shape"),
    "visibility values": (set_("settings", "visibility", [[2]]), "other than true and false"),
    "visibility small": (set_("settings", "visibility", [[1]]), "3 lanes, but visibility"),
    "lag": (set_("settings", "lag", -1), "lag is -1"),
    "lag real": (set_("settings", "lag", 1.0), "lag is 1.0"),
    "stop": (set_("settings", "stop", [1.5]), "stop is [^;]*; expected a list of texts"),
    "steps": (set_("steps", "8"), "steps is '8'"),
    "seconds": (set_("seconds", -1), "seconds is -1"),
    "extra": (set_("extra", None), "extra is missing"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder / "run.json", finished(F64), F64, "some/model")
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def saved_life(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("life")
    save_run(folder / "run.json", lived(), F64, "some/model")
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("what", WRONG)
def test_a_malformed_run_is_refused_in_one_line_that_names_the_field(what, saved, tmp_path):
    change, words = WRONG[what]
    raw, file = copy.deepcopy(saved), tmp_path / "run.json"
    change(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(TinylaneError, match=words) as caught:
        load_run(file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))


def test_files_that_are_no_run_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    for text in ("", "[]", "{}", '{"format": "tinylane run 1"}', "{" * 100_000, "\xff"):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(TinylaneError, match=r"run\.json"):
            load_run(file)
    with pytest.raises(TinylaneError):
        load_run(tmp_path)
    reloaded(tmp_path, finished(F64), F64)
    monkeypatch.setattr(run_file, "MAX_RUN", 100)
    with pytest.raises(TinylaneError, match="larger than 100 bytes"):
        load_run(file)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow,
          HealthCheck.function_scoped_fixture], derandomize=True)  # fmt: skip
@given(data=st.data())
def test_any_change_of_a_run_file_is_read_or_refused_and_never_crashes(data, saved, saved_life):
    """Values of any kind at any place."""
    raw = copy.deepcopy(data.draw(st.sampled_from([saved, saved_life])))
    at, key = None, None
    place = raw
    while isinstance(place, (dict, list)) and place:
        keys = sorted(place) if isinstance(place, dict) else range(min(len(place), 3))
        at, key = place, data.draw(st.sampled_from(keys))
        place = place[key]
        if data.draw(st.integers(0, 3)) == 0:
            break
    odd = st.sampled_from([None, True, -1, 0, 1, 1.5, 1e300, 10**19, "", "x", [], [[]], [None], {}])
    at[key] = data.draw(odd | st.lists(odd, max_size=2))
    try:
        run = run_file._run(raw)
    except TinylaneError as error:
        assert "\n" not in str(error)
    else:
        try:
            replay(run, F64)
        except TinylaneError as error:
            assert "\n" not in str(error)
