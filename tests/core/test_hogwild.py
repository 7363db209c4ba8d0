"""Hogwild! (arXiv:2504.06261): every row reads one plain sequence, through keys that never move.

What is compared, and why it is exact: with one layer a row's logits are those of the unmodified
model at the end of the row's view written out as tokens, because keys and values of one layer
depend on tokens alone. Deeper, other lanes' rows hold what they read in views of their own, so the
oracle goes layer by layer: every row of a layer attends, in complex numbers of float64, to the
hidden states of its view laid out as one list (`testing.reference.view_distances`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, FREE, TOLERANCE, ids, log_softmax, model_of
from planting import Patch, Plant, swap
from plants_lanes import yarn_factor

from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.rope import frequencies, rotate, table
from tinylane.methods.decoding import generate
from tinylane.testing import LawViolation, check, example_case
from tinylane.testing.reference import view_distances, visible_by_definition
from tinylane.view.attention import attention_weights, relative_angles

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
F64 = model_of("numpy", "float64")
LAWS = (
    "definition",
    "token shift",
    "lane shift",
    "storage order",
    "causality",
    "isolation",
    "steps",
    "backends",
    "company",
    "fork",
    "drop",
    "trim",
    "copy",
)
SEEDS = range(40)


def violated(law: str, kind: tuple[str, str], kinds: tuple[str, ...] = ()) -> str | None:
    """Check a law of `tinylane.testing` on the fixed cases, turned by Hogwild."""
    for seed in SEEDS:
        case = example_case(seed, kinds)
        try:
            check(law, case.model(*kind), case.sample.with_rope(Hogwild()), case.choose)
        except LawViolation as violation:
            return str(violation)
    return None


@ANY
@pytest.mark.parametrize("law", LAWS)
def test_the_laws_that_say_nothing_of_omega_hold(law: str, kind: tuple[str, str]) -> None:
    """The laws (method, section 5) without Omega's own, without the copied prompt (its place in a
    view is another), and without those about positions with gaps, which a view closes (see below
    for one lane and for independent lanes)."""
    assert violated(law, kind) is None


def test_yarn_s_factor_is_once_in_the_query_and_once_in_the_key() -> None:
    """hogwild_llm applied it again when it shifted a block."""
    assert violated("definition", ("numpy", "float64"), ("yarn",)) is None


def test_decoding_writes_what_the_uncached_generator_writes() -> None:
    assert violated("decoding", ("numpy", "float64")) is None


VIEWS = "hogwild.Hogwild.views"
OTHERS = "np.where(is_own, 0, length)"
BROKEN = [
    Plant(
        "the own block not last",
        "definition",
        swap(VIEWS, "np.where(is_own, others.sum(axis=1, keepdims=True), ", "("),
    ),
    Plant(
        "the prompt not first",
        "definition",
        swap(
            VIEWS, "others.cumsum(axis=1) - others", "others[:, ::-1].cumsum(1)[:, ::-1] - others"
        ),
    ),
    Plant(
        "a block as long as its lane, seen or not",
        "company",
        swap(VIEWS, OTHERS, "np.where(is_own, 0, (key_lanes == blocks[:, None]).sum(axis=1))"),
    ),
    Plant(
        "blocks as long as the first row of a pass sees them",
        "definition",
        swap(VIEWS, OTHERS, "np.where(is_own, 0, length[:1])"),
    ),
    Plant(
        "blocks as long as their part in this pass",
        "steps",
        swap(VIEWS, OTHERS, "np.where(is_own, 0, np.minimum(length, len(lanes)))"),
    ),
    Plant(
        "a query right behind the prompt",
        "definition",
        swap(VIEWS, "begin[is_own] + index", "length[:, 0] + index"),
    ),
    Plant(
        "keys turned by their place in the view",
        "definition",
        swap(VIEWS, "keys = index[:, None]", "keys = place[:, None]"),
    ),
    Plant(
        "keys turned by the clock",
        "definition",
        swap(VIEWS, "keys = index[:, None]", "keys = places[0][:, None]"),
    ),
    Plant(
        "the prompt's keys turned by the clock",
        "token shift",
        swap(VIEWS, "keys = index", "keys = np.where(lanes == SHARED, places[0], index)"),
    ),
    Plant("one turn for all blocks", "definition", swap(VIEWS, "(place - b)", "(place - 0 * b)")),
    Plant("turned by the block again", "definition", swap(VIEWS, "(place - b)", "(place - 2 * b)")),
    Plant(
        "two blocks taken to follow each other",
        "storage order",
        swap(VIEWS, "block_of.astype", "np.sort(block_of).astype"),
    ),
    Plant(
        "two blocks cut late",
        "definition",
        swap(VIEWS, "block_of.astype", "np.append(0, block_of[:-1]).astype"),
    ),
    Plant(
        "scores of another block",
        "definition",
        swap("decoder.scores", "block_of == block", "block_of == block - 1"),
    ),
    Plant("yarn's factor again in the query", "yarn", yarn_factor(0, 1)),
    Plant("yarn's factor again in the key", "yarn", yarn_factor(1, 0)),
    Plant("yarn's factor in keys only", "yarn", yarn_factor(0, -1)),
]


@pytest.mark.parametrize("plant", BROKEN, ids=[p.bug for p in BROKEN])
def test_a_broken_hogwild_is_caught(plant: Plant, monkeypatch: Patch) -> None:
    plant.plant(monkeypatch)
    law, kinds = (plant.law, ()) if plant.law != "yarn" else ("definition", ("yarn",))
    assert violated(law, ("numpy", "float64"), kinds) is not None


# The plain model, as it is.


def written_out(tokens: Any, positions: Any, lanes: Any, mask: LaneMask, t: int) -> list[int]:
    """The rows that row t sees as a reader would copy them into one text."""
    seen = visible_by_definition(positions, lanes, mask)[t]
    order = [SHARED, *(n for n in range(mask.n) if n != lanes[t]), lanes[t]]
    if lanes[t] == SHARED:
        order = [SHARED]
    return [
        int(s)
        for n in order
        for s in np.argsort(positions, kind="stable")
        if seen[s] and lanes[s] == n
    ]


def test_with_one_layer_a_row_is_the_plain_model_after_its_view() -> None:
    compared = 0
    for seed in SEEDS:
        case = example_case(seed)
        model = replace(case, config=replace(case.config, layers=1)).model()
        tokens, positions, lanes = case.sample.rows
        logits = model(tokens, positions, lanes, Hogwild(), case.sample.mask)
        for t in range(len(tokens)):
            view = written_out(tokens, positions, lanes, case.sample.mask, t)
            assert view[-1] == t
            line = np.arange(len(view))
            plain = model(tokens[view], line, np.full(len(view), SHARED))[-1]
            assert np.abs(logits[t] - plain).max() < 1e-11 * max(1, np.abs(plain).max())
            compared += len(view) > 2 and len(set(lanes[view])) > 2
    assert compared > 50  # rows that see the prompt, or another lane, and two lanes


def test_moving_the_query_is_moving_the_block() -> None:
    """R(a) q . R(b + j) k = R(a - b) q . R(j) k, and YaRN's factor enters as its square."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        config = example_case(seed, ("default", "yarn")).config
        theta, factor = frequencies(config.rope, config.head_dim)
        q, k = rng.standard_normal((2, 2 * len(theta)))
        a, b, j = rng.integers(0, 5000, 3)
        at = np.array([[a], [b + j], [a - b], [j]]) * theta
        whole, block, moved, index = rotate(np.stack([q, k, q, k]), *table(at, factor, np.float64))
        p, r = (x[: len(theta)] + 1j * x[len(theta) :] for x in (q, k))  # planes
        exact = (p.conj() * r * np.exp(1j * theta * (b + j - a))).real.sum() * factor**2
        assert abs(whole @ block - exact) < 1e-12 * (q @ q + k @ k)
        assert abs(moved @ index - exact) < 1e-12 * (q @ q + k @ k)


