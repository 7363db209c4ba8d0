"""Lives of lanes by random scripts: every operation of `tinylane.methods.life`, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.methods.decoding import Decoding

MOST = 8  # lanes
NAMES = (
    "step", "step", "step", "step", "join", "all", "none", "some", "place", "fork", "seal", "read",
    "unread", "pause", "resume", "give", "peek", "drop", "finish", "arrange",
)  # fmt: skip
BEGIN = ("join", "all", "none", "some", "place", "fork", "seal")
NUMBER = st.integers(0, 7)
LIVES = st.lists(
    st.tuples(st.sampled_from(NAMES), NUMBER, NUMBER, st.lists(st.integers(0, 10), max_size=3)),
    min_size=1,
    max_size=20,
)


def live(d: Decoding, script: list[tuple[str, int, int, list[int]]]) -> list[str]:
    """Do what the script says, as far as it can be done; returns what was done."""
    done = []
    for name, a, b, ids in script:
        if act(d, name, a, b, ids):
            done.append(name)
    return done


def act(d: Decoding, name: str, a: int, b: int, ids: list[int]) -> bool:
    """One operation on lanes that the numbers choose; whether it was possible."""
    any_, alive = a % len(d.lanes), [x.index for x in d.lanes if x.finish_reason is None]
    if name == "step":
        return bool(d.live) and bool(d.step())
    if name in BEGIN and len(d.lanes) >= MOST:
        return False
    if name in ("join", "all", "none", "some", "place"):
        return _join(d, name, a, b, ids)
    if name in ("drop", "finish"):
        if name == "drop" and any_ in d._after.values():
            return False
        getattr(d, name)(any_)
        return True
    if name in ("read", "unread"):
        try:
            d.read(any_, b % len(d.lanes), name == "read")
        except TinylaneError as error:
            assert "it cannot begin again" in str(error)
            return False
        return True
    if name == "arrange":
        if isinstance(d.cache.lane_rope, Hogwild):
            d.arrange([any_] if a == b else sorted({any_, b % len(d.lanes)}, reverse=True))
            return True
        return False
    if name == "resume":
        waiting = sorted(d._paused & {*alive})
        ended = [x.index for x in d.lanes if x.finish_reason == "stop" and x.index in d._logits]
        if not waiting + ended:
            return False
        d.resume([*waiting, *ended][a % len(waiting + ended)])
        return True
    if not alive:
        return False
    lane = alive[a % len(alive)]
    if name == "seal" and not d.lanes[lane].tokens:
        return False
    more = {"fork": {"max_tokens": 60}, "seal": {}, "pause": {}}
    if name in more:
        getattr(d, name)(lane, **more[name])
    else:  # give, peek
        getattr(d, name)(lane, ids)
    return True


def _join(d: Decoding, name: str, a: int, b: int, ids: list[int]) -> bool:
    P, sees, at = len(d.prompt), None, None
    if name == "join":
        if len(d.lanes) >= d.mask.n:
            return False
        ids = ids[: d.clock - P]
    else:
        sees = {"all": "all", "none": "none"}.get(name, {a % len(d.lanes), b % len(d.lanes)})
        at = ("end", "before")[b % 2] if name != "place" else P + b
        ids = ids or [5]
        if at == "before" and len(ids) > d.clock - P:
            at = "end"
    d.join(ids, sees=sees, at=at, max_tokens=40)
    return True


def fields(decoding: Decoding) -> list[Any]:
    """What two decodings of the same life must have in common, of every lane."""
    return [
        (x.tokens, x.finish_reason, x.spans, x.forked, x.dropped, x.follows) for x in decoding.lanes
    ]
