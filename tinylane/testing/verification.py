"""The laws on a real checkpoint at its real size: what `tinylane verify` runs.

The rows are those of a joint decoding: a prompt, and lanes that begin early, join late or stop
early. The first sample has the mask and the rotation that the model was trained with. The others
have other masks, lags and Omegas, both prompt lanes, positions at the end of the context, and
Hogwild!'s rotation (for the laws that are not about Omega). It says nothing about how good the
model is.

    T rows   N lanes   V vocab
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.core.model import Model
from tinylane.testing.at_size import AT_SIZE, applies, passes
from tinylane.testing.checks import LAWS, exact
from tinylane.testing.laws import (
    LawViolation,
    Report,
    assert_equal,
    nothing_to_compare,
)
from tinylane.testing.samples import RandomChooser, Sample, random_lane_rope, random_mask
from tinylane.testing.subjects import Law, bound, plain
from tinylane.testing.tolerances import TOLERANCES, at_sensitivity

PROMPT = 16  # tokens of a random prompt
LONGEST = 128  # tokens of a given prompt; the definition is slow, and quadratic in rows
STEPS = 6  # tokens of a lane
NOISE = 1e-9  # small enough to act linearly, large enough to show in float64
SLOT = 64  # positions between lanes, for a model without an Omega


def joint_decoding(
    n: int,
    vocab: int,
    rng: np.random.Generator,
    mask: LaneMask,
    rope: Rotation,
    origin: int = 0,
    prompt: Sequence[int] = (),
) -> Sample:
    """N lanes after a prompt (default a random one) that begins at position `origin`.

    Lane prompts of 0, 1 or 2 tokens end together; the last lane joins late and lane 1 stops early.
    The tokens of the lanes are random.
    """
    prompt = prompt or rng.integers(vocab, size=PROMPT).tolist()
    clock = len(prompt) + 2
    rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
    for m in range(n):
        start = clock + 2 if m == n - 1 and m > 0 else clock - m % 3
        stop = clock + STEPS - (2 if m == 1 else 0)
        rows += [(int(rng.integers(vocab)), i, m) for i in range(start, stop)]
    rows.sort(key=lambda row: row[1])
    tokens, positions, lanes = np.array(rows, dtype=np.int64).T.copy()
    return Sample(tokens, positions + origin, lanes, mask, rope, vocab)


def samples_for(
    model: Model, n: int, count: int, seed: int = 0, prompt: Sequence[int] = ()
) -> dict[str, Sample]:
    """`count` >= 1 samples of n lanes with random prompts, by name; one with Hogwild!'s rotation;
    one with `prompt`'s first `LONGEST` tokens if given. The same for every backend and dtype.

    The first ones have the mask and rotation that the model was trained with; `joint` and `ntk` if
    it was not trained for lanes.
    """
    samples, sample = {}, partial(joint_decoding, n, model.config.vocab)
    mask = model.mask(n) if model.trained_for_lanes else LaneMask.joint(n)
    rope = model.lane_rope
    if rope is None or not rope.omega.any():
        rope = LaneRoPE.ntk(model.theta, SLOT, max(n, 2))
    if len(prompt):
        rng = np.random.default_rng(seed)
        samples["prompt"] = sample(rng, mask, rope, prompt=prompt[:LONGEST])
    for k in range(count):
        rng, settings = np.random.default_rng([seed, k]), (mask, rope)
        layers, choose, origin = model.config.layers, RandomChooser(rng), 0
        if k == 1:
            origin = max(model.config.context - 64, 0)
            omega = rng.uniform(-3, 3, (layers, len(model.theta)))
            settings = LaneMask.star(n, lag=1), LaneRoPE(omega, prompt_lane=0)
        elif k > 1:
            settings = random_mask(choose, n), random_lane_rope(choose, model.theta, layers, n)
        samples[f"random {k}"] = sample(rng, *settings, origin)
    one = mask if mask.side is None else LaneMask.joint(n, mask.lag)  # its views are of one mask
    samples["hogwild"] = sample(np.random.default_rng([seed, count]), one, Hogwild())
    return samples


@dataclass(frozen=True)
class Finding:
    """One law over all samples: the comparison that uses most of what is allowed.

    sample, row: where it is. violation: what is wrong; empty where the law holds.
    """

    number: int
    law: str
    says: str
    worst: float
    allowed: float
    compared: int
    sample: str
    row: int
    violation: str = ""

    @property
    def holds(self) -> bool:
        return not self.violation

    @property
    def verdict(self) -> str:
        if self.violation:
            return "VIOLATED"
        return "holds" if self.compared else "nothing to compare"


def _finding(law: Law, checks: Iterable[tuple[str, Callable[[], Report]]]) -> Finding:
    """Run a law's checks, each with its sample's name; a violation becomes part of the finding."""
    outcomes = []
    for name, check in checks:
        try:
            outcomes.append((name, check(), ""))
        except LawViolation as error:
            outcomes.append((name, error.report, str(error).split("; sample ")[0]))
    most = lambda outcome: (bool(outcome[2]), outcome[1].used)
    name, report, violation = max(
        outcomes, key=most, default=("", nothing_to_compare(law.name), "")
    )
    compared = sum(each.compared for _, each, _ in outcomes)
    worst, allowed, row = report.worst, report.allowed, report.row
    return Finding(law.number, law.name, law.says, worst, allowed, compared, name, row, violation)


@dataclass(frozen=True)
class Verification:
    """The laws checked on a model, on one backend and in one dtype.

    sensitivity: how much rounding is amplified (see `tolerances`). logits: (T, V) of every sample.
    """

    backend: str
    dtype: str
    findings: list[Finding]
    sensitivity: float
    logits: dict[str, np.ndarray]
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.backend} {self.dtype}"

    @property
    def blurred(self) -> bool:
        """Whether rounding alone may change logits by their own size, so that only exact laws
        mean anything."""
        entry = TOLERANCES[self.dtype]
        return entry.k * self.sensitivity * entry.eps >= 1


def verify(
    model: Model,
    samples: Mapping[str, Sample],
    seed: int = 0,
    on_law: Callable[[str], None] = lambda name: None,
) -> Verification:
    """Check every law of `AT_SIZE` on all samples. on_law is called with each law's name before
    it is checked."""
    began, findings = time.perf_counter(), []
    with np.errstate(all="ignore"):  # the laws report what is not finite
        on_law("sensitivity")
        logits = {name: np.array(bound(model, s)(*s.rows)) for name, s in samples.items()}
        expected = {name: exact(model, s) for name, s in samples.items()}
        amplified = max(_sensitivity(model, s, expected[name]) for name, s in samples.items())
        with at_sensitivity(amplified):
            for law in AT_SIZE:
                on_law(law.name)
                checks = []
                for k, (name, sample) in enumerate(samples.items()):
                    if not applies(law, sample, model):
                        continue
                    choose = RandomChooser(np.random.default_rng([seed, k, law.number]))
                    check: Any = partial(law.check, model, sample, choose)
                    if law.name == "backends":  # against the definition: no second large model
                        check = partial(assert_equal, law.name, logits[name], expected[name])
                        check = partial(check, sample, dtype=model.dtype)
                    checks.append((name, check))
                findings.append(_finding(law, checks))
    seconds = time.perf_counter() - began
    return Verification(model.backend, model.dtype, findings, amplified, logits, seconds)


def _sensitivity(model: Model, sample: Sample, expected: np.ndarray) -> float:
    moved = np.abs(exact(model, sample, NOISE) - expected).max()
    amplified = float(moved) / (NOISE * max(float(np.abs(expected).max()), 1.0))
    return amplified if np.isfinite(amplified) else 1.0  # NaN must not widen the tolerance


def compare(runs: Sequence[Verification], samples: Mapping[str, Sample]) -> list[Finding]:
    """Law 12 for every two verifications, with the tolerance of the coarser dtype."""
    findings = []
    for one, other in combinations(runs, 2):
        dtype = max((one.dtype, other.dtype), key=lambda name: TOLERANCES[name].eps)
        law = replace(LAWS["backends"], says=f"{one.name} agrees with {other.name}")
        how: dict[str, Any] = {"dtype": dtype, "detail": f"{one.name} against {other.name}"}
        checks = [
            (name, partial(assert_equal, law.name, one.logits[name], other.logits[name], s, **how))
            for name, s in samples.items()
        ]
        with at_sensitivity(max(one.sensitivity, other.sensitivity)):
            findings.append(_finding(law, checks))
    return findings


# How long it will take: passes are counted, and a few are measured.


@dataclass(frozen=True)
class TimeEstimate:
    """How long `verify` will take.

    definitions: how often the definition is computed. rows: of the largest sample.
    """

    seconds: float
    passes: int
    definitions: int
    rows: int


def estimate_time(model: Model, samples: Mapping[str, Sample]) -> TimeEstimate:
    """Measures a pass of a few rows, one of many, and the definition, and adds up `passes`."""
    largest = max(samples.values(), key=lambda s: len(s.tokens))
    few = largest.select(slice(0, largest.mask.n))

    def seconds(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    def checked(sample: Sample) -> None:  # a pass, and its half of a comparison of two passes
        got = np.asarray(bound(model, sample)(*sample.rows))
        assert_equal("estimate", got[::2], got[::2], sample, dtype=model.dtype)

    with np.errstate(all="ignore"), contextlib.suppress(LawViolation):  # NaN equals nothing
        checked(few)  # the first pass is slow
        small = seconds(lambda: checked(few))
        large = seconds(lambda: checked(largest))
        exact = seconds(lambda: plain(model)(largest.tokens, largest.positions))
    more = len(largest.tokens) - len(few.tokens)
    slope = max(large - small, 0.0) / max(more, 1)
    total, count, definitions = 0.0, 0, 0
    for sample in samples.values():
        rows, times = passes(sample)
        total += sum(small + slope * max(r - len(few.tokens), 0) for r in rows)
        total += times * exact * len(sample.tokens) / len(largest.tokens)
        count, definitions = count + len(rows), definitions + times
    return TimeEstimate(total, count, definitions, len(largest.tokens))
