"""Hogwild! (arXiv:2504.06261): every row reads one plain sequence, through keys that never move.

What is compared, and why it is exact: with one layer a row's logits are those of the unmodified
model at the end of the row's view written out as tokens, because keys and values of one layer
depend on tokens alone. Deeper, other lanes' rows hold what they read in views of their own, so the
oracle goes layer by layer: every row of a layer attends, in complex numbers of float64, to the
hidden states of its view laid out as one list (`testing.reference.view_distances`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, FREE, TOLERANCE, ids, log_softmax, model_of, omega, small
from planting import Patch, Plant, swap
from plants_decoder import yarn_factor

from tinylane import hogwild
from tinylane.decoding import Decoding, generate
from tinylane.errors import TinylaneError
from tinylane.hogwild import Hogwild
from tinylane.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.oracle import naive
from tinylane.probe import attention_weights, relative_angles
from tinylane.rope import frequencies, rotate, table
from tinylane.runfile import load_run, replay, save_run
from tinylane.sampling import Sampler
from tinylane.testing import LawViolation, check, example_case
from tinylane.testing.reference import view_distances, visible_by_definition

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
F64 = model_of("numpy", "float64")
LAWS = (
    "definition",
    "token shift",
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
    """SPEC 5 without lane shift, Omega's own laws, and those about positions with gaps, which a
    view closes (see below for one lane and for independent lanes)."""
    assert violated(law, kind) is None


def test_yarn_s_factor_is_once_in_the_query_and_once_in_the_key() -> None:
    """hogwild_llm applied it again when it shifted a block."""
    assert violated("definition", ("numpy", "float64"), ("yarn",)) is None


def test_decoding_writes_what_the_uncached_generator_writes() -> None:
    assert violated("decoding", ("numpy", "float64")) is None


VIEWS = "hogwild.Hogwild.views"
OTHERS = "np.where(own, 0, length)"
BROKEN = [
    Plant(
        "the own block not last",
        "definition",
        swap(VIEWS, "np.where(own, others.sum(axis=1, keepdims=True), ", "("),
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
        swap(VIEWS, OTHERS, "np.where(own, 0, (key_lanes == blocks[:, None]).sum(axis=1))"),
    ),
    Plant(
        "blocks as long as the first row of a pass sees them",
        "definition",
        swap(VIEWS, OTHERS, "np.where(own, 0, length[:1])"),
    ),
    Plant(
        "blocks as long as their part in this pass",
        "steps",
        swap(VIEWS, OTHERS, "np.where(own, 0, np.minimum(length, len(lanes)))"),
    ),
    Plant(
        "a query right behind the prompt",
        "definition",
        swap(VIEWS, "begin[own] + index", "length[:, 0] + index"),
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
        swap(VIEWS, "(block_of[:first] == 0).all()", "True"),
    ),
    Plant("two blocks cut late", "definition", swap(VIEWS, "queries, first", "queries, first + 1")),
    Plant(
        "scores of another block",
        "definition",
        swap("model.attention", "split == block", "split == block - 1"),
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


def test_with_one_layer_every_row_is_the_plain_model_at_the_end_of_its_view() -> None:
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
        found = log_softmax(model(tokens, i, lanes, Hogwild(), LaneMask.joint(3)))
        assert np.abs(found - plain).max() < TOLERANCE[kind[1]]
    run = {"lanes": 1, "max_tokens": 8, "sampler": FREE, "seed": 3}
    alone, same = (generate(model, ids(5), **run, lane_rope=r) for r in (None, Hogwild()))
    assert alone.lanes[0].tokens == same.lanes[0].tokens


@ANY
def test_independent_lanes_are_separate_runs_each_right_behind_the_prompt(kind) -> None:
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


# The cache: keys stand at their index in their lane and are never turned again.


def filled(model: Any, rope: Any = None) -> Any:
    """A prompt of 4, lanes 0 and 1 of two and three rows; lane 0 begins a step later."""
    cache = model.new_cache(rope or Hogwild(), LaneMask.joint(3))
    i, m = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6]), np.array([SHARED] * 4 + [1, 0, 1, 0, 1])
    model(np.array(ids(9)), i, m, cache=cache)
    return cache


@ANY
def test_keys_are_cached_at_their_index_in_their_lane_for_good(kind) -> None:
    model = small(*kind, layers=1)
    cache, index = filled(model), np.array([0, 1, 2, 3, 0, 0, 1, 1, 2])
    bare = model.new_cache(LaneRoPE.none(model.theta))
    for token in ids(9):  # at position 0 nothing is turned
        model([token], [0], [SHARED], cache=bare)
    turn = table(index[:, None] * model.theta, dtype=np.float64)
    before = [np.array(x) for x in cache.rows(0)]
    assert (
        np.abs(rotate(np.array(bare.rows(0)[0], dtype=np.float64), *turn) - before[0]).max() < 1e-5
    )
    model([1, 2], [7, 7], [0, 1], cache=cache)
    cache.fork(0, 2)
    keys, values = (np.array(x) for x in cache.rows(0))
    assert np.array_equal(keys[:, :9], before[0]) and np.array_equal(values[:, :9], before[1])
    assert np.array_equal(keys[:, 11:], keys[:, [5, 7, 9]])  # the copies: not turned at all


def test_a_row_before_a_cached_one_of_its_lane_is_refused(monkeypatch: Patch) -> None:
    """Its lane's cached keys would all stand one too early."""
    cache, late = filled(F64), ([1, 2], [3, 7], [0, 1])
    for rows, words in (
        (late, "position 3 of lane 0 comes after position 6 was cached"),
        (([1], [3], [SHARED]), "position 3 of the prompt comes after position 3"),
    ):
        with pytest.raises(TinylaneError, match=words):
            F64(*rows, cache=cache)
        assert len(cache) == 9  # nothing was put
    cache.trim(5)
    F64([1], [5], [0], cache=cache)  # trimmed rows may come again
    monkeypatch.setattr(hogwild, "_in_order", lambda places: None)
    wrong = F64(*late, cache=filled(F64))
    i, m = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6]), np.array([SHARED] * 4 + [1, 0, 1, 0, 1])
    columns = zip((ids(9), i, m), late, strict=True)
    whole = F64(*(np.concatenate([a, b]) for a, b in columns), Hogwild(), LaneMask.joint(3))
    assert np.abs(wrong - whole[9:]).max() > 1e-3


