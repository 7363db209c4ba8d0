"""The laws as `verification` asks them of a real checkpoint: rows, lanes and cuts are chosen, so
that it is known before how many passes they take.

    T rows   N lanes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from tinylane.checkpoints.side import BRIDGE, LANE_EMBED, LANE_KV
from tinylane.core.lanes import SHARED, LaneRoPE
from tinylane.core.model import Model
from tinylane.methods.decoding import Decoding
from tinylane.testing import additions, laws, segment_checks, segments
from tinylane.testing.checks import LAWS, steps
from tinylane.testing.laws import Report, worst_of
from tinylane.testing.samples import Chooser, Sample
from tinylane.testing.segments import predecessors
from tinylane.testing.subjects import Law, bound, plain


def _causality(model: Model, sample: Sample, choose: Chooser) -> Report:
    """For the rows in the middle of the prompt and of the lanes."""
    by, shared = choose.integer(1, sample.vocab - 1), int((sample.lanes == SHARED).sum())
    middles = (shared // 2, (shared + len(sample.tokens)) // 2)
    f = bound(model, sample)
    return worst_of([laws.assert_causality(f, sample, middle, by) for middle in middles])


def _isolation(model: Model, sample: Sample, choose: Chooser) -> Report:
    """For the lane that fewest lanes read."""
    lane = int(sample.mask.visibility.sum(axis=0).argmin())
    by = choose.integer(1, sample.vocab - 1)
    return laws.assert_isolation(bound(model, sample), sample, lane, by)


ABOUT_OMEGA = (  # or about the prompt's lane, or about positions
    "shared prompt", "periodicity", "group think", "permuted paths", "fork join", "moved cache",
)  # fmt: skip
ABOUT_VIEWS = ("seal",)


ALIKE = (  # lanes are, but for Omega: not where they have embeddings
    "lane shift", "one lane", "independent", "shared prompt", "group think", "permuted paths",
    "fork join", "one path", "reread", "seal", "moved cache",
)  # fmt: skip
ONE_MASK = ("group think", "blocks merge")  # not where a side path has another


def applies(law: Law, sample: Sample, model: Model) -> bool:
    """Whether the law says anything about the sample's rotation, and about this model."""
    if law.name in ALIKE and {LANE_EMBED, LANE_KV} & model.params.keys():
        return False
    if law.name in ONE_MASK and (BRIDGE in model.params or sample.mask.side is not None):
        return False
    if isinstance(sample.rope, LaneRoPE):
        return law.name not in ABOUT_VIEWS
    return law.name not in ABOUT_OMEGA


def gapless(sample: Sample) -> Sample:
    """The sample with the prompt from position 0 and every lane directly after it.

    A Hogwild! view closes gaps, so only this equals the unmodified model. A sample with an Omega is
    returned as it is.
    """
    if isinstance(sample.rope, LaneRoPE):
        return sample
    positions, shared = sample.positions.copy(), sample.lanes == SHARED
    positions[shared] = np.arange(shared.sum())
    for m in range(sample.mask.n):
        mine = sample.lanes == m
        positions[mine] = shared.sum() + np.arange(mine.sum())
    return replace(sample, positions=positions)


def _of_gapless(law: str, model: Model, sample: Sample, choose: Chooser) -> Report:
    return LAWS[law].check(model, gapless(sample), choose)


