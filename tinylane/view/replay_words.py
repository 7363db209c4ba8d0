"""What a record says in words: who listened to whom most, and where silence changes most.

In words, lanes count from 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.files.display import one_line
from tinylane.view.replay_record import Record


def sentences(record: Record, shown: Callable[[int], str] = str) -> list[str]:
    """A few sentences for the head of a view, the most important first. shown: a token as text."""
    counted = ~record.copied
    prompt = float(record.views[0].shares[counted, 0].astype(np.float64).mean())
    others = float(record.to_others()[counted].mean())
    split = f"{percent(prompt)} to the prompt, {percent(1 - others - prompt)} to a lane's own text"
    if record.n < 2:
        return [f"One lane has no other lane to listen to. Its attention went {split}."]
    shares = record.lane_shares()[:, 1:]
    shares[np.eye(record.n, dtype=bool)] = 0.0
    shares = np.nan_to_num(shares)
    if not shares.any():
        return [f"No lane listened to another. Attention went {split}."]
    m, n = (int(x) for x in np.unravel_index(int(shares.argmax()), shares.shape))
    q = most_to_others(record)
    return [
        f"{percent(others)} of all attention went to other lanes, {split}.",
        f"Lane {m + 1} listened to lane {n + 1} most: {percent(float(shares[m, n]))} of its "
        "attention.",
        f"Before writing {_quoted(shown(int(record.tokens[q])))} (step {step_of(record, q)}), lane "
        f"{record.of[q] + 1} gave other lanes {percent(float(record.to_others()[q]))} of its "
        "attention.",
        *_silence(record, shown),
    ]


def _silence(record: Record, shown: Callable[[int], str]) -> list[str]:
    if not record.silences:
        return []
    strongest = strongest_silence(record)
    if strongest is None:
        return ["Silencing any one lane would have changed no other lane's next token."]
    silence, q = record.silences[strongest[0]], strongest[1]
    assert silence.lane is not None
    written, changed = int(record.tokens[q]), int(silence.drawn[q])
    word = _quoted(shown(written))
    now, then = (float(np.exp(x[q])) for x in (record.logprobs, silence.logprobs))
    moves = "falls" if then < now else "rises"
    likely = f"the probability of {word} {moves} from {percent(now)} to {percent(then)}"
    step = step_of(record, q)
    if changed == written:
        what = f"still have written {word} at step {step}"
        likely += ", the largest change that silence makes"
    else:
        what = f"have written {_quoted(shown(changed))} instead of {word} at step {step}"
    return [f"Without lane {silence.lane + 1}, lane {record.of[q] + 1} would {what}; {likely}."]


def _quoted(text: str) -> str:
    return f"“{one_line(text, 30)}”"


def about(record: Record) -> list[tuple[str, str]]:
    """The run in names and values, for the foot of a view."""
    run = record.run
    s, mask = run.sampler, run.lane_mask
    sampling = "greedy" if s.temperature == 0 else f"temperature {s.temperature:g}"
    usual = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    for name, value in usual.items():
        if getattr(s, name) != value:
            sampling += f", {name} {getattr(s, name):g}"
    events = run.result.settings.get("events") or ()
    turned = any(event["event"] == "rotate" for event in events) * ", in the end"
    missed = int((~record.copied & (record.redrawn != record.tokens)).sum())
    values = [
        ("model", one_line(run.model_source, 120) or "the model inside"),
        ("written by", one_line(f"tinylane {run.version}, {run.backend} {run.dtype}", 80)),
        ("sampling", f"{sampling}; seed {run.seed}"),
        ("visibility", describe(mask, record.n)),
        ("rotation", _rotation(record) + turned),
        ("check", f"log-probabilities recomputed: largest difference {record.difference:.2g}"),
    ]
    if missed:
        values.append(("check", f"{missed} tokens would be drawn differently on this machine"))
    return values


def _rotation(record: Record) -> str:
    rope = record.run.lane_rope
    if not isinstance(rope, LaneRoPE):
        order = ", ".join(str(m + 1) for m in getattr(rope, "order", ()))
        return type(rope).__name__ + (f", in the end with lanes {order} first" if order else "")
    if not rope.omega.any():
        return "none: lanes are not told apart by position"
    where = "as a part of every lane" if rope.prompt_lane == "own" else "at lane 1"
    return f"LaneRoPE, the prompt {where}"


def describe(mask: LaneMask, n: int) -> str:
    """Who reads whom, in a few words."""
    v, steps = mask.visibility[:n, :n], "step" if mask.lag == 1 else "steps"
    late = f", {mask.lag} {steps} late" if mask.lag else ""
    late += ", from or until some position" if mask.since is not None else ""
    for name in ("independent", "joint", "star"):
        if np.array_equal(v | np.eye(n, dtype=bool), LaneMask.named(name, n).visibility):
            return name + late
    if n > 16:
        return f"a matrix, {int(v.sum())} of {n * n} set{late}"
    reads = [
        f"{m + 1} reads "
        + (", ".join(str(k + 1) for k in range(n) if v[m, k] and k != m) or "nobody")
        for m in range(n)
    ]
    return "; ".join(reads) + late


def first_shown(record: Record) -> int:
    """The drawn token that a view begins with: the one that silence would change most, or else
    the one that listened to other lanes most."""
    strongest = strongest_silence(record)
    return most_to_others(record) if strongest is None else strongest[1]


def strongest_silence(record: Record) -> tuple[int, int] | None:
    """Which silence changes which drawn token most: places in `silences` and in Q. None if none
    changes any by 0.0005 nats."""
    kl = np.array([np.where(record.copied, 0.0, s.kl) for s in record.silences])
    if kl.max(initial=0.0) < 0.0005:
        return None
    k, q = np.unravel_index(int(kl.argmax()), kl.shape)
    return int(k), int(q)


def most_to_others(record: Record) -> int:
    """The drawn token that gave other lanes the most of its attention; a token that ended its lane
    only if there is no other."""
    ends = np.zeros(len(record.of), dtype=bool)
    for lane in record.lanes:
        if lane.finish_reason == "stop":
            ends[np.flatnonzero(record.of == lane.index)[-1:]] = True
    share = np.where(record.copied, -2.0, record.to_others())
    return int((share - ends).argmax())


def step_of(record: Record, q: int) -> int:
    """The step at which a token was drawn, from 1."""
    return int(record.steps[q]) + 1


def percent(share: float) -> str:
    """0.123 -> "12%"; a small share is not rounded to 0."""
    if 0 < share < 0.01:
        return "under 1%"
    return f"{100 * share:.0f}%"
