"""Lanes as data: coordinates, who sees whom (LaneMask), and the second rotation (LaneRoPE).

Every token has a coordinate (i, m): its position on the clock that all lanes share, and its lane.
Prompt tokens that all lanes share have lane SHARED. Nothing here knows about layers or weights:
the same two functions of coordinates, `LaneMask.visible` and `Rotation.views`, serve prefill,
decoding, training, tests and plots.

    T  query rows      S  key rows      N  lanes      D  channels of one head
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tinylane.core.errors import TinylaneError, of_kind, reals, whole

SHARED = -1  # the lane of prompt tokens that every lane sees
MAX_LANES = 1024
MAX_STEPS = (1 << 31) - 1  # no context is longer
NEVER = MAX_STEPS  # a position that no row has

Row = tuple[int, int, int]  # token, position, lane


@dataclass(frozen=True, eq=False)
class LaneMask:
    """Who sees whom: `visibility[m, n]` says whether lane m reads lane n, `lag` steps late.

    visibility: N x N booleans (the diagonal does not matter: a lane always sees itself).
    lag: steps >= 0 before another lane's token can be read. With 0 a lane reads what the others
    were fed in this very step; those tokens were sampled in the step before, so nothing leaks.
    since, until: N x N positions, or None for 0 and never: m reads n from its own position since on
    and before its position until. `visibility` is then who ever reads whom.
    side: N x N booleans, who reads whom across a bridge or in LACE, if not as in `visibility`.
    Raises TinylaneError for a matrix that is not square or boolean, or a negative lag.
    """

    visibility: np.ndarray
    lag: int = 0
    since: np.ndarray | None = field(default=None, kw_only=True)
    until: np.ndarray | None = field(default=None, kw_only=True)
    side: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "visibility", _square("visibility", self.visibility))
        if self.side is not None:
            object.__setattr__(self, "side", _square("side", self.side))
            if self.side.shape != self.visibility.shape:
                raise TinylaneError(f"side is for {len(self.side)} lanes, visibility for {self.n}")
        object.__setattr__(self, "lag", whole("lag", self.lag, 0, MAX_STEPS))
        if (self.since is None) != (self.until is None):
            raise TinylaneError("a mask has since without until, or until without since; give both")
        for name in ("since", "until") if self.since is not None else ():
            times = np.asarray(getattr(self, name))
            if times.shape != self.visibility.shape or times.dtype.kind not in "iu":
                raise TinylaneError(
                    f"{name} has shape {times.shape}; expected integers {self.n} x {self.n}"
                )
            object.__setattr__(self, name, times.astype(np.int64))

    @property
    def n(self) -> int:
        """The number of lanes N."""
        return len(self.visibility)

    @property
    def alone(self) -> bool:
        """Whether no lane reads another."""
        reads = self.visibility if self.side is None else self.visibility | self.side
        return not (reads & ~np.eye(self.n, dtype=bool)).any()

    @classmethod
    def independent(cls, n: int) -> LaneMask:
        """No lane reads another: N separate runs."""
        return cls(np.eye(_count(n), dtype=bool))

    @classmethod
    def joint(cls, n: int, lag: int = 0) -> LaneMask:
        """Every lane reads every other."""
        return cls(np.ones(2 * (_count(n),), dtype=bool), lag)

    @classmethod
    def neighbours(cls, n: int, k: int = 1, lag: int = 0) -> LaneMask:
        """Lane m reads the lanes m-k .. m+k (no wrap-around)."""
        index = np.arange(_count(n))
        near = np.abs(index[:, None] - index[None, :]) <= whole("neighbours", k, 0)
        return cls(near, lag)

    @classmethod
    def star(cls, n: int, lag: int = 0) -> LaneMask:
        """Lane 0 reads all; the others read only themselves."""
        v = np.eye(_count(n), dtype=bool)
        v[0] = True
        return cls(v, lag)

    @classmethod
    def bridge(cls, n: int) -> LaneMask:
        """Lanes read each other across a bridge only (arXiv:2510.01143), or in LACE only."""
        return cls(np.eye(_count(n), dtype=bool), side=np.ones(2 * (_count(n),), dtype=bool))

    @classmethod
    def named(cls, name: str, n: int, lag: int = 0) -> LaneMask:
        """`independent`, `joint`, `star`, `bridge` or `neighbours:k`, as the command line does."""
        head, colon, k = of_kind("visibility", name, str, "a name or a LaneMask").partition(":")
        digits = k.isascii() and k.isdigit() and len(k) < 10  # int() reads other scripts' too
        if head == "neighbours" and (digits or not colon):
            return cls.neighbours(n, int(k or 1), lag)
        if colon or head not in ("independent", "joint", "star", "bridge"):
            raise TinylaneError(
                f"visibility {name[:60]!r}; "
                "expected independent, joint, star, bridge, neighbours:K or a matrix"
            )
        return replace(getattr(cls, head)(n), lag=lag)

    def visible(
        self,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
    ) -> np.ndarray:
        """(T, S) booleans: may the query at (positions, lanes) see the key at (key_...)?

        Method, section 3: shared keys and the query's own lane up to the query's position; another
        lane up to position - lag and only where `visibility` says so. Shared queries see shared
        keys only. Every row sees at least itself, so no row is ever fully masked.

        Three lanes that wrote one token each, at position 5; lane 0 reads all, the others read
        nobody else:

        >>> i, m = np.array([5, 5, 5]), np.array([0, 1, 2])
        >>> LaneMask.star(3).visible(i, m, i, m).astype(int).tolist()
        [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
        """
        m, n = lanes[:, None], key_lanes[None, :]
        age = positions[:, None] - key_positions[None, :]
        other = (m >= 0) & (n >= 0) & self.visibility[m, n] & (age >= self.lag)
        if self.since is not None and self.until is not None:
            i = positions[:, None]
            other &= (self.since[m, n] <= i) & (i < self.until[m, n])
        return np.where((n == SHARED) | (n == m), age >= 0, other)

    def seen(self, places: Places) -> np.ndarray | Literal["causal"] | None:
        """`visible` of a pass. None: every row sees every key. "causal": the rows, of one lane, are
        the last keys and see all up to their own. Both are told without the matrix, which takes the
        host long. A subclass decides row by row."""
        i, m, j, n = places
        if type(self) is LaneMask:
            one = (m == m[0]).all() and ((n == m[0]) | (n == SHARED)).all()
            if one and (i[1:] > i[:-1]).all() and j[: len(j) - len(i)].max(initial=i[0]) == i[0]:
                return "causal" if len(i) > 1 else None
            always = self.lag == 0 and self.since is None
            if always and (m >= 0).all() and self.visibility[m].all() and i.min() >= j.max():
                return None
        seen = self.visible(*places)
        return None if seen.all() else seen

    def same_step(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """(T, T) booleans: who sees whom across a bridge. Rows of lanes at one position, and every
        row itself."""
        m, n = lanes[:, None], lanes[None, :]
        if self.side is None:
            reads = self.visible(positions, lanes, positions, lanes)
        else:
            reads = self.side[m, n]
        both = (m != SHARED) & (n != SHARED) & reads
        return (positions[:, None] == positions) & (both | (m == n))

    def reaches(self) -> np.ndarray:
        """(N, N) booleans: can lane n influence lane m through any number of layers and steps?"""
        reach = self.visibility | np.eye(self.n, dtype=bool)
        reach = reach if self.side is None else reach | self.side
        for via in range(self.n):
            reach = reach | (reach[:, via : via + 1] & reach[via : via + 1, :])
        return reach

    def same_as(self, other: LaneMask | None) -> bool:
        """Whether both let the same lanes read each other, equally late."""
        if other is None or self.lag != other.lag:
            return False
        one, two = (x.visibility if x.side is None else x.side for x in (self, other))
        times = all(map(np.array_equal, self.times(), other.times()))
        return times and np.array_equal(one, two)

    def times(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """visibility, since and until as three matrices."""
        if self.since is None or self.until is None:
            return self.visibility, np.zeros(2 * (self.n,), int), np.full(2 * (self.n,), NEVER)
        return self.visibility, self.since, self.until

    def settings(self) -> dict[str, Any]:
        """As JSON, for run files. times: lanes m and n, since, until (null: never)."""
        told: dict[str, Any] = {"visibility": self.visibility.astype(int).tolist(), "lag": self.lag}
        if self.since is not None:
            v, since, until = self.times()
            pairs = np.argwhere(v & ((since > 0) | (until < NEVER))).tolist()
            end = lambda m, n: int(until[m, n]) if until[m, n] < NEVER else None
            told["times"] = [[m, n, int(since[m, n]), end(m, n)] for m, n in pairs]
        return told if self.side is None else {**told, "side": self.side.astype(int).tolist()}

    def silence(self, lane: int) -> LaneMask:
        """The same mask, but nobody reads `lane` any more (it still reads the others)."""
        read = np.arange(self.n) != whole("the lane", lane, 0, self.n - 1)
        side = None if self.side is None else self.side & read
        return replace(self, visibility=self.visibility & read, side=side)


class Places(NamedTuple):
    """The coordinates of one pass: of its T rows, and of all S keys (cached ones first, then the
    rows themselves). All are (T,) or (S,) integers."""

    positions: np.ndarray
    lanes: np.ndarray
    key_positions: np.ndarray
    key_lanes: np.ndarray


# Angles of the keys, angles of the queries for every block of keys, and the block of every key.
Views = tuple[np.ndarray, tuple[np.ndarray, ...], np.ndarray | None]


@runtime_checkable
class Rotation(Protocol):
    """What the decoder and the cache ask of a rotation; `LaneRoPE` is one, `Hogwild` another."""

    def views(self, theta: np.ndarray, mask: LaneMask, places: Places) -> Views:
        """Returns the key angles, one array of query angles per block of keys, and each key's
        block: (S,) integers, or None where there is one block. Angles are in radians, (T, D/2) or
        (layers, T, D/2)."""
        ...

    def angles(self, lanes: np.ndarray, layer: int) -> np.ndarray: ...
    def same_as(self, other: Any) -> bool: ...
    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class LaneRoPE:
    """The second rotation: lane m turns plane d by Omega[d] * m (arXiv:2605.27570, section 3).

    omega: (D/2,) for every layer alike, or (layers, D/2); radians per lane, kept in float64.
    prompt_lane: with "own", prompt keys, and queries when they score prompt keys, get no lane
    rotation: every lane sees the prompt as part of itself. 0 puts the prompt at lane 0 for all.
    """

    omega: np.ndarray
    prompt_lane: Literal["own", 0] = "own"

    def __post_init__(self) -> None:
        w = reals("Omega", self.omega)
        if w.ndim not in (1, 2) or w.size == 0:
            raise TinylaneError(f"Omega has shape {w.shape}; expected (D/2,) or (layers, D/2)")
        if not np.isfinite(w).all():
            raise TinylaneError("Omega holds NaN or infinite entries; expected radians per lane")
        if self.prompt_lane not in ("own", 0) or isinstance(self.prompt_lane, bool):
            raise TinylaneError(f"prompt_lane is {self.prompt_lane!r}; expected 'own' or 0")
        w.setflags(write=False)
        object.__setattr__(self, "omega", w)

    @classmethod
    def none(cls, theta: Any, prompt_lane: Literal["own", 0] = "own") -> LaneRoPE:
        """Omega = 0: lanes cannot be told apart by position, the mask-only ablation."""
        return cls(np.zeros_like(reals("theta", theta)), prompt_lane)

    @classmethod
    def group_think(
        cls, theta: Any, slot: float, prompt_lane: Literal["own", 0] = "own"
    ) -> LaneRoPE:
        """Omega = slot * theta: lane m's token i stands at virtual position i + m * slot.

        With `prompt_lane=0` exactly Group Think (arXiv:2505.11107). Lanes of a higher index then
        stand at negative distances that no pretrained model has seen.
        """
        return cls(_slot(slot) * reals("theta", theta), prompt_lane)

    @classmethod
    def ntk(
        cls, theta: Any, slot: float, scale: float, prompt_lane: Literal["own", 0] = "own"
    ) -> LaneRoPE:
        """Omega_d = slot * theta_d * scale^(-2d / (D - 2)), d = 0 .. D/2 - 1.

        Fast planes turn as in Group Think, the slowest by 1/scale of it. The paper names an
        NTK-aware start; these constants are our reading of it. scale: usually N.
        """
        theta, by = reals("theta", theta), float(reals("ntk scale", scale, single=True))
        if not (np.isfinite(by) and by > 0):
            raise TinylaneError(f"ntk scale is {scale}; expected a number > 0, usually N")
        planes = theta.shape[-1] if theta.ndim else 1
        decay = by ** (-2 * np.arange(planes) / max(2 * planes - 2, 1))
        return cls(_slot(slot) * theta * decay, prompt_lane)

    def views(self, theta: np.ndarray, mask: LaneMask, places: Places) -> Views:
        """As `Rotation.views`: one block, or two for `prompt_lane="own"` (method, section 2.1).

        Two are needed only where a lane other than 0, turned by Omega, looks at shared keys and at
        lane keys in one softmax.
        """
        positions, lanes, _, key_lanes = places
        base = positions[:, None] * theta
        turned = base + self.angles(lanes, 0)
        if self.omega.ndim == 2:
            turned = base + np.stack([self.angles(lanes, k) for k in range(len(self.omega))])
        shared = key_lanes == SHARED
        count = int(shared.sum())
        if self.prompt_lane == "own" and count > 0:
            if count == len(shared):  # queries that only score shared keys
                return turned, (base,), None
            if self.omega.any() and (lanes > 0).any():
                return turned, (base, turned), (~shared).astype(np.int32)
        return turned, (turned,), None

    def angles(self, lanes: np.ndarray, layer: int) -> np.ndarray:
        """(T, D/2) radians that the lane adds to the position's angle; SHARED rows add none."""
        omega = self.omega if self.omega.ndim == 1 else self.omega[layer]
        return np.maximum(lanes, 0)[:, None] * omega

    def same_as(self, other: Any) -> bool:
        """Whether both turn every lane alike, to the bit (adding 2 pi counts as another Omega)."""
        same = isinstance(other, LaneRoPE) and self.prompt_lane == other.prompt_lane
        return same and np.array_equal(self.omega, other.omega)

    def settings(self) -> dict[str, Any]:
        """As JSON, for run files."""
        return {"omega": self.omega.tolist(), "prompt_lane": self.prompt_lane}


def _square(name: str, matrix: Any) -> np.ndarray:
    v = reals(name, matrix)
    if v.ndim != 2 or v.shape[0] != v.shape[1]:
        raise TinylaneError(f"{name} has shape {v.shape}; expected N x N, one row a lane")
    _count(len(v))
    if not np.isin(v, (0, 1)).all():
        raise TinylaneError(f"{name} holds values other than true and false")
    v = v.astype(bool)
    v.setflags(write=False)
    return v


def _count(n: int) -> int:
    return whole("lanes", n, 1, MAX_LANES)


def _slot(slot: float) -> float:
    if not 0 <= reals("slot", slot, single=True) <= MAX_STEPS:
        raise TinylaneError(f"slot is {slot}; expected a number of positions, 0 to {MAX_STEPS}")
    return float(slot)
