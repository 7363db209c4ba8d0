"""The tests are tested: bugs planted one at a time, each of which a named law or oracle must catch.

A plant replaces one piece of the package: a function, or a few characters of one (`swap`). The laws
are checked on the same cases with and without it. The summary at the end lists bug and law.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane import cache, decoding, fast, lanes, model, rope, sampling
from tinylane.config import RopeConfig
from tinylane.lanes import SHARED, LaneMask
from tinylane.testing import EXTRA, LAWS, LawViolation, check, example_case

Patch = pytest.MonkeyPatch
CASES = range(50)


@dataclass(frozen=True)
class Plant:
    """A bug, who must catch it, and how it is planted."""

    bug: str
    law: str
    plant: Callable[[Patch], None]
    backend: str = "numpy float64"


def swap(target: str, old: str, new: str) -> Callable[[Patch], None]:
    """Replace `old`, which stands once in the source of `target`, by `new`."""

    def plant(patch: Patch) -> None:
        module_name, *path = target.split(".")
        module = importlib.import_module("tinylane." + module_name)
        owner: Any = module if len(path) == 1 else getattr(module, path[0])
        source = textwrap.dedent(inspect.getsource(inspect.getattr_static(owner, path[-1])))
        assert source.count(old) == 1, f"{target} has {source.count(old)} times {old!r}"
        made: dict[str, Any] = {}
        flags = annotations.compiler_flag
        code = compile(source.replace(old, new), f"<{target}>", "exec", flags)
        exec(code, module.__dict__, made)
        put(patch, owner, path[-1], made[path[-1]])

    return plant


def put(patch: Patch, owner: Any, name: str, new: Any) -> None:
    """Set it wherever the package has imported it, and in the seams. The tester keeps its own."""
    old = inspect.getattr_static(owner, name)
    patch.setattr(owner, name, new)
    for key, module in list(sys.modules.items()):
        if key.startswith("tinylane.") and not key.startswith("tinylane.testing"):
            if module.__dict__.get(name) is old:
                patch.setattr(module, name, new)
            for seams in ("PLAIN", "SEAMS"):
                table = module.__dict__.get(seams)
                if table is not None and getattr(table, name, None) is old:
                    patch.setattr(module, seams, table._replace(**{name: new}))


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Replace a function by `make(the function)`."""
    return lambda patch: put(patch, owner, name, make(getattr(owner, name)))


# Plants that are more than a few characters.


def interleaved(x: Any, c: Any, s: Any) -> Any:
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], c[..., :half], s[..., half:]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def separate_softmax(old: Any) -> Any:
    """Each block under a softmax of its own, the results averaged."""

    def attention(queries: Any, keys: Any, values: Any, mask: Any, split: Any) -> Any:
        if len(queries) == 1:
            return old(queries, keys, values, mask, split)
        shared = split if not isinstance(split, int) else np.arange(keys.shape[-2]) < split
        seen = np.ones((queries[0].shape[-2], len(shared)), bool) if mask is None else mask
        out = []
        for query, block in zip(queries, (shared, ~shared), strict=True):
            with np.errstate(invalid="ignore"):
                mixed = old((query,), keys, values, seen & block, None)
            out.append(np.nan_to_num(mixed))
        both = (seen & shared).any(1) & (seen & ~shared).any(1)
        return (out[0] + out[1]) / np.where(both, 2, 1)[:, None]

    return attention


