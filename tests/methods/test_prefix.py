"""Law 8 across decodings: what a new prompt shares with an earlier cache is as if it were fed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers_lanes import FREE, TOLERANCE, TWO, VOCAB, ids, model_of, omega, same, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planting import swap

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.oracle import naive
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding, generate
from tinylane.testing.additions import given as with_parameters
from tinylane.testing.machine import saved_and_loaded
from tinylane.testing.samples import random_extras

F64 = model_of("numpy", "float64")
TOKEN = st.integers(0, VOCAB - 1)
CHEAP = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
ROTATIONS = ("none", "random", "layers", "hogwild")


def rotation(model: Any, name: str, prompt_lane: Any) -> Any:
    return Hogwild() if name == "hogwild" else omega(model, name, prompt_lane)


@st.composite
def turns(draw: Any) -> dict[str, Any]:
    """Two turns: the second begins with a part of the first prompt, perhaps of a lane's text."""
    n = draw(st.integers(1, 3))
    name = draw(st.sampled_from(["independent", "independent", "joint", "star"]))
    return {
        "prompt": draw(st.lists(TOKEN, min_size=1, max_size=6)),
        "own": draw(st.lists(st.lists(TOKEN, max_size=2), min_size=n, max_size=n)),
        "mask": LaneMask.named(name, n, draw(st.integers(0, 1))),
        "rope": (draw(st.sampled_from(ROTATIONS)), draw(st.sampled_from(["own", 0]))),
        "steps": draw(st.integers(0, 5)),
        "lane": draw(st.integers(0, n - 1)),
        "keep": draw(st.integers(0, 14)),
        "new": draw(st.lists(TOKEN, min_size=1, max_size=4)),
        "seed": draw(st.integers(0, 99)),
        "how": draw(st.sampled_from(["as it is", "copied", "saved"])),
    }


def second_turn(model: Any, t: dict[str, Any]) -> tuple[Decoding, Decoding, list[int]]:
    """The first decoding after its steps, the second with its cache, and the second's prompt."""
    rope, n = rotation(model, *t["rope"]), len(t["own"])
    lanes = {"lanes": n, "lane_rope": rope, "lane_mask": t["mask"], "sampler": FREE}
    first = Decoding(model, t["prompt"], lane_prompts=t["own"], seed=t["seed"], **lanes)
    for _ in range(t["steps"]):
        first.step()
    written = first.lanes[t["lane"]]
    prompt = [*t["prompt"], *written.prompt, *written.tokens][: t["keep"]] + t["new"]
    cache = first.cache
    if t["how"] == "copied":
        cache = cache.copy()
    if t["how"] == "saved":
        cache = saved_and_loaded(cache)
    return first, Decoding(model, prompt, max_tokens=3, cache=cache, seed=5, **lanes), prompt


def fed_once(t: dict[str, Any], first: Decoding, prompt: list[int]) -> int:
    """How many tokens of `prompt` need not be fed again, by definition."""
    texts = [t["prompt"]]
    plain = t["rope"][0] != "hogwild" and (t["rope"] == ("none", 0) or t["rope"][1] == "own")
    if len(t["own"]) == 1 or t["mask"].visibility.sum() == len(t["own"]):  # nobody reads another
        gap = max(map(len, t["own"]))
        for lane in first.lanes:
            fed = [*lane.prompt, *lane.tokens[: max(t["steps"] - 1, 0)]] if t["steps"] else []
            if len(lane.prompt) == gap and (
                plain or (len(t["own"]) == 1 and t["rope"][0] != "hogwild")
            ):
                texts.append(t["prompt"] + fed)
    common = lambda text: next(
        (k for k, (a, b) in enumerate(zip(text, prompt[:-1], strict=False)) if a != b),
        min(len(text), len(prompt) - 1),
    )
    return max(map(common, texts))


def check(model: Any, t: dict[str, Any], tolerance: float) -> None:
    first, second, prompt = second_turn(model, t)
    assert second.reused == fed_once(t, first, prompt)
    assert second.cache.tokens.tolist() == prompt and (second.cache.lanes == SHARED).all()
    for _ in second:
        pass
    slow = naive(
        model, prompt, [[]] * len(t["own"]), 3, FREE, rotation(model, *t["rope"]), t["mask"], 5
    )
    same(second.lanes, slow, tolerance)


@settings(max_examples=150, **CHEAP)
@given(turns())
def test_a_second_turn_with_a_cache_is_the_uncached_one_in_float64(t):
    check(F64, t, TOLERANCE["float64"])


# Derandomized: in float32 a draw within rounding of a boundary may fall to either side.
@settings(max_examples=40, derandomize=True, **CHEAP)
@given(turns())
def test_a_second_turn_with_a_cache_is_the_uncached_one_on_mlx(t):
    check(model_of("mlx", "float32"), t, TOLERANCE["float32"])


