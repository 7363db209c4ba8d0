"""`assert_all(f)`: every law that can be asked of a decoder, in one call.

What f takes says what it can be asked. A decoder of one's own that knows no lanes takes tokens, or
tokens and positions; one with lanes takes `lane_mask` too. Nothing of it is looked at but its
logits, so it may be of any library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from tinylane.core.errors import TinylaneError, of_kind, reals, show, whole
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.testing.checks import EXTRA, LAWS
from tinylane.testing.laws import Logits, Report, numbers, worst_of
from tinylane.testing.samples import RandomChooser, Sample, random_sample
from tinylane.testing.subjects import Foreign
from tinylane.testing.tolerances import TOLERANCES

# What a law needs beside tokens. Laws that are not here need a `tinylane.Model`.
NEEDS: dict[str, tuple[str, ...]] = {
    "causality": (),
    "chain rule": (),
    "steps": ("start",),
    "backends": ("exact",),
    "token shift": ("positions",),
    "storage order": ("lane_mask",),
    "isolation": ("lane_mask",),
    "company": ("lane_mask",),
    "lane shift": ("lane_mask",),
    "shared prompt": ("lane_mask",),
    "permuted paths": ("lane_mask",),
    "permutation": ("lane_mask",),
    "one lane": ("lane_mask", "plain"),
    "independent": ("lane_mask", "plain"),
    "fork join": ("lane_mask", "plain"),
    "one path": ("lane_mask", "plain"),
    "reread": ("lane_mask", "plain"),
    "periodicity": ("lane_mask", "lane_rope"),
    "group think": ("lane_mask", "lane_rope", "plain"),
}


def assert_all(
    f: Callable[..., Any],
    *,
    plain: Logits | None = None,
    start: Callable[..., Logits] | None = None,
    exact: Callable[..., Any] | None = None,
    theta: Any = None,
    dtype: str | None = None,
    context: int = 1 << 20,
    cases: int = 20,
    seed: int = 0,
) -> list[Report]:
    """Check every law that applies to f on `cases` random samples; a report for each law asked.

    f gives logits (T, V), an array of any library, for T rows. What it takes without a default:
    `tokens`: one text, from position 0 on. Causality and the chain rule.
    `tokens, positions`: a relative encoding of positions. The token shift too.
    `tokens, positions, lanes` and a keyword `lane_mask`: laws of lanes that no Omega tells apart.
    The same and a keyword `lane_rope` (give theta): those of a LaneRoPE.
    A `tinylane.Model` is asked all of `LAWS` and `EXTRA` (`decoding` in float64 only).

    plain: `plain(tokens, positions, visible=None)`, the unmodified model, for laws 6, 7, 11 and 16
    to 18. start: gives a feed with an empty cache, that takes what f takes without a default, for
    law 8; it gets f's keywords. exact: f in float64, for law 12. theta: the angular frequencies
    (D/2,). dtype: of f's activations, default that of its logits. context: positions that f can
    have. The vocabulary is the width of its logits.
    Raises LawViolation for the first law that does not hold, TinylaneError for another f.
    """
    cases, seed = whole("cases", cases, 1), whole("seed", seed, 0)
    if isinstance(f, Model):
        subject: Any = f
        vocab, layers, lanes = f.config.vocab, f.config.layers, None
        asked: Collection[str] = [*LAWS, *EXTRA]
        if f.dtype != "float64":  # else a draw may fall between two roundings
            asked = [law for law in asked if law != "decoding"]
    else:
        takes = _takes(f, theta)
        subject, vocab = _foreign(f, takes, plain, start, exact, theta, dtype, context)
        layers, lanes = 1, None if "lane_mask" in takes.keywords else 1
        has = {"positions"} if takes.rows > 1 else set()
        has |= {*takes.keywords} | {
            name
            for name, given in (("plain", plain), ("start", start), ("exact", exact))
            if given is not None
        }
        asked = [law for law, needs in NEEDS.items() if has.issuperset(needs)]
    reports: dict[str, list[Report]] = {}
    for law in (law for law in (*LAWS.values(), *EXTRA.values()) if law.name in asked):
        for k in range(cases):
            choose = RandomChooser(np.random.default_rng([seed, k]))
            sample = random_sample(choose, vocab, subject.theta, layers, lanes)
            sample = _possible(sample, subject)
            reports.setdefault(law.name, []).append(law.check(subject, sample, choose))
    return [worst_of(found) for found in reports.values()]


class Takes(NamedTuple):
    """What a callable takes: how many of tokens, positions and lanes, and which keywords."""

    rows: int
    keywords: tuple[str, ...]


def _takes(f: Any, theta: Any) -> Takes:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError) as error:
        raise TinylaneError(f"f is {show(f)}; expected a function of tokens") from error
    of = inspect.Parameter
    places = (of.POSITIONAL_ONLY, of.POSITIONAL_OR_KEYWORD)
    of_rows = [p for p in parameters if p.name not in ("lane_mask", "lane_rope")]
    rows = sum(p.kind in places and p.default is of.empty for p in of_rows)
    any_keyword = any(p.kind is of.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters} | ({"lane_mask", "lane_rope"} if any_keyword else set())
    if any(p.kind is of.VAR_POSITIONAL for p in parameters) or not 1 <= rows <= 3:
        raise TinylaneError(
            "f does not say what it takes; expected a function of tokens, of tokens and positions, "
            "or of tokens, positions and lanes"
        )
    if rows < 3:
        return Takes(rows, ())
    if "lane_mask" not in names:
        raise TinylaneError("f takes lanes, but no keyword lane_mask; without it no lane is seen")
    rope = "lane_rope" in names and theta is not None
    needed = any(p.name == "lane_rope" and p.default is of.empty for p in parameters)
    if needed and not rope:
        raise TinylaneError("f needs a lane_rope; give theta, the model's frequencies (D/2,)")
    return Takes(rows, ("lane_mask", "lane_rope") if rope else ("lane_mask",))


def _adapted(name: str, f: Any, takes: Takes, keywords: bool = True) -> Logits:
    """f as a function of all rows and all keywords; it gets what it takes. name: in messages."""
    f = _sound(name, f)

    def run(tokens: Any, positions: Any, lanes: Any, **settings: Any) -> Any:
        rows = (tokens, positions, lanes)[: takes.rows]
        return f(*rows, **{k: settings[k] for k in takes.keywords if keywords and k in settings})

    return run


def _sound(name: str, f: Callable[..., Any]) -> Logits:
    """f, whose answers are looked at: raises TinylaneError where it fails, and for what it gives
    that is no logits."""
    width: int | None = None  # of the first call

    def run(tokens: Any, *places: Any, **settings: Any) -> Any:
        nonlocal width
        given = _called(name, f, tokens, *places, **settings)
        try:
            shape = numbers(given).shape
        except TinylaneError as error:
            raise TinylaneError(f"{name}: {error}") from error
        if not shape:
            raise TinylaneError(f"{name}: logits are {show(given)}; expected an array (T, V)")
        width = shape[-1] if width is None else width
        if shape != (len(tokens), width):
            one = "one token has" if len(tokens) == 1 else f"{len(tokens)} tokens have"
            V = width if len(shape) == 2 else "V"
            raise TinylaneError(
                f"{name}: the logits of {one} the shape {shape}; expected ({len(tokens)}, {V})"
            )
        return given

    return run


def _called(name: str, f: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """What f gives. Raises TinylaneError, with f's own error as its cause, where it fails."""
    try:
        return f(*args, **settings)
    except TinylaneError:
        raise
    except Exception as error:
        rows = len(args[0]) if args else "T"
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise TinylaneError(f"{name} failed ({told}); expected logits ({rows}, V)") from error