def test_a_cache_file_says_how_its_keys_are_turned(tmp_path: Path) -> None:
    file, next_ = tmp_path / "cache.safetensors", ([1, 2], [7, 7], [0, 1])
    cache = filled(F64)
    cache.save(file)
    loaded = type(cache).load(file, F64, Hogwild(), LaneMask.joint(3))
    assert isinstance(loaded.lane_rope, Hogwild)
    assert np.array_equal(F64(*next_, cache=loaded), F64(*next_, cache=cache))
    with pytest.raises(TinylaneError, match="rotation"):
        type(cache).load(file, F64, LaneRoPE.none(F64.theta))
    with pytest.raises(TinylaneError, match="another rotation"):
        F64(*next_, omega(F64), cache=loaded)
    filled(F64, omega(F64)).save(file)
    with pytest.raises(TinylaneError, match="rotation"):
        type(cache).load(file, F64, Hogwild())
    monster = filled(F64)
    monster.lane_rope = object()
    with pytest.raises(TinylaneError, match="rotation object cannot be saved"):
        monster.save(file)


# Decoding: joins, forks, drops, and the file that says it all again.


def busy(model: Any, mask: LaneMask, fork: bool = False) -> Decoding:
    """Two lanes; one joins late with a prompt, one is dropped, one is forked if asked for."""
    own = [ids(1, 1), ids(3, 2)]
    decoding = Decoding(
        model, ids(5), 2, lane_prompts=own, max_tokens=12, sampler=FREE, seed=5, lane_mask=mask,
        lane_rope=Hogwild(),
    )  # fmt: skip
    for _ in range(3):
        decoding.step()
    decoding.join(ids(2, 3), max_tokens=9)
    decoding.step()
    if fork:
        decoding.fork(1)
    for _ in range(2):
        decoding.step()
    decoding.drop(0)
    list(decoding)
    return decoding