TALK = {
    "prompt": ids(6), "own": [[], [1]], "mask": LaneMask.independent(2), "rope": ("none", "own"),
    "steps": 5, "lane": 1, "keep": 10, "new": ids(3, 9), "seed": 1, "how": "as it is",
}  # fmt: skip
PLANTS = {
    "a token too many": swap("prefix.keep_prefix", "int(same.argmin())", "int(same.argmin()) + 1"),
    "positions not looked at": swap(
        "prefix.keep_prefix", "same &= cache.positions[rows] == np.arange(len(rows))", "pass"
    ),
    "text of lanes that read each other": swap(
        "prefix._plain",
        "if not isinstance(rope, LaneRoPE) or mask is None or not mask.alone or tables:",
        "if False:",
    ),
    "keys of a turned lane": swap("prefix._plain", "mask.n == 1 or not rope.omega.any()", "True"),
    "rows that keep their lane": swap(
        "prefix.keep_prefix", "cache.lanes = np.full_like(best, SHARED)", "pass"
    ),
}  # fmt: skip
CAUGHT_BY = {
    "a token too many": {"keep": 8},
    "positions not looked at": {"lane": 0},
    "text of lanes that read each other": {"mask": LaneMask.joint(2)},
    "keys of a turned lane": {"rope": ("layers", 0)},
    "rows that keep their lane": {},
}


