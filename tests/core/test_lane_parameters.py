"""What a decoder may have for lanes (method, section 6.1): by definition, through the cache, while
decoding, in beams; and masks that let lanes read each other across a bridge only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, TOLERANCE, ids, model_of, small
from helpers_run import decoded, reloaded
from helpers_view import as_run
from hypothesis import given
from hypothesis import strategies as st
from planting import swap

from tinylane.checkpoints import extras
from tinylane.checkpoints.side import Side
from tinylane.core import pipeline
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.beam_search import beam_search
from tinylane.methods.decoding import Decoding
from tinylane.methods.times import joined
from tinylane.testing import LawViolation, example_case
from tinylane.testing.additions import given as with_parameters
from tinylane.testing.checks import LAWS, check
from tinylane.testing.samples import random_extras
from tinylane.view.replay import replay

KINDS = tuple(extras.KINDS)
ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
# The laws that hold whatever a checkpoint adds for lanes, and the definition.
HOLD = (
    "definition", "token shift", "storage order", "causality", "isolation", "steps", "periodicity",
    "backends", "company", "copy", "drop", "trim",
)  # fmt: skip
# And those that hold with a bridge: it does not tell lanes apart.
ALIKE = ("lane shift", "one lane", "independent", "shared prompt", "fork", "permutation", "rollout")


def some(kind: tuple[str, str], *kinds: str, lanes: int = 4, seed: int = 0) -> Model:
    model = model_of(*kind)
    return with_parameters(model, random_extras(model.config, kinds or KINDS, lanes, seed))


@ANY
@pytest.mark.parametrize("law", HOLD)
@given(seed=st.integers(0, 999))
def test_laws_hold_with_embeddings_of_lanes_and_bridges(kind: Any, law: str, seed: int) -> None:
    case = replace(example_case(seed), extra=KINDS)
    side = np.random.default_rng(seed).random(2 * (case.sample.mask.n,)) < 0.6
    sample = case.sample
    if law in ("definition", "steps", "storage order", "backends", "copy"):
        sample = sample.with_mask(replace(sample.mask, side=[None, side][seed % 2]))
    check(law, case.model(*kind), sample, case.choose)


@ANY
@pytest.mark.parametrize("law", ALIKE)
@given(seed=st.integers(0, 999))
def test_laws_that_hold_with_a_bridge(kind: Any, law: str, seed: int) -> None:
    case = replace(example_case(seed), extra=("bridge", "p_match"))
    check(law, case.model(*kind), case.sample, case.choose)


@ANY
@pytest.mark.parametrize("law", LAWS)
@given(seed=st.integers(0, 999))
def test_all_laws_hold_with_lace(kind: Any, law: str, seed: int) -> None:
    """It is turned as the layer's own attention, and reads what that may read."""
    case = replace(example_case(seed), extra=("lace",))
    check(law, case.model(*kind), case.sample, case.choose)