def _steps(model: Model, sample: Sample, choose: Chooser) -> Report:
    """The prompt in two pieces, then step by step."""
    count = int((sample.lanes == SHARED).sum())
    cuts = (count // 2, *range(count, len(sample.tokens)))
    return steps(model, sample, [cut for cut in cuts if cut])


PATHS, SUMMARY = (4, 2, 3), 2  # tokens of a fork-join
LIFE = 4  # steps of a decoding


def _chain_rule(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Two tokens in three rows: eight passes."""
    return segment_checks.chain_rule(model, sample, 2, 3, choose.integer(0, 999))


def _joined(model: Model, sample: Sample, choose: Chooser, paths: Sequence[int] = PATHS) -> Sample:
    return segment_checks.joined(model, sample, paths, SUMMARY, choose.integer(0, 999))


def _permuted_paths(model: Model, sample: Sample, choose: Chooser) -> Report:
    rows = _joined(model, sample, choose)
    f, order = bound(model, rows), choose.pick(((1, 2, 0, 3), (2, 0, 1, 3), (2, 1, 0, 3)))
    return segments.assert_permuted_paths(f, rows, order, dtype=model.dtype)


def _fork_join(model: Model, sample: Sample, choose: Chooser) -> Report:
    rows = _joined(model, sample, choose)
    return segments.assert_fork_join(bound(model, rows), plain(model), rows, dtype=model.dtype)


def _one_path(model: Model, sample: Sample, choose: Chooser) -> Report:
    rows = _joined(model, sample, choose, PATHS[:1])
    return segments.assert_one_path(bound(model, rows), plain(model), rows, dtype=model.dtype)


def _reread(model: Model, sample: Sample, choose: Chooser) -> Report:
    rows = _joined(model, sample, choose)
    f, how = bound(model, rows), {"dtype": model.dtype}
    return segments.assert_reread(f, plain(model), rows, len(PATHS), **how)


def _seal(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Two lanes, of which each seals once."""
    return segment_checks.seal(model, sample, 2, (0, 1), choose.integer(0, 999))


def _rollout(model: Model, sample: Sample, choose: Chooser) -> Report:
    """A few steps of all lanes, without lane prompts."""
    prompt, n = segment_checks.prompt_of(sample), sample.mask.n
    decoding = Decoding(
        model, prompt, n, max_tokens=LIFE, lane_rope=sample.rope, lane_mask=sample.mask,
        lane_prompts=[[]] * n, sampler=segment_checks.endless(model), seed=choose.integer(0, 999),
    )  # fmt: skip
    return segment_checks.rollout(decoding, sample)


def _moved_cache(model: Model, sample: Sample, choose: Chooser) -> Report:
    half = (sample.lanes <= 0).sum() // 2
    return segment_checks.moved_cache(model, sample, 0, int(half), choose.pick((1, 7, 100)))


def _bridge(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Lanes in the reverse order; lane 0 alone; lane 0 ends."""
    order, by = list(range(sample.mask.n))[::-1], choose.integer(1, sample.vocab - 1)
    return additions.bridge(model, sample, 0, order, by)


_AT_SIZE: dict[str, Callable[..., Report]] = {
    "bridge": _bridge,
    "causality": _causality,
    "isolation": _isolation,
    "one lane": partial(_of_gapless, "one lane"),
    "independent": partial(_of_gapless, "independent"),
    "steps": _steps,
    "chain rule": _chain_rule,
    "permuted paths": _permuted_paths,
    "fork join": _fork_join,
    "one path": _one_path,
    "reread": _reread,
    "seal": _seal,
    "rollout": _rollout,
    "moved cache": _moved_cache,
}
AT_SIZE = [replace(law, check=_AT_SIZE.get(law.name, law.check)) for law in LAWS.values()]


def passes(sample: Sample) -> tuple[list[int], int]:
    """Rows of every pass that `verify` makes of a sample, and how often it runs the definition."""
    t, n = len(sample.tokens), sample.mask.n
    shared = int((sample.lanes == SHARED).sum())
    ends = {int((sample.positions < i).sum()) for i in sample.positions[shared:]}
    pieces = [b - a for a, b in pairwise(sorted({0, shared // 2, *ends, t}))]
    twice = ("token shift", "lane shift", "storage order", "isolation", "company")
    once = ("one lane", "independent", "steps", "definition", "blocks merge")
    whole = [t] * (2 * len(twice) + len(once) + 4)  # causality: 4
    drawn = min(3, int((predecessors(sample) >= 0).sum()))
    whole += [t] * 2**drawn  # chain rule
    p, q = min(shared, segment_checks.PROMPT), sum(PATHS)
    one = [p + PATHS[0] + SUMMARY]
    again = [p + 2 * q + SUMMARY]
    for path in PATHS:
        again += [p + path + SUMMARY, p + 2 * path + SUMMARY]
    fed = max(p, 1) + (LIFE - 1) * n
    whole += [*one, *again, max(p, 1), *[n] * (LIFE - 1), fed]  # the last ones are of the rollout
    text = int((sample.lanes <= 0).sum())
    ended = [t, t, n - 1, n - 1] if n > 1 else []
    whole += [*[t] * 10, text, *ended]  # identity 4, bridge, multi stream 2
    if not isinstance(sample.rope, LaneRoPE):
        return [*whole, *pieces, max(p, 1), 2, 2], 7 + n
    of_omega = [t, n * shared + t - shared, t, t, t]  # shared prompt, periodicity, group think
    joined = [p + q + SUMMARY] * 3  # permuted paths, fork join
    return [*whole, *of_omega, *joined, *pieces, text // 2, text - text // 2], 10 + n