def _foreign(
    f: Any,
    takes: Takes,
    plain: Logits | None,
    start: Callable[..., Logits] | None,
    exact: Any,
    theta: Any,
    dtype: str | None,
    context: int,
) -> tuple[Foreign, int]:
    """f as a subject of the checks, and its vocabulary: the width of the logits of one row."""
    for what, given in (("plain", plain), ("start", start), ("exact", exact)):
        of_kind(what, given, (Callable, NoneType), "a function")
    of_kind("dtype", dtype, (str, NoneType), f"one of {', '.join(TOLERANCES)}")
    planes = reals("theta", [1.0] if theta is None else theta)
    one, run = np.zeros(1, dtype=np.int64), _adapted("f", f, takes)
    first = run(one, one, one, lane_mask=LaneMask.joint(1), lane_rope=LaneRoPE.none(planes))
    if (width := numbers(first).shape[1]) < 2:
        raise TinylaneError(f"f's logits are {width} wide; expected a vocabulary of 2 or more")
    name = dtype or str(getattr(first, "dtype", "float64")).split(".")[-1]
    if name not in TOLERANCES:
        names = ", ".join(TOLERANCES)
        raise TinylaneError(f"f's logits are {show(name)}; give dtype, one of {names}")

    def feed(**settings: Any) -> Logits:
        assert start is not None
        fed = _called("start", start, **{k: settings[k] for k in takes.keywords})
        of_kind("what start gave", fed, Callable, "a function that feeds rows")
        return _adapted("start", fed, takes, keywords=False)

    twin = None if exact is None else _adapted("exact", exact, takes)
    plain = None if plain is None else _sound("plain", plain)
    foreign = Foreign(
        run, name, planes, plain, feed if start else None, twin, whole("context", context, 16)
    )
    return foreign, width


def _possible(sample: Sample, subject: Any) -> Sample:
    """The sample with what a foreign decoder has: positions in its context, one Omega for all
    layers."""
    if isinstance(subject, Model):
        return sample
    if int(sample.positions.max()) + 16 > subject.context:
        sample = replace(sample, positions=sample.positions - int(sample.positions.min()))
    omega = np.atleast_2d(sample.rope.omega)[0]
    return sample.with_rope(LaneRoPE(omega, sample.rope.prompt_lane))