@pytest.mark.parametrize("bug", PLANTS)
def test_the_comparison_catches_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative controls, by the log-probabilities too: the count alone would catch most."""
    t = TALK | CAUGHT_BY[bug]
    check(F64, t, TOLERANCE["float64"])
    PLANTS[bug](monkeypatch)
    monkeypatch.setattr(
        f"{__name__}.fed_once", lambda t, first, prompt: second_turn(F64, t)[1].reused
    )
    with pytest.raises(AssertionError):
        check(F64, t, TOLERANCE["float64"])


@TWO
def test_each_turn_of_a_conversation_feeds_only_what_is_new(kind, monkeypatch):
    """Three turns, one lane: the prompt, then what came since; the same cache goes along."""
    model = model_of(*kind)
    fed: list[int] = []
    put = LaneCache.put
    monkeypatch.setattr(
        LaneCache,
        "put",
        lambda c, k, *new: [fed.append(new[0].shape[-2]) if k == 0 else 0, put(c, k, *new)][1],
    )
    history, cache, reused = ids(40), None, []
    for turn in range(3):
        fed.clear()
        decoding = Decoding(model, history, max_tokens=8, cache=cache, sampler=FREE)
        assert sum(fed) == len(history) - decoding.reused
        reused.append((decoding.reused, sum(fed)))
        for _ in decoding:
            pass
        uncached = generate(model, history, max_tokens=8, sampler=FREE)
        same(decoding.lanes, uncached.lanes, TOLERANCE[kind[1]])
        cache = decoding.cache
        history = history + decoding.lanes[0].tokens + ids(5, seed=turn)
    # 7 of the 8 tokens of an answer were fed: the last one ended it
    assert reused == [(0, 40), (47, 6), (60, 6)]


def test_the_lane_that_goes_furthest_is_the_one_that_is_kept():
    first = Decoding(F64, ids(5), 4, max_tokens=7, sampler=Sampler(temperature=1.0), seed=3)
    for _ in first:
        pass
    for lane in first.lanes:
        fed = lane.tokens[:-1]
        second = Decoding(
            F64, [*ids(5), *fed, 2, 2], 2, cache=first.cache.copy(), lane_mask=LaneMask.joint(2)
        )
        assert second.reused == 5 + len(fed)
        assert second.mask.n == 2 and second.cache.lane_mask is second.mask


def after_a_lane(model: Any, mask: LaneMask) -> int:
    """How many tokens of a prompt of 5, and of what a lane wrote behind it, are not fed again."""
    how: dict[str, Any] = {"lane_rope": LaneRoPE.none(model.theta), "lane_mask": mask}
    first = Decoding(model, ids(5), 2, max_tokens=4, sampler=FREE, seed=3, **how)
    for _ in first:
        pass
    prompt = [*ids(5), *first.lanes[0].tokens[:3], 2]
    return Decoding(model, prompt, 2, cache=first.cache, **how).reused


def test_a_lane_s_text_counts_as_prompt_only_where_it_is_what_a_prompt_would_be():
    """Without a rotation of lanes: not of lanes that read each other, and not where a table has a
    row for each lane."""
    assert after_a_lane(F64, LaneMask.independent(2)) == 8
    assert after_a_lane(F64, LaneMask.joint(2)) == after_a_lane(F64, LaneMask.star(2)) == 5
    for kind, kept in (("lane_embed", 5), ("lane_kv", 5), ("bridge", 8)):
        more = with_parameters(F64, random_extras(F64.config, (kind,), 2, 0))
        assert after_a_lane(more, LaneMask.independent(2)) == kept, kind


def test_a_cache_of_the_prompt_alone_serves_every_rotation_and_mask():
    """As a server keeps it: `copy(lanes=[])`; four joint lanes, then one, then Hogwild."""
    mask, rope = LaneMask.joint(4), omega(F64)
    first = Decoding(F64, ids(9), 4, lane_mask=mask, lane_rope=rope, sampler=FREE, max_tokens=4)
    for _ in first:
        pass
    kept = first.cache.copy(lanes=[])
    assert (kept.lanes == SHARED).all() and len(kept) == 9 and len(first.cache) > 9
    for n, rope, mask in (
        (1, LaneRoPE.none(F64.theta), LaneMask.joint(1)),
        (3, omega(F64, "ntk", 0), LaneMask.star(3)),
        (2, Hogwild(), LaneMask.joint(2)),
    ):
        prompt = [*ids(9), 1, 2]
        run = Decoding(
            F64, prompt, n, lane_rope=rope, lane_mask=mask, sampler=FREE, cache=kept.copy(),
            max_tokens=3, seed=2,
        )  # fmt: skip
        assert run.reused == 9
        list(run)
        slow = naive(F64, prompt, [[]] * n, 3, FREE, rope, mask, 2)
        same(run.lanes, slow, TOLERANCE["float64"])


def test_a_cache_of_another_model_or_rotation_is_refused_and_stays_what_it_was():
    mask = LaneMask.joint(2)
    first = Decoding(F64, ids(5), 2, lane_rope=omega(F64), lane_mask=mask, sampler=FREE)
    first.step(), first.step()
    before = first.cache.positions.tolist()
    for model, more, words in (
        (small(seed=1), {"lane_rope": omega(F64)}, "another model"),
        (F64, {"lane_rope": omega(F64, "ntk")}, "another Omega"),
        (F64, {"lane_rope": omega(F64, "layers", 0)}, "prompt_lane"),
        (F64, {"lane_rope": Hogwild()}, "rotation"),
        (F64, {"lane_rope": omega(F64), "lane_prompts": [[1], [VOCAB]]}, "vocabulary"),
    ):
        with pytest.raises(TinylaneError, match=words) as caught:
            Decoding(model, ids(5), 2, lane_mask=mask, cache=first.cache, **more)
        assert "\n" not in str(caught.value)
        assert first.cache.positions.tolist() == before
    first.step()  # and goes on


def test_rows_fed_by_hand_count_by_their_tokens_and_those_without_do_not():
    cache = F64.new_cache()
    F64(ids(4), [0, 1, 2, 3], [SHARED] * 4, cache=cache)
    assert Decoding(F64, [*ids(4), 1], cache=cache.copy()).reused == 4
    cache.tokens = np.full(4, -1)
    assert Decoding(F64, [*ids(4), 1], cache=cache).reused == 0
    moved = F64.new_cache()
    F64(ids(4), [1, 2, 3, 4], [SHARED] * 4, cache=moved)  # not where a prompt stands
    assert Decoding(F64, [*ids(4), 1], cache=moved).reused == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"chunk": 0},
        {"sampler": 3},
        {"lane_mask": LaneMask.joint(1)},
        {"lane_mask": 3},
        {"schedule": 3},
        {"total_tokens": 1},
        {"top_logprobs": -1},
        {"stop": [""]},
        {"max_tokens": [1]},
        {"max_tokens": 0},
        {"lane_prompts": [[1]]},
        {"lane_prompts": [[1], [1] * F64.config.context]},
    ],
    ids=str,
)
def test_a_decoding_that_is_refused_leaves_the_cache_as_it_was(wrong: dict[str, Any]) -> None:
    """Another prompt would keep only its first tokens."""
    first = Decoding(F64, ids(9), 2, max_tokens=3, sampler=FREE)
    list(first)
    rows = [first.cache.tokens.tolist(), first.cache.lanes.tolist(), first.cache.lane_mask]
    with pytest.raises(TinylaneError):
        Decoding(F64, ids(9)[:4], 2, cache=first.cache, **wrong)
    after = first.cache
    assert [after.tokens.tolist(), after.lanes.tolist(), after.lane_mask] == rows


def test_a_rotation_that_lace_refuses_leaves_the_cache_as_it_was() -> None:
    model = with_parameters(F64, random_extras(F64.config, ("lace",), 2, 0))
    how: dict[str, Any] = {"lane_rope": Hogwild(), "sampler": FREE}
    first = Decoding(model, ids(5), 2, lane_mask=LaneMask.joint(2), max_tokens=3, **how)
    list(first)
    rows = len(first.cache)
    side = replace(LaneMask.joint(2), side=np.ones((2, 2)))
    with pytest.raises(TinylaneError, match="give a LaneRoPE"):
        Decoding(model, ids(5)[:3], 2, lane_mask=side, cache=first.cache, **how)
    assert len(first.cache) == rows