@ANY
def test_one_lane_is_the_plain_model(kind: tuple[str, str]) -> None:
    """Whichever lane it is, and whoever else could be there."""
    model, tokens, i = model_of(*kind), np.array(ids(12)), np.arange(12)
    plain = log_softmax(model(tokens, i, np.full(12, SHARED), LaneRoPE.none(model.theta)))
    for lane in (0, 2):
        lanes = np.where(i < 5, SHARED, lane)
        joint = log_softmax(model(tokens, i, lanes, Hogwild(), LaneMask.joint(3)))
        assert np.abs(joint - plain).max() < TOLERANCE[kind[1]]
    run = {"lanes": 1, "max_tokens": 8, "sampler": FREE, "seed": 3}
    alone, same = (generate(model, ids(5), **run, lane_rope=r) for r in (None, Hogwild()))
    assert alone.lanes[0].tokens == same.lanes[0].tokens


@ANY
def test_independent_lanes_are_separate_runs_behind_the_prompt(kind) -> None:
    """Lane prompts of any length: the clock makes a short one late, its view does not."""
    model, prompt, own = model_of(*kind), ids(5), [ids(4, 1), ids(1, 2), []]
    settings = {"sampler": FREE, "max_tokens": 6, "lane_mask": LaneMask.independent(3)}
    run = generate(model, prompt, lanes=3, lane_prompts=own, lane_rope=Hogwild(), **settings)
    assert run.settings["rotation"] == "hogwild"
    for lane in run.lanes:
        text = np.array(prompt + own[lane.index] + lane.tokens)
        whole = log_softmax(model(text, np.arange(len(text)), np.full(len(text), SHARED)))
        first = len(prompt) + len(own[lane.index])
        expected = whole[np.arange(first, len(text)) - 1, lane.tokens]
        assert np.abs(expected - lane.logprobs).max() < TOLERANCE[kind[1]]