def wrong_group_order(old: Any) -> Any:
    """Query head h reads kv head h % K in place of h // (H / K)."""

    def attention(queries: Any, keys: Any, values: Any, mask: Any, split: Any) -> Any:
        H, K = queries[0].shape[-3], keys.shape[-3]
        order = np.arange(H).reshape(H // K, K).T.ravel()
        out = old(tuple(q[..., order, :, :] for q in queries), keys, values, mask, split)
        return out[..., np.argsort(order), :, :]

    return attention


def remembered(old: Any) -> Any:
    """A mask kept by the number of rows, as a memo table keyed by too little would."""
    known: dict[tuple[int, int], Any] = {}

    def visible(self: Any, i: Any, m: Any, j: Any, n: Any) -> Any:
        return known.setdefault((len(i), len(j)), old(self, i, m, j, n))

    return visible


def yarn_factor(keys: float, queries: float) -> Callable[[Patch], None]:
    """The attention factor to so many powers more in the tables of keys and queries."""

    def make(old: Any) -> Any:
        def plan(config: Any, *args: Any) -> Any:
            made = old(config, *args)
            _, factor = rope.frequencies(config.rope, config.head_dim)
            by = lambda t, power: (t[0] * factor**power, t[1] * factor**power)
            return made._replace(
                keys=[by(t, keys) for t in made.keys],
                queries=[tuple(by(t, queries) for t in ts) for ts in made.queries],
            )

        return plan

    return instead(model, "make_plan", make)


def biased_after_rotation(patch: Patch) -> None:
    """The key bias is added to what has been turned already."""
    kept: list[Any] = []
    linear, turn = model.linear, model.PLAIN.rotate

    def bare(params: Any, name: str, x: Any) -> Any:
        if not name.endswith("k_proj") or name + ".bias" not in params:
            return linear(params, name, x)
        kept.append(params[name + ".bias"])
        return x @ params[name + ".weight"]

    def rotate(x: Any, c: Any, s: Any) -> Any:
        turned = turn(x, c, s)
        return turned + kept.pop().reshape(len(x), 1, -1) if kept else turned

    patch.setattr(model, "PLAIN", model.PLAIN._replace(linear=bare, rotate=rotate))


def float32_angles(old: Any) -> Any:
    return lambda angles, *rest: old(angles.astype(np.float32), *rest)


def one_stream(old: Any) -> Any:
    return lambda seed, lane, index: old(seed, 0, index)


def stream_by_count(old: Any) -> Any:
    """One generator for the batch: a lane's draw depends on the number of live lanes."""

    def draw(self: Any, live: Any) -> Any:
        fake = [replace(lane, index=k) for k, lane in enumerate(reversed(live))][::-1]
        for copy, lane in zip(fake, live, strict=True):
            self._logits[copy.index + 1000] = self._logits[lane.index]
        real = decoding.uniform
        try:
            decoding.uniform = lambda s, m, i: real(s, (m - 1000) * len(live), i)
            for copy in fake:
                copy.index += 1000
            return old(self, fake)
        finally:
            decoding.uniform = real

    return draw


def deaf_neighbour(old: Any) -> Any:
    """fast.attention that forgets its mask."""
    return lambda queries, keys, values, mask, split: old(queries, keys, values, None, split)


PLANTS = [
    # rotation
    Plant(
        "rotation sign",
        "one lane",
        swap("rope.rotate", "x * c + flipped * s", "x * c - flipped * s"),
    ),
    Plant(
        "channels paired interleaved, not half-split",
        "one lane",
        instead(rope, "rotate", lambda old: interleaved),
    ),
    Plant(
        "keys turned the other way",
        "token shift",
        swap(
            "model.self_attention",
            "*plan.keys[layer])",
            "plan.keys[layer][0], -plan.keys[layer][1])",
        ),
    ),
    Plant("angles in float32", "token shift", instead(rope, "table", float32_angles)),
    Plant(
        "both halves' sine with one sign",
        "one lane",
        swap("rope.table", "[-sin, sin]", "[sin, sin]"),
    ),
    Plant(
        "cosines laid out interleaved",
        "definition",
        swap("rope.table", "np.concatenate([cos, cos], axis=-1)", "np.repeat(cos, 2, axis=-1)"),
    ),
    Plant(
        "frequencies over D/2 channels",
        "frequencies",
        swap(
            "rope.frequencies", "dtype=np.float64) / head_dim", "dtype=np.float64) * 2 / head_dim"
        ),
    ),
    Plant(
        "linear scaling upside down",
        "frequencies",
        swap("rope.frequencies", "return theta / rope.factor", "return theta * rope.factor"),
    ),
    Plant(
        "llama3: fast and slow planes mixed up",
        "frequencies",
        swap(
            "rope.frequencies",
            "(keep + (1 - keep) / rope.factor)",
            "(keep / rope.factor + 1 - keep)",
        ),
    ),
    Plant(
        "yarn: ramp the wrong way",
        "frequencies",
        swap(
            "rope.frequencies",
            "(1 - ramp + ramp / rope.factor)",
            "(ramp + (1 - ramp) / rope.factor)",
        ),
    ),
    Plant("yarn's factor in keys only", "one lane", yarn_factor(0, -1)),
    Plant("yarn's factor twice", "one lane", yarn_factor(1, 1)),
    # lanes in the rotation
    Plant(
        "lane index off by one",
        "group think",
        swap(
            "lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "(np.maximum(lanes, 0) + (lanes >= 0))"
        ),
    ),
    Plant(
        "lane 0 not turned, the others by m + 1",
        "lane shift",
        swap("lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "(lanes + (lanes > 0))"),
    ),
    Plant(
        "shared keys turned by -Omega",
        "group think",
        swap("lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "lanes"),
    ),
    Plant(
        "half of Omega", "periodicity", swap("lanes.LaneRoPE.angles", "* omega", "* (omega / 2)")
    ),
    Plant(
        "Omega of layer 0 in every layer",
        "definition",
        swap("lanes.LaneRoPE.angles", "self.omega[layer]", "self.omega[0]"),
    ),
    Plant(
        "Omega on the prompt",
        "shared prompt",
        swap("model.make_plan", "two = two and 0 < count < len(shared)", "two = False"),
    ),
    Plant(
        "prompt keys per lane: queries look at them from lane 0 only",
        "independent",
        swap(
            "model.make_plan", "on_shared = table(base,", "on_shared = table(base + lanes[:, None],"
        ),
    ),
    Plant(
        "prompt_lane=0 read as own",
        "group think",
        swap(
            "model.make_plan",
            'rope.prompt_lane == "own" and bool(rope.omega.any())',
            "bool(rope.omega.any())",
        ),
    ),
    Plant(
        "keys not turned by their lane",
        "definition",
        swap("model.make_plan", "keys.append(turned)", "keys.append(on_shared)"),
    ),
    Plant(
        "group_think the other way",
        "group think",
        swap("lanes.LaneRoPE.group_think", "_slot(slot) *", "-_slot(slot) *"),
    ),
    Plant(
        "shared keys taken to stand first",
        "storage order",
        swap("model.make_plan", "count if shared[:count].all() else shared", "count"),
    ),
    Plant(
        "the two blocks cut one key late",
        "shared prompt",
        swap("model.make_plan", "split = count if", "split = count - 1 if"),
    ),
    Plant(
        "the two blocks mixed up where keys are mixed",
        "storage order",
        swap("model.attention", "xp.where(split, shared, lanes)", "xp.where(split, lanes, shared)"),
    ),
    # masks
    Plant(
        "other lanes: < for <=",
        "definition",
        swap("lanes.LaneMask.visible", "(age >= self.lag)", "(age > self.lag)"),
    ),
    Plant(
        "own lane: < for <= where it has a past",
        "one lane",
        swap(
            "lanes.LaneMask.visible",
            "np.where((n == SHARED) | (n == m), age >= 0, other)",
            "np.where((n == SHARED) | (n == m), (age > 0) | (age == 0) & (age.max() == 0), other)"
            " | (age == 0) & (n == m) & (positions[:, None] == key_positions.min())",
        ),
    ),
    Plant(
        "a position ahead is seen",
        "causality",
        swap("lanes.LaneMask.visible", "(n == m), age >= 0, other", "(n == m), age >= -1, other"),
    ),
    Plant(
        "the prompt is seen whole",
        "causality",
        swap("lanes.LaneMask.visible", "age >= 0, other)", "(age >= 0) | (n == SHARED), other)"),
    ),
    Plant(
        "own lane not exempt from lag",
        "independent",
        swap(
            "lanes.LaneMask.visible",
            "age >= 0, other)",
            "(age >= 0) & ((n == SHARED) | (age == 0) | (age >= self.lag)), other)",
        ),
    ),
    Plant(
        "lag ignored",
        "causality",
        swap("lanes.LaneMask.visible", "(age >= self.lag)", "(age >= 0)"),
    ),
    Plant(
        "the prompt seen late by lag",
        "one lane",
        swap(
            "lanes.LaneMask.visible",
            "age >= 0, other)",
            "(age >= 0) & ((n == m) | (age >= self.lag)), other)",
        ),
    ),
    Plant(
        "visibility transposed",
        "isolation",
        swap("lanes.LaneMask.visible", "self.visibility[m, n]", "self.visibility[n, m]"),
    ),
    Plant(
        "visibility read one lane off",
        "company",
        swap(
            "lanes.LaneMask.visible",
            "self.visibility[m, n]",
            "self.visibility[m, (n + 1) % self.n]",
        ),
    ),
    Plant(
        "shared rows see lanes",
        "isolation",
        swap("lanes.LaneMask.visible", "(m >= 0) & (n >= 0)", "(n >= 0)"),
    ),
    Plant(
        "everybody sees the lanes' prompts",
        "company",
        swap(
            "lanes.LaneMask.visible",
            "self.visibility[m, n] &",
            "(self.visibility[m, n] | (m > n)) &",
        ),
    ),
    Plant(
        "a mask kept by shape",
        "causality",
        instead(lanes.LaneMask, "visible", remembered),
    ),
    Plant(
        "no mask where one row sees all",
        "steps",
        swap("model._sees_all", "int(i.min()) >=", "int(i.max()) >="),
    ),
    Plant(
        "no mask in a step, whoever sees whom",
        "steps",
        swap("model._sees_all", "bool(mask.visibility[m].all())", "True"),
    ),
    Plant(
        "reach of one hop only",
        "reach",
        swap("lanes.LaneMask.reaches", "range(self.n)", "range(0)"),
    ),
    Plant(
        "a silenced lane goes deaf, and is still heard",
        "company",
        swap("lanes.LaneMask.silence", "v[:, lane]", "v[lane, :]"),
    ),
    # the decoder
    Plant(
        "softmax over the two blocks separately",
        "shared prompt",
        instead(model, "attention", separate_softmax),
    ),
    Plant(
        "heads of a group in the wrong order",
        "one lane",
        instead(model, "attention", wrong_group_order),
    ),
    Plant(
        "scores not divided by sqrt(D)",
        "one lane",
        swap("model.attention", " * D**-0.5", ""),
    ),
    Plant(
        "masked keys at -5, not -inf",
        "isolation",
        swap(
            "model.attention",
            "xp.where(mask, scores, -xp.inf)",
            "xp.where(mask, scores, scores - 5)",
        ),
    ),
    Plant(
        "softmax normalised over all rows",
        "causality",
        swap("model.attention", "scores.sum(axis=-1, keepdims=True)", "scores.sum(keepdims=True)"),
    ),
    Plant(
        "temperature by the number of rows",
        "company",
        swap("model.attention", "* D**-0.5", "* D**-0.5 * (1 + S / 100)"),
    ),
    Plant(
        "eps outside of the root",
        "one lane",
        swap("model.rms_norm", "xp.sqrt(mean_square + eps)", "(xp.sqrt(mean_square) + eps)"),
    ),
    Plant(
        "norm over all rows",
        "causality",
        swap("model.rms_norm", "mean(axis=-1, keepdims=True)", "mean(keepdims=True)"),
    ),
    Plant("bias added after rotation", "one lane", biased_after_rotation),
    Plant(
        "biases dropped",
        "one lane",
        swap("model.linear", 'return y + params[name + ".bias"]', "return y"),
    ),
    Plant(
        "low-rank update transposed in order",
        "one lane",
        swap("model.linear", "y = y + (x @", "y = y - (x @"),
    ),
    Plant(
        "query norm used for keys",
        "one lane",
        swap("model.self_attention", '"k_norm.weight"', '"q_norm.weight"'),
    ),
    Plant(
        "up and gate exchanged",
        "one lane",
        swap("model.feed_forward", "seams.gated(gate, up)", "seams.gated(up, gate)"),
    ),
    Plant(
        "no residual around the feed-forward",
        "one lane",
        swap("model.forward", "x = x + feed_forward", "x = feed_forward"),
    ),
    Plant(
        "norms of a block exchanged",
        "one lane",
        swap("model.forward", '"post_attention_layernorm.weight"', '"input_layernorm.weight"'),
    ),
    # MLX's seams
    Plant(
        "mlx: fused attention without a mask",
        "backends",
        instead(fast, "attention", deaf_neighbour),
        "mlx float32",
    ),
    Plant(
        "mlx: scale forgotten",
        "backends",
        swap("fast.attention", "scale=q.shape[-1] ** -0.5", "scale=1.0"),
        "mlx float32",
    ),
    Plant(
        "mlx: rotation sign",
        "backends",
        swap("fast.rotate", "x * c + flipped * s", "x * c - flipped * s"),
        "mlx float32",
    ),
    Plant(
        "mlx: first query table for every key",
        "backends",
        swap("fast.attention", "if len(queries) > 1:", "if False:"),
        "mlx float32",
    ),
    Plant(
        "mlx: gate not multiplied by itself",
        "backends",
        swap("fast.gated", "gate * mx.sigmoid(gate)", "mx.sigmoid(gate)"),
        "mlx float32",
    ),
    # the cache
    Plant(
        "a stale offset after growth",
        "steps",
        swap(
            "cache._grown",
            "new[:, :used, :] = buffer[:, :used, :]",
            "new[:, 1:used, :] = buffer[:, 1:used, :]",
        ),
    ),
    Plant(
        "rows written one early",
        "steps",
        swap(
            "cache.LaneCache.put",
            "[:, start:stop, :] = new",
            "[:, max(start - 1, 0) : max(start - 1, 0) + stop - start, :] = new",
        ),
    ),
    Plant(
        "spare rows of the buffer handed out",
        "steps",
        swap(
            "cache.LaneCache.put", "buffers[layer][:, :stop, :])", "buffers[layer][:, -stop:, :])"
        ),
    ),
    Plant(
        "lanes of cached rows not kept",
        "steps",
        swap("cache.LaneCache.commit", "[self.lanes, lanes]", "[self.lanes, lanes * 0]"),
    ),
    Plant(
        "cached coordinates behind the new ones",
        "steps",
        swap(
            "model.Model.__call__",
            "np.concatenate([cache.positions, i])",
            "np.concatenate([i, cache.positions])",
        ),
    ),
    Plant(
        "fork without turning the keys",
        "fork",
        swap("cache.LaneCache.fork", "rotate(keys, c, s)", "keys"),
    ),
    Plant(
        "fork turns the wrong way",
        "fork",
        swap("cache.LaneCache.fork", "[target - source]", "[source - target]"),
    ),
    Plant(
        "fork turns the values too",
        "fork",
        swap(
            "cache.LaneCache.fork",
            "rotate(keys, c, s), values",
            "rotate(keys, c, s), rotate(values, c, s)",
        ),
    ),
    Plant(
        "fork keeps the source's lane",
        "fork",
        swap("cache.LaneCache.fork", "np.full(len(rows), target", "np.full(len(rows), source"),
    ),
    Plant(
        "drop leaves a row",
        "drop",
        swap(
            "cache.LaneCache.drop",
            "self._keep(self.lanes != lane)",
            "self._keep((self.lanes != lane) | (np.cumsum(self.lanes == lane) == 1))",
        ),
    ),
    Plant(
        "drop forgets coordinates, not rows",
        "drop",
        swap("cache.LaneCache._keep", "buffer[:, index, :]", "buffer"),
    ),
    Plant(
        "trim off by one",
        "trim",
        swap("cache.LaneCache.trim", "self.positions < position", "self.positions <= position"),
    ),
    Plant(
        "a copy that shares its buffers",
        "copy",
        swap(
            "cache.LaneCache.copy", "twin._keep(np.ones(len(self), dtype=bool), force=True)", "pass"
        ),
    ),
    # decoding
    Plant(
        "a chunk parts a position",
        "decoding",
        swap("decoding.Decoding._forward", "while stop < len(rows) and", "while False and"),
    ),
    Plant(
        "rows fed lane by lane",
        "decoding",
        swap(
            "decoding.Decoding._forward",
            "rows = sorted(rows, key=lambda row: row[1])",
            "rows = list(rows)",
        ),
    ),
    Plant(
        "a lane goes on after its end token",
        "decoding",
        swap("decoding.Decoding.step", "token in self._ends or self._say", "self._say"),
    ),
    Plant(
        "an end token is fed to the others",
        "decoding",
        swap("decoding.Decoding.step", "if reason is None:", "if True:"),
    ),
    Plant(
        "a finished lane is forgotten",
        "decoding",
        swap(
            "decoding.Decoding._end",
            "self._logits.pop(lane.index, None)",
            "self._logits.pop(lane.index, None), self.cache.drop(lane.index)",
        ),
    ),
    Plant(
        "one random stream for all lanes",
        "decoding",
        lambda patch: patch.setattr(decoding, "uniform", one_stream(sampling.uniform)),
    ),
    Plant(
        "random streams by place among the living",
        "decoding",
        instead(decoding.Decoding, "_draw", stream_by_count),
    ),
    Plant(
        "lane prompts begin together",
        "decoding",
        swap("decoding.Decoding.join", "self.clock - len(ids) + k, m)", "len(self.prompt) + k, m)"),
    ),
    Plant(
        "lane prompts end one early",
        "decoding",
        swap(
            "decoding.Decoding.join",
            "self.clock - len(ids) + k, m)",
            "self.clock - 1 - len(ids) + k, m)",
        ),
    ),
    Plant(
        "penalty without the prompt",
        "decoding",
        swap(
            "decoding.Decoding._draw",
            "self.prompt + lane.prompt + lane.tokens",
            "lane.prompt + lane.tokens",
        ),
    ),
    Plant(
        "Omega dropped for joint lanes too",
        "decoding",
        swap(
            "decoding.Decoding.__init__",
            "not (self.mask.visibility & ~np.eye(self.mask.n, dtype=bool)).any()",
            "True",
        ),
    ),
    Plant(
        "the clock ticks twice a step",
        "decoding",
        swap(
            "decoding.Decoding.step",
            "= self.steps + 1, self.clock + 1",
            "= self.steps + 1, self.clock + 2",
        ),
    ),
]


def frequencies_as_recorded() -> None:
    """The frequencies that transformers gives, see record_rope.py."""
    recorded = json.loads((Path(__file__).parent / "data" / "rope.json").read_text())
    for entry in recorded:
        theta, factor = rope.frequencies(RopeConfig(**entry["rope"]), entry["head_dim"])
        good = np.allclose(theta, entry["theta"], rtol=1e-6, atol=0)
        if not (good and abs(factor - entry["factor"]) < 1e-6):
            raise AssertionError(entry["name"])


def reach_as_powers() -> None:
    """reaches() is the transitive closure, here by powers of the matrix."""
    for seed in range(30):
        v = np.random.default_rng(seed).random((5, 5)) < 0.3
        power = np.linalg.matrix_power((v | np.eye(5, dtype=bool)).astype(float), 5) > 0
        if not np.array_equal(LaneMask(v).reaches(), power):
            raise AssertionError(v)


ORACLES = {"frequencies": frequencies_as_recorded, "reach": reach_as_powers}


def violations(law: str, backend: str) -> str | None:
    """Check a law on the fixed cases; the first violation's message."""
    if law in ORACLES:
        try:
            ORACLES[law]()
        except AssertionError as error:
            return f"{law}: {error}"
        return None
    library, dtype = backend.split()
    for seed in CASES:
        case = example_case(seed)
        try:
            with np.errstate(all="ignore"):
                check(law, case.model(library, dtype), case.sample, case.choose)
        except LawViolation as violation:
            assert violation.law == law
            return str(violation)
    return None


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cache, "BLOCK", 3)


@pytest.mark.parametrize("plant", PLANTS, ids=[p.bug for p in PLANTS])
def test_planted_bug_is_caught(plant: Plant, monkeypatch: Patch, record_property: Any) -> None:
    plant.plant(monkeypatch)
    assert violations(plant.law, plant.backend) is not None, f"{plant.law} did not catch it"
    record_property("planted", (plant.bug, plant.law))


@pytest.mark.parametrize("law", sorted({(p.law, p.backend) for p in PLANTS}), ids=" ".join)
def test_without_a_bug_the_same_cases_pass(law: tuple[str, str]) -> None:
    assert violations(*law) is None


def test_every_law_and_oracle_catches_something() -> None:
    assert {p.law for p in PLANTS} >= set(LAWS) | set(EXTRA) - {"permutation"} | set(ORACLES)
    assert len({p.bug for p in PLANTS}) == len(PLANTS) >= 40


def test_a_plant_that_no_longer_applies_is_noticed(monkeypatch: Patch) -> None:
    with pytest.raises(AssertionError, match="0 times"):
        swap("rope.rotate", "no such text", "")(monkeypatch)


def test_the_tester_is_not_planted_in(monkeypatch: Patch) -> None:
    """What compares must not be broken by what is broken on purpose."""
    before = example_case(0)
    swap("rope.rotate", "x * c + flipped * s", "x * c")(monkeypatch)
    assert model.PLAIN.rotate is model.rotate is rope.rotate is cache.rotate
    after = example_case(0)
    assert np.array_equal(before.sample.tokens, after.sample.tokens)
    assert (before.sample.lanes == SHARED).any()