@ANY
@pytest.mark.parametrize("lag", [0, 2])
def test_replay_gives_a_hogwild_run_again(kind, lag: int, tmp_path: Path) -> None:
    """Late joins and dropped lanes: a view shrinks with the rows that are gone, and not before."""
    model = model_of(*kind)
    for name, mask, fork in (
        ("joint", LaneMask.joint(4, lag), False),
        ("star", LaneMask.star(4, lag), False),
        ("independent", LaneMask.independent(4), True),
    ):
        result = busy(model, mask, fork).result()
        assert result.lanes[0].dropped is not None and len(result.lanes) == 3 + fork
        save_run(tmp_path / name, result, model)
        run = load_run(tmp_path / name)
        assert isinstance(run.lane_rope, Hogwild)
        assert replay(run, model).difference < TOLERANCE[kind[1]]
        other = replace(run, lane_rope=LaneRoPE.none(model.theta))
        assert replay(other, model).difference > 1e-2, name


def test_replay_needs_the_rows_that_had_been_dropped(tmp_path: Path) -> None:
    """The control: had lane 0 stayed, or never been, the others would have written otherwise."""
    save_run(tmp_path / "run", busy(F64, LaneMask.joint(4)).result(), F64)
    for change in (None, 6):
        run = load_run(tmp_path / "run")
        run.result.lanes[0].dropped = change
        assert replay(run, F64).difference > 1e-3


def test_a_fork_of_lanes_that_read_each_other_is_refused_by_replay(tmp_path: Path) -> None:
    save_run(tmp_path / "run", busy(F64, LaneMask.joint(4), fork=True).result(), F64)
    with pytest.raises(TinylaneError, match="cannot be recomputed from tokens"):
        replay(load_run(tmp_path / "run"), F64)


def test_a_run_with_an_unknown_rotation_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", busy(F64, LaneMask.joint(4)).result(), F64)
    text = (tmp_path / "run").read_text()
    for value in ('"spiral"', "null", "1"):
        (tmp_path / "run").write_text(text.replace('"hogwild"', value))
        with pytest.raises(TinylaneError, match="expected hogwild"):
            load_run(tmp_path / "run")


def test_a_lane_that_joins_late_reads_and_is_read() -> None:
    """One layer, whose keys are the tokens' own: a pass over the rows there were at the end."""
    model = small(layers=1)
    decoding = Decoding(
        model,
        ids(5),
        1,
        max_tokens=9,
        sampler=FREE,
        lane_rope=Hogwild(),
        lane_mask=LaneMask.joint(2),
    )
    for _ in range(3):
        decoding.step()
    late = decoding.join(ids(2, 3), max_tokens=4)
    list(decoding)
    rows = [(t, i, SHARED) for i, t in enumerate(ids(5))]
    for lane in decoding.lanes:
        text = [*lane.prompt, *lane.tokens]
        rows += [(t, lane.start - len(lane.prompt) + k, lane.index) for k, t in enumerate(text)]
    tokens, positions, lanes = (np.array(x) for x in zip(*rows, strict=True))
    whole = log_softmax(model(tokens, positions, lanes, Hogwild(), LaneMask.joint(2)))
    mine = np.flatnonzero(lanes == 1)[1:-1]
    expected = whole[mine, late.tokens]
    assert np.abs(expected - late.logprobs).max() < 1e-10


def test_sampled_lanes_are_the_oracle_s_on_every_backend() -> None:
    prompt, own = ids(6), [ids(2, 1), ids(1, 2), []]
    for kind in BACKENDS:
        model = model_of(*kind)
        settings = {"lane_rope": Hogwild(), "lane_mask": LaneMask.joint(3, 1), "seed": 2}
        warm = Sampler(temperature=0.8, logit_bias=FREE.logit_bias)
        fast = generate(
            model, prompt, lanes=3, lane_prompts=own, max_tokens=6, sampler=warm, **settings
        )
        slow = naive(model, prompt, own, 6, warm, **settings)
        for a, b in zip(fast.lanes, slow, strict=True):
            assert a.tokens == b.tokens
            assert np.abs(np.array(a.logprobs) - b.logprobs).max() < TOLERANCE[kind[1]]