def test_the_names_of_two_lanes_do_not_matter_the_order_of_three_does() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3):
        lanes = np.array([SHARED] * 3 + list(range(n)) * 4)
        positions = np.array([0, 1, 2] + [3 + k for k in range(4) for _ in range(n)])
        tokens, mask = rng.integers(0, 29, len(lanes)), LaneMask.joint(n)
        label = np.array([1, 0, 2, SHARED])
        a, b = (F64(tokens, positions, m, Hogwild(), mask) for m in (lanes, label[lanes]))
        assert (np.abs(a - b).max() < 1e-11) == (n == 2)
        # Not so with the rotation of lanes that have no order at all:
        none = LaneRoPE.none(F64.theta)
        a, b = (F64(tokens, positions, m, none, mask) for m in (lanes, label[lanes]))
        assert np.abs(a - b).max() < 1e-11


def test_the_decoder_s_angles_are_the_distances_in_the_view() -> None:
    """What plots and probes show is what the decoder turns by (`Rotation.views`)."""
    for seed in SEEDS:
        sample = example_case(seed).sample
        positions, lanes = sample.positions, sample.lanes
        seen = visible_by_definition(positions, lanes, sample.mask)
        apart = relative_angles(Hogwild(), F64.theta, sample.mask, positions, lanes)
        exact = view_distances(positions, lanes, seen)[..., None] * F64.theta
        assert np.abs(np.where(seen[..., None], apart - exact, 0)).max() < 1e-12
        assert (view_distances(positions, lanes, seen)[seen] <= 0).all()  # nothing stands ahead


def test_attention_weights_can_be_looked_at() -> None:
    """`probe.attention_weights` averages the identity by the same seam."""
    positions, lanes = np.array([0, 1, 2, 2, 3, 3]), np.array([SHARED, SHARED, 0, 1, 0, 1])
    mask = LaneMask.joint(2, 1)
    heard = attention_weights(F64, ids(6), positions, lanes, Hogwild(), mask)
    seen = visible_by_definition(positions, lanes, mask)
    assert np.allclose(heard.sum(axis=-1), 1) and (heard[..., ~seen] == 0).all()
    plain = attention_weights(F64, ids(6), positions, lanes, None, mask)
    assert np.abs(heard - plain).max() > 1e-3


# What the tests above would say of a broken one.

NOTICED = {
    "a query right behind the prompt": test_with_one_layer_a_row_is_the_plain_model_after_its_view,
    "one turn for all blocks": test_one_lane_is_the_plain_model,
    "keys turned by the clock": test_independent_lanes_are_separate_runs_behind_the_prompt,
    "the own block not last": test_the_names_of_two_lanes_do_not_matter_the_order_of_three_does,
    "the prompt not first": test_the_decoder_s_angles_are_the_distances_in_the_view,
}


@pytest.mark.parametrize("bug", NOTICED)
def test_the_comparisons_with_plain_text_notice(bug: str, monkeypatch: Patch) -> None:
    next(plant for plant in BROKEN if plant.bug == bug).plant(monkeypatch)
    test: Any = NOTICED[bug]
    with pytest.raises(AssertionError):
        test(("numpy", "float64")) if "kind" in test.__code__.co_varnames else test()
