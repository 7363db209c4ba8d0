"""Bugs in the rotation, the lanes and the mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from planting import Patch, Plant, instead, swap

from tinylane.core import decoder, lanes, rope


def interleaved(x: Any, c: Any, s: Any) -> Any:
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], c[..., :half], s[..., half:]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def remembered(old: Any) -> Any:
    """A mask remembered by the number of rows only, which is too little to tell masks apart."""
    known: dict[tuple[int, int], Any] = {}

    def visible(self: Any, i: Any, m: Any, j: Any, n: Any) -> Any:
        return known.setdefault((len(i), len(j)), old(self, i, m, j, n))

    return visible


def yarn_factor(keys: float, queries: float) -> Callable[[Patch], None]:
    """The attention factor, to so many more powers, in the tables of keys and of queries."""

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

    return instead(decoder, "make_plan", make)


def float32_angles(old: Any) -> Any:
    return lambda angles, *rest: old(angles.astype(np.float32), *rest)


LANES = [
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
            "decoder.self_attention",
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
        swap("rope.table", "xp.concatenate([cos, cos], axis=-1)", "xp.repeat(cos, 2, axis=-1)"),
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
        swap("lanes.LaneRoPE.views", "and (lanes > 0).any()", "and False"),
    ),
    Plant(
        "prompt keys per lane: queries look at them from lane 0 only",
        "independent",
        swap("lanes.LaneRoPE.views", "(base, turned)", "(base + lanes[:, None], turned)"),
    ),
    Plant(
        "prompt_lane=0 read as own",
        "group think",
        swap(
            "lanes.LaneRoPE.views",
            'self.prompt_lane == "own" and count > 0',
            "count > 0",
        ),
    ),
    Plant(
        "keys not turned by their lane",
        "definition",
        swap("lanes.LaneRoPE.views", "turned, (base, turned)", "base, (base, turned)"),
    ),
    Plant(
        "group_think the other way",
        "group think",
        swap("lanes.LaneRoPE.group_think", "_slot(slot) *", "-_slot(slot) *"),
    ),
    Plant(
        "shared keys taken to stand first",
        "storage order",
        swap(
            "lanes.LaneRoPE.views",
            "(~shared).astype",
            "(np.arange(len(shared)) >= count).astype",
        ),
    ),
    Plant(
        "the two blocks cut one key late",
        "shared prompt",
        swap("lanes.LaneRoPE.views", "(~shared).astype", "np.roll(~shared, 1).astype"),
    ),
    Plant(
        "the two blocks mixed up",
        "shared prompt",
        swap("decoder.scores", "block_of == block", "block_of != block"),
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
        swap("lanes.LaneMask.seen", "i.min() >= j.max()", "i.max() >= j.max()"),
    ),
    Plant(
        "no mask in a step, whoever sees whom",
        "steps",
        swap("lanes.LaneMask.seen", "self.visibility[m].all()", "True"),
    ),
    Plant(
        "rows of one lane in order see all that is cached",
        "steps",
        swap("lanes.LaneMask.seen", "((n == m[0]) | (n == SHARED)).all()", "True"),
    ),
    Plant(
        "reach of one hop only",
        "reach",
        swap("lanes.LaneMask.reaches", "range(self.n)", "range(0)"),
    ),
    Plant(
        "a silenced lane goes deaf, and is still heard",
        "company",
        swap("lanes.LaneMask.silence", "self.visibility & read", "self.visibility & read[:, None]"),
    ),
    # the decoder
]
