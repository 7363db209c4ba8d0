"""What a record says in words: who listened to whom most, and where silence changes most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.files.display import one_line
from tinylane.view.replay_record import Record


def sentences(record: Record, shown: Callable[[int], str] = str) -> list[str]:
    """A few sentences for the head of a view, the most telling first. shown: a token as text."""
    counted = ~record.copied
    mean = record.views[0].shares[counted].astype(np.float64).mean(axis=0)
    others = float(record.to_others()[counted].mean())
    prompt = float(mean[0])
    split = f"{percent(prompt)} to the prompt, {percent(1 - others - prompt)} to a lane's own text"
    if record.n < 2:
        return [f"One lane has no other to listen to: of its attention went {split}."]
    shares = record.lane_shares()[:, 1:]
    shares[np.eye(record.n, dtype=bool)] = 0.0
    shares = np.nan_to_num(shares)
    if not shares.any():
        return [f"No lane listened to another: of all attention went {split}."]
    m, n = (int(x) for x in np.unravel_index(int(shares.argmax()), shares.shape))
    found = [
        f"{percent(others)} of all attention went to other lanes, {split}.",
        f"Lane {m} listened to lane {n} most: {percent(float(shares[m, n]))} of its attention.",
    ]
    q = most_telling(record)
    lane, step = int(record.of[q]), step_of(record, q)
    token = one_line(shown(int(record.tokens[q])), 30)
    found.append(
        f"Before writing “{token}” (step {step}), lane {lane} gave other lanes "
        f"{percent(float(record.to_others()[q]))} of its attention."
    )
    return found + _silence(record, shown)


def _silence(record: Record, shown: Callable[[int], str]) -> list[str]:
    if not record.silences:
        return []
    k, q = most_silenced(record)
    silence, written = record.silences[k], int(record.tokens[q])
    if silence.kl[q] < 0.0005:
        return ["Silencing any one lane would have changed no other lane's next token."]
    changed, word = int(silence.drawn[q]), f"“{one_line(shown(written), 30)}”"
    now, then = (float(np.exp(x[q])) for x in (record.logprobs, silence.logprobs))
    moves = "falls" if then < now else "rises"
    where = f"Had lane {silence.lane} been silent, lane {int(record.of[q])} would"
    likely = f"the probability of {word} {moves} from {percent(now)} to {percent(then)}"
    if changed == written:
        return [
            f"{where} still have written {word} at step {step_of(record, q)}; {likely}, the "
            "largest change that silence makes."
        ]
    other = one_line(shown(changed), 30)
    return [
        f"{where} have written “{other}” instead of {word} at step {step_of(record, q)}: {likely}."
    ]


def about(record: Record) -> list[tuple[str, str]]:
    """The run in names and values, for the foot of a view."""
    run = record.run
    s, mask = run.sampler, run.lane_mask
    chosen = "greedy" if s.temperature == 0 else f"temperature {s.temperature:g}"
    for name, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
        if getattr(s, name) != off:
            chosen += f", {name} {getattr(s, name):g}"
    missed = int((~record.copied & (record.redrawn != record.tokens)).sum())
    found = [
        ("model", one_line(run.model_source, 120) or "the model inside"),
        ("written by", one_line(f"tinylane {run.version}, {run.backend} {run.dtype}", 80)),
        ("sampling", f"{chosen}; seed {run.seed}"),
        ("visibility", describe(mask, record.n)),
        ("rotation", _rotation(record)),
        ("check", f"log-probabilities recomputed: largest difference {record.difference:.2g}"),
    ]
    if missed:
        found.append(("check", f"{missed} tokens would be drawn differently on this machine"))
    return found


def _rotation(record: Record) -> str:
    rope = record.run.lane_rope
    if not isinstance(rope, LaneRoPE):
        return type(rope).__name__
    if not rope.omega.any():
        return "none: lanes are not told apart by position"
    where = "as a part of every lane" if rope.prompt_lane == "own" else "at lane 0"
    return f"LaneRoPE, the prompt {where}"


def describe(mask: LaneMask, n: int) -> str:
    """Who reads whom, in a few words."""
    v, late = mask.visibility[:n, :n], f", {mask.lag} steps late" if mask.lag else ""
    for name in ("independent", "joint", "star"):
        if np.array_equal(v | np.eye(n, dtype=bool), LaneMask.named(name, n).visibility):
            return name + late
    if n > 16:
        return f"a matrix, {int(v.sum())} of {n * n} set{late}"
    reads = [
        f"{m} reads " + (", ".join(str(k) for k in range(n) if v[m, k] and k != m) or "nobody")
        for m in range(n)
    ]
    return "; ".join(reads) + late


def first_shown(record: Record) -> int:
    """The drawn token that a view begins with: the one that silence would change most, or else
    the one that listened to other lanes most."""
    if record.silences:
        k, q = most_silenced(record)
        if record.silences[k].kl[q] >= 0.0005:
            return q
    return most_telling(record)


def most_silenced(record: Record) -> tuple[int, int]:
    """Which silence changes which drawn token most: places in `silences` and in Q."""
    kl = np.array([np.where(record.copied, 0.0, s.kl) for s in record.silences])
    k, q = np.unravel_index(int(kl.argmax()), kl.shape)
    return int(k), int(q)


def most_telling(record: Record) -> int:
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
    lane = record.lanes[int(record.of[q])]
    first = min(x.start for x in record.lanes)
    index = int(record.row[q] - record.begins[lane.index]) - len(lane.prompt)
    return lane.start + index - first + 1


def percent(share: float) -> str:
    """0.123 -> "12%"; small ones are not rounded to nothing."""
    if 0 < share < 0.01:
        return "under 1%"
    return f"{100 * share:.0f}%"