@pytest.mark.parametrize(
    "plant",
    [
        swap("side.Side.beside", "opened * ", ""),
        swap("side.Side.beside", "xp.exp(-xp", "xp.exp(xp"),
        swap("side.Side.planned", "mask if mask.side is None else", "mask if True else"),
        swap("lanes.LaneMask.visible", "(age >= self.lag)", "(age >= self.lag - 1)"),
        swap("side.Side.beside", "attend(self.across,", "attend(None,"),
    ],
    ids=["no gate", "gate turned round", "the layers' mask", "later tokens", "no mask"],
)
def test_a_bug_in_lace_is_caught_by_the_definition(
    plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    cases = [replace(example_case(seed), extra=("lace",)) for seed in range(6)]
    plant(monkeypatch)
    caught = 0
    for case in cases:
        mask = LaneMask.named("bridge", case.sample.mask.n, case.sample.mask.lag)
        try:
            check("definition", case.model("numpy"), case.sample.with_mask(mask), case.choose)
        except LawViolation:
            caught += 1
    assert caught >= 2


@given(seed=st.integers(0, 999))
def test_decoding_is_that_of_the_uncached_oracle(seed: int) -> None:
    case = replace(example_case(seed), extra=KINDS)
    side = [None, np.ones(2 * (case.sample.mask.n,))][seed % 2]
    sample = case.sample.with_mask(replace(case.sample.mask, side=side))
    check("decoding", case.model("numpy", "float64"), sample, case.choose)


def test_each_parameter_changes_the_logits_and_absent_ones_are_not_planned_for() -> None:
    """The control of all the rest."""
    kind, mask = ("numpy", "float64"), LaneMask.joint(4)
    i, m = np.array([0, 1, 1, 2, 2]), np.array([SHARED, 0, 1, 0, 1])
    rows, bare = (ids(5), i, m), model_of("numpy", "float64")
    logits = np.asarray(bare(*rows, lane_mask=mask))
    for name, value in random_extras(bare.config, KINDS, 4, 0).items():
        model = some(kind)
        changed = replace(model, params={**model.params, name: 1.1 * model.params[name] + 0.05})
        gap = changed(*rows, lane_mask=mask) - model(*rows, lane_mask=mask)
        assert np.abs(gap).max() > 1e-6, name
        assert value.any()
    assert np.abs(np.asarray(some(kind)(*rows, lane_mask=mask)) - logits).max() > 0.1
    rope = LaneRoPE.none(bare.theta)
    assert bare.side is not None and bare.plan(rope, mask, Places(i, m, i, m)).side is None
    assert len(bare.new_cache().keys) == bare.config.layers


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_made_by_hand_says_what_its_tensors_need(kind: str) -> None:
    """Without `side` the decoder would pass over them."""
    bare = model_of("numpy", "float64")
    params = {**bare.params, **random_extras(bare.config, (kind,), 4, 0)}
    with pytest.raises(TinylaneError, match=rf"{kind}\.\S+ is for lanes; give side=checkpoints"):
        Model(bare.config, params, "numpy", "float64")
    assert Model(bare.config, params, "numpy", "float64", side=Side).side is Side


@pytest.mark.parametrize("tables", [("lane_embed",), ("lane_kv",)])
def test_a_lane_without_a_row_is_refused_before_anything_is_fed(tables: tuple[str, ...]) -> None:
    """MLX would read beyond the table."""
    for kind in BACKENDS:
        model = some(kind, *tables, lanes=2)
        line = r"lane 2 has no row in model\.\S*lane_\S+\.weight, which is for 2 lanes"
        with pytest.raises(TinylaneError, match=line):
            model(ids(2), [0, 1], [SHARED, 2])
        with pytest.raises(TinylaneError, match=line):
            Decoding(model, ids(3), lanes=3)
        decoding = Decoding(model, ids(3), lanes=2, lane_mask=LaneMask.joint(4), max_tokens=3)
        decoding.step()
        fed = len(decoding.cache)
        with pytest.raises(TinylaneError, match=line):
            decoding.join(ids(1))
            decoding.step()
        assert len(decoding.cache) == fed


@pytest.mark.parametrize("kind", [kind for kind in BACKENDS if kind[0] == "mlx"])
def test_passes_that_are_built_early_plan_for_them(
    kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy builds none."""
    runs = []
    for early in (True, False):
        monkeypatch.setattr(pipeline, "pays", lambda model, early=early: early)
        decoding = Decoding(
            some(kind), ids(4), lanes=3, max_tokens=[9, 5, 7], seed=2, sampler=Sampler(1.0),
            lane_mask=LaneMask.joint(3),
        )  # fmt: skip
        runs.append([(step.tokens, step.finished) for step in decoding])
    assert runs[0] == runs[1]


@ANY
def test_a_beam_is_a_run_of_one_lane_whichever_lane_holds_it(kind: tuple[str, str]) -> None:
    """The scores are those of one pass over prompt and text in lane 0, of the untouched model."""
    model, prompt = some(kind), ids(4)
    found = beam_search(model, prompt, 3, 5)
    assert len({tuple(done.tokens) for done in found}) == 3
    for done in found:
        tokens = [*prompt, *done.tokens]
        lanes = [SHARED] * len(prompt) + [0] * len(done.tokens)
        logits = np.asarray(model(tokens, range(len(tokens)), lanes)).astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        own = [logp[len(prompt) - 1 + k, t] for k, t in enumerate(done.tokens)]
        assert abs(sum(own) / len(done.tokens) - done.score) < 1e-4


def test_a_lane_s_text_is_no_prompt_where_lanes_have_rows_of_their_own() -> None:
    """A second turn feeds it again, and writes what it writes without a cache."""
    for tables, kept in ((("lane_embed",), 4), (("lane_kv",), 4), (("bridge",), 6)):
        model = some(("numpy", "float64"), *tables)
        first = Decoding(model, ids(4), max_tokens=3)
        for _ in first:
            pass
        text = [*ids(4), *first.lanes[0].tokens, *ids(2, seed=1)]
        again = Decoding(model, text, max_tokens=4, cache=first.cache)
        assert again.reused == kept
        alone = Decoding(model, text, max_tokens=4)
        assert [s.tokens for s in again] == [s.tokens for s in alone]


# Masks.


def test_who_stands_beside_whom_across_a_bridge() -> None:
    i = np.array([0, 1, 2, 2, 2, 3, 3])
    m = np.array([SHARED, SHARED, 0, 1, 2, 0, 2])
    own = np.eye(7, dtype=int)
    joint = own.copy()
    joint[2:5, 2:5], joint[5:, 5:] = 1, 1
    star = own.copy()
    star[2, 2:5], star[5, 5:] = 1, 1
    for mask, expected in (
        (LaneMask.bridge(3), joint),
        (LaneMask.joint(3), joint),
        (LaneMask.star(3), star),
        (LaneMask.joint(3, lag=1), own),
        (LaneMask.independent(3), own),
        (replace(LaneMask.joint(3), side=np.eye(3)), own),
        (replace(LaneMask.independent(3), side=LaneMask.star(3).visibility), star),
    ):
        assert mask.same_step(i, m).astype(int).tolist() == expected.tolist()


def test_lace_with_a_mask_of_its_own_takes_no_views_of_another() -> None:
    model, rows = some(("numpy", "float64"), "lace"), (ids(2), [0, 0], [0, 1])
    with pytest.raises(TinylaneError, match="LACE reads other lanes than the layers do; give a La"):
        model(*rows, lane_rope=Hogwild(), lane_mask=LaneMask.bridge(2))
    model(*rows, lane_rope=Hogwild(), lane_mask=LaneMask.joint(2))


def test_a_mask_with_a_side() -> None:
    mask = LaneMask.named("bridge", 3)
    assert mask.side is not None and mask.side.all() and not mask.alone
    assert not (mask.visibility & ~np.eye(3, dtype=bool)).any() and mask.reaches().all()
    assert not mask.same_as(LaneMask.independent(3)) and mask.same_as(LaneMask.bridge(3))
    quiet = mask.silence(1)
    assert (
        quiet.side is not None and not quiet.side[[0, 2], 1].any() and quiet.side[1, [0, 2]].all()
    )
    assert mask.settings()["side"] == np.ones((3, 3), int).tolist()
    grown = joined(mask, 3, [0], {2: 5})
    assert grown.side is not None and grown.side.shape == (4, 4)
    assert grown.side[3].tolist() == [True, False, False, True] and grown.side[2, 3]
    with pytest.raises(TinylaneError, match="side is for 2 lanes, visibility for 3"):
        LaneMask(np.eye(3), side=np.eye(2))
    with pytest.raises(TinylaneError, match="side holds values other than true and false"):
        LaneMask(np.eye(2), side=[[1, 2], [1, 1]])


def test_a_prompt_that_is_prefilled_in_chunks_parts_no_step() -> None:
    model = some(("numpy", "float64"), "bridge")
    common: dict[str, Any] = {
        "lanes": 3, "max_tokens": 4, "lane_mask": LaneMask.bridge(3), "seed": 1,
        "lane_prompts": [ids(3, seed=2), ids(2, seed=3), ids(3, seed=4)],
    }  # fmt: skip
    runs = [
        [lane.tokens for lane in _run(Decoding(model, ids(7), chunk=c, **common))] for c in (1, 500)
    ]
    assert runs[0] == runs[1]


def _run(decoding: Decoding) -> Any:
    for _ in decoding:
        pass
    return decoding.lanes


def test_a_model_of_other_sizes_is_small() -> None:
    """The helper's model has what these tests need: several layers, kv heads, an odd bridge."""
    config = small().config
    widths = {
        random_extras(config, ("bridge",), 2, seed)["model.layers.0.bridge.q_proj.weight"].shape[1]
        for seed in range(3)
    }
    assert config.layers > 1 and widths == {3, config.head_dim, 2 * config.head_dim}


# Files of runs and of caches.


@ANY
def test_a_run_with_a_bridge_is_replayed_in_one_pass(kind: Any, tmp_path: Path) -> None:
    """Lanes end, join with prompts and are dropped; rows that were not fed together exchanged
    nothing, wherever they stand."""
    model = some(kind, lanes=5)
    decoding = decoded(model, lane_mask=LaneMask.bridge(5), lane_rope=None)
    decoding.step()
    decoding.step()
    decoding.join([4, 5], max_tokens=4)
    decoding.step()
    decoding.drop(0)
    list(decoding)
    run = reloaded(tmp_path, decoding.result(), model)
    assert run.lane_mask.side is not None and run.lane_mask.side.all()
    assert replay(run, model).difference <= TOLERANCE[kind[1]]
    result = decoding.result()
    del result.settings["side"]  # the control: nobody would have read anybody
    assert replay(as_run(model, result), model).difference > 1e-3


def test_a_cache_is_saved_with_its_mask_s_side(tmp_path: Path) -> None:
    model, mask = some(("numpy", "float64"), "bridge"), LaneMask.bridge(2)
    cache = model.new_cache(lane_mask=mask)
    rows = (ids(3), [0, 1, 1], [SHARED, 0, 1])
    model(*rows, cache=cache)
    cache.save(tmp_path / "c.safetensors")
    kept = type(cache).load(tmp_path / "c.safetensors", model)
    assert mask.same_as(kept.lane_mask)
    further = (ids(2, seed=1), [2, 2], [0, 1])
    assert np.array_equal(model(*further, cache=kept), model(*further, cache=cache))
    with pytest.raises(TinylaneError, match="saved with another visibility"):
        type(cache).load(tmp_path / "c.safetensors", model, None, LaneMask.independent(2))


@ANY
def test_what_lace_has_cached_is_saved_copied_forked_and_dropped(kind: Any, tmp_path: Path) -> None:
    """With an Omega, so that the keys of a fork must be turned on."""
    model, mask = some(kind, "lace"), LaneMask.bridge(3)
    rope = LaneRoPE.ntk(model.theta, 7, 3)
    cache = model.new_cache(rope, mask)
    rows = (ids(5), np.array([0, 1, 1, 2, 2]), np.array([SHARED, 0, 1, 0, 1]))
    model(*rows, cache=cache)
    cache.save(tmp_path / "c.safetensors")
    kept = type(cache).load(tmp_path / "c.safetensors", model)
    twin = cache.copy()
    twin.fork(1, 2)
    twin.drop(1)
    further = (ids(2, seed=1), np.array([3, 3]), np.array([0, 2]))
    same = np.where(rows[2] == 1, 2, rows[2])  # lane 1's rows are lane 2's
    whole = [np.concatenate(x) for x in zip((rows[0], rows[1], same), further, strict=True)]
    expected = np.asarray(model(*whole, rope, mask))[-2:]
    got = np.asarray(model(*further, cache=twin))
    assert np.abs(got - expected).max() <= TOLERANCE[kind[1]]
    twin = cache.copy()  # the control: keys that were not turned on
    twin.lanes = np.where(twin.lanes == 1, 2, twin.lanes)
    assert np.abs(np.asarray(model(*further, cache=twin)) - expected).max() > 1e-4
    further = (*further[:2], np.array([0, 1]))
    again = [np.asarray(model(*further, cache=x)) for x in (kept, cache)]
    assert np.array_equal(*again)


@pytest.mark.parametrize("kind", ["lane_embed", "lane_kv"])
def test_a_table_of_another_width_is_refused_in_every_layer(kind: str) -> None:
    model = some(("numpy", "float64"), kind, lanes=2)
    for name in (name for name in model.params if f".{kind}." in name):
        for table in (model.params[name][:, :-1], model.params[name][0]):
            wrong = replace(model, params={**model.params, name: table})
            with pytest.raises(TinylaneError, match=rf"{name}, .*\), expected \(1 \+ lanes, \d+\)"):
                Decoding(wrong, ids(3), lanes=2)


def test_what_is_read_in_a_side_path_cannot_be_stopped() -> None:
    model = some(("numpy", "float64"), "bridge")
    d = Decoding(model, ids(3), 2, lane_mask=LaneMask.bridge(2), schedule=lambda d: None)
    d.step()
    with pytest.raises(TinylaneError, match="lane 0 reads lane 1 in a side path, which it cannot"):
        d.read(0, 1, False)
    assert d.events == [] and d.mask.side is not None and d.mask.side.all()
