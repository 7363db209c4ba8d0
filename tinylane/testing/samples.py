"""Small random models and coordinates. Structure is drawn, arrays come from a drawn seed.

The same code draws from Hypothesis (`strategies`) and from a NumPy generator (`example_case`): a
`Chooser` hides which. Simple choices come first, so that Hypothesis shrinks towards them.

    T rows   N lanes   D head dim   V vocab
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from tinylane.checkpoints import extras
from tinylane.checkpoints.load import choose_ops
from tinylane.checkpoints.side import Side
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, whole
from tinylane.core.lanes import MAX_LANES, SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.rope import RopeConfig, frequencies


class Chooser(Protocol):
    """Where choices come from."""

    def integer(self, low: int, high: int) -> int: ...  # both ends included
    def pick(self, options: Sequence[Any]) -> Any: ...


@dataclass
class RandomChooser:
    """Choices from a NumPy generator."""

    rng: np.random.Generator

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows to run a model on: tokens, positions, lanes (T,) int64, the mask and the rotation.

    rope: a LaneRoPE, or any `Rotation` for laws that are not about Omega or the prompt's lane. Rows
    are in order of arrival: by position, then lane. A shared row may come after rows of lanes: all
    lanes see it, and it sees none of them.
    """

    tokens: np.ndarray
    positions: np.ndarray
    lanes: np.ndarray
    mask: LaneMask
    rope: Any
    vocab: int

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.tokens, self.positions, self.lanes

    @property
    def angle(self) -> float:
        """A bound of the angles in radians: the fastest plane turns by 1 radian per position."""
        return float(np.abs(self.positions).max()) + self.mask.n * self.turn

    @property
    def turn(self) -> float:
        """The largest angle between neighbouring lanes in radians; 0 without an Omega."""
        return float(np.abs(self.rope.omega).max()) if isinstance(self.rope, LaneRoPE) else 0.0

    def select(self, which: Any) -> Sample:
        """The rows that `which` (booleans or indices) picks, in its order."""
        tokens, positions, lanes = (column[which] for column in self.rows)
        return replace(self, tokens=tokens, positions=positions, lanes=lanes)

    def followed_by(self, tokens: Any, positions: Any, lanes: Any) -> Sample:
        """With more rows."""
        pairs = zip(self.rows, (tokens, positions, lanes), strict=True)
        tokens, positions, lanes = (np.concatenate(pair) for pair in pairs)
        return replace(self, tokens=tokens, positions=positions, lanes=lanes)

    def prompt_first(self) -> Sample:
        """Without shared rows that come after rows of lanes: the other shared rows are a prompt."""
        lane_rows = self.positions[self.lanes != SHARED]
        first = lane_rows.min(initial=np.iinfo(np.int64).max)
        return self.select((self.lanes != SHARED) | (self.positions < first))

    def change(self, which: Any, by: int = 1) -> Sample:
        """Other tokens in the rows that `which` picks; by: 1 .. V - 1, added to them."""
        tokens = self.tokens.copy()
        tokens[which] = (tokens[which] + by) % self.vocab
        return replace(self, tokens=tokens)

    def with_rope(
        self, rope: Rotation | None = None, prompt_lane: Literal["own", 0] | None = None
    ) -> Sample:
        """With another rotation, or with the same Omega (if any) and another prompt lane."""
        rope = rope or self.rope
        if prompt_lane is not None and isinstance(rope, LaneRoPE):
            rope = LaneRoPE(rope.omega, prompt_lane)
        return replace(self, rope=rope)

    def with_mask(self, mask: LaneMask) -> Sample:
        return replace(self, mask=mask)

    def __repr__(self) -> str:
        rows = " ".join(
            f"{token}@{i},{'S' if m == SHARED else m}"
            for token, i, m in zip(*(x.tolist() for x in self.rows), strict=True)
        )
        seen = "/".join("".join(str(int(x)) for x in row) for row in self.mask.visibility)
        turn = type(self.rope).__name__
        if isinstance(self.rope, LaneRoPE):
            omega = np.array2string(self.rope.omega, precision=3, threshold=8)
            turn = f"Omega {omega}, prompt_lane {self.rope.prompt_lane}"
        return f"[token@position,lane: {rows}; visibility {seen}, lag {self.mask.lag}, {turn}]"


def segments(
    prompt: Sequence[int],
    texts: Sequence[Sequence[int]],
    sees: Any,
    vocab: int,
    rope: Rotation,
    lag: int = 0,
    origin: int = 0,
) -> Sample:
    """Rows of lanes that are segments of text: lane m begins one after the latest end of what it
    sees. texts: the tokens of each lane. sees: (N, N), lane m reads lane n. origin: the prompt's
    first position. Raises TinylaneError for lanes that read each other."""
    tokens = np.array([*prompt, *(token for text in texts for token in text)], dtype=np.int64)
    lanes = [SHARED] * len(prompt) + [m for m, text in enumerate(texts) for _ in text]
    mask = LaneMask(np.asarray(sees, dtype=bool) | np.eye(len(texts), dtype=bool), lag)
    rows = Sample(tokens, np.arange(len(tokens)), np.array(lanes), mask, rope, vocab)
    rows = replace(rows, positions=depths(rows) + origin)
    return rows.select(np.lexsort((rows.lanes, rows.positions)))


def fork_join(
    prompt: Sequence[int],
    paths: Sequence[Sequence[int]],
    summary: Sequence[int],
    vocab: int,
    rope: Rotation,
    lag: int = 0,
    origin: int = 0,
) -> Sample:
    """Rows of a prompt, K paths (lanes 0 .. K - 1) that do not see each other, and a summary (lane
    K) that sees them all and begins one after the longest."""
    sees = np.zeros((len(paths) + 1, len(paths) + 1), dtype=bool)
    sees[-1] = True
    return segments(prompt, [*paths, summary], sees, vocab, rope, lag, origin)


def depths(sample: Sample) -> np.ndarray:
    """(T,) the position of each row where a lane begins one after the latest end of what it sees:
    the shared rows and other lanes. The first position is the sample's. Within a lane rows keep
    their order. Raises TinylaneError for lanes that read each other, also through others.

    Two paths of 1 and 3 tokens behind a prompt of 2, and a summary that sees both:

    >>> sample = fork_join([7, 7], [[1], [2, 2, 2]], [3, 3], 9, LaneRoPE.none(np.ones(2)))
    >>> depths(sample).tolist(), sample.lanes.tolist()
    ([0, 1, 2, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 1, 1, 2, 2])
    """
    lanes, n = sample.lanes, sample.mask.n
    sees = sample.mask.visibility & ~np.eye(n, dtype=bool)
    start = int(sample.positions.min()) if len(lanes) else 0
    length = np.bincount(lanes + 1, minlength=n + 1)
    ends = {SHARED: start + int(length[0])}
    waiting = list(range(n))
    while waiting:
        ready = [m for m in waiting if all(k in ends for k in np.flatnonzero(sees[m]))]
        if not ready:
            raise TinylaneError(f"lanes {waiting} read each other: none can begin when others end")
        for m in ready:
            begin = max(ends[k] for k in [SHARED, *np.flatnonzero(sees[m])])
            ends[m] = begin + int(length[m + 1])
        waiting = [m for m in waiting if m not in ready]
    places = np.empty(len(lanes), dtype=np.int64)
    for m, end in ends.items():
        mine = np.flatnonzero(lanes == m)
        by_position = mine[np.argsort(sample.positions[mine], kind="stable")]
        places[by_position] = np.arange(end - len(mine), end)
    return places


@dataclass(frozen=True, eq=False)
class Case:
    """A small model (float32 weights) and rows for it."""

    config: ModelConfig
    seed: int  # of the weights
    sample: Sample
    choose: Chooser = field(repr=False)  # for what a law needs besides
    adapted: bool = False
    extra: tuple[str, ...] = ()  # of `tinylane.checkpoints.extras.KINDS`, trained at random

    def model(
        self, backend: str = "numpy", dtype: str = "float64", ops: str | None = None
    ) -> Model:
        """The model on that backend, in that dtype; the same numbers on each.

        ops: as of `tinylane.load`; by default half of the cases run the plain operations, half the
        backend's fast ones.
        """
        params: dict[str, Any] = random_weights(self.config, self.seed, self.adapted)
        params |= random_extras(self.config, self.extra, self.sample.mask.n, self.seed)
        if backend == "numpy":
            params = {name: w.astype(dtype) for name, w in params.items()}
        else:
            import mlx.core as mx

            params = {name: mx.array(w).astype(getattr(mx, dtype)) for name, w in params.items()}
        chosen = choose_ops(ops or ("plain", "fast")[self.seed % 2], backend, self.config)
        return Model(self.config, params, backend, dtype, ops=chosen, side=Side)


def random_weights(config: ModelConfig, seed: int, adapted: bool = False) -> dict[str, Any]:
    """NumPy float32 weights: large matrices, norms that are not 1 and biases that are not 0, so
    that every part of the model changes the logits.

    adapted: with biases and a low-rank update in the first query projection, as from an adapter.
    """
    params = random_params(config, seed, std=1.4 * config.width**-0.5)
    rng = np.random.default_rng(seed + 1)
    if adapted:
        name = "model.layers.0.self_attn.q_proj."
        out = config.heads * config.head_dim
        params[name + "bias"] = np.zeros(out, dtype=np.float32)
        params[name + "lora_a"] = rng.standard_normal((config.width, 2)).astype(np.float32) * 0.3
        params[name + "lora_b"] = rng.standard_normal((2, out)).astype(np.float32) * 0.3
    for name, w in params.items():
        if w.ndim == 1:
            w += (rng.standard_normal(w.shape) * (0.3 if "norm" in name else 0.7)).astype(w.dtype)
    return params


def random_extras(
    config: ModelConfig, kinds: Sequence[str], lanes: int, seed: int
) -> dict[str, np.ndarray]:
    """Parameters for so many lanes, NumPy float32, none of which is zero."""
    rng = np.random.default_rng(seed + 2)
    narrow = (3, config.head_dim, 2 * config.head_dim)[seed % 3]
    params = extras.start(config, kinds, lanes, narrow, seed)
    return {
        name: (w + rng.standard_normal(w.shape) * 0.7 * w.shape[0] ** -0.5).astype(np.float32)
        for name, w in params.items()
    }


def random_config(choose: Chooser, kinds: Sequence[str] = ()) -> ModelConfig:
    """A decoder of 1 or 2 layers, 16 wide, of any family, head layout and RoPE kind."""
    family = choose.pick(("llama", "mistral", "qwen2", "qwen3"))
    kind = choose.pick(kinds or ("default", "linear", "llama3", "yarn"))
    heads, kv_heads = choose.pick(((2, 2), (2, 1), (4, 2)))
    rope = RopeConfig(base=choose.pick((10000.0, 100.0)))
    if kind != "default":
        rope = replace(rope, kind=kind, factor=4.0, original_context=16)
    attention_bias = family in ("llama", "qwen3") and choose.pick((False, True))
    return ModelConfig(
        family=family,
        vocab=11,
        width=16,
        layers=choose.integer(1, 2),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=choose.pick((4, 8)),
        mlp_width=24,
        context=1 << 20,
        norm_eps=choose.pick((1e-6, 0.05)),
        rope=rope,
        tied=choose.pick((False, True)),
        qkv_bias=family == "qwen2" or attention_bias,
        out_bias=attention_bias,
        mlp_bias=family == "llama" and choose.pick((False, True)),
        qk_norm=family == "qwen3",
        eos_ids=(0, 1),
    )


def random_mask(choose: Chooser, n: int) -> LaneMask:
    """A named pattern or any matrix, lag 0 to 3."""
    kind = choose.pick(("joint", "matrix", "star", "neighbours", "independent"))
    lag = choose.integer(0, 3)
    if kind == "matrix":
        bits = choose.integer(0, 2 ** (n * n) - 1)
        return LaneMask(np.array([bits >> k & 1 for k in range(n * n)]).reshape(n, n), lag)
    return LaneMask.named(kind, n, lag)


def random_lane_rope(choose: Chooser, theta: np.ndarray, layers: int, n: int) -> LaneRoPE:
    """Every start of Omega (method, section 2.2), random ones, shared or per layer; both prompt
    lanes."""
    kind = choose.pick(("random", "none", "group_think", "ntk", "per layer"))
    prompt_lane = choose.pick(("own", 0))
    if kind == "none":
        return LaneRoPE.none(theta, prompt_lane)
    if kind == "group_think":
        return LaneRoPE.group_think(theta, choose.pick((1, 3.5, 64)), prompt_lane)
    if kind == "ntk":
        return LaneRoPE.ntk(theta, choose.pick((1, 3.5, 64)), n, prompt_lane)
    rng = np.random.default_rng(choose.integer(0, 999))
    shape = (layers, len(theta)) if kind == "per layer" else (len(theta),)
    return LaneRoPE(rng.uniform(-3, 3, shape), prompt_lane)


def random_text(choose: Chooser, vocab: int) -> np.ndarray:
    """(T, 3) rows of one text: lane 0, positions 0 .. T - 1, at least two."""
    length, rng = choose.integer(2, 8), np.random.default_rng(choose.integer(0, 999))
    return np.stack([rng.integers(vocab, size=length), np.arange(length), 0 * np.arange(length)], 1)


def random_rows(choose: Chooser, vocab: int, lanes: int | None = None) -> tuple[np.ndarray, int]:
    """(T, 3) tokens, positions, lanes in order of arrival, and N (`lanes`, or 1 to 4).

    Ragged lane prompts that end together, lanes that join late, lanes forked from an earlier one,
    lanes that stop early or never write, a late shared row; at position 0 or far out.
    """
    n, prompt = lanes or choose.integer(1, 4), choose.integer(0, 4)
    rng = np.random.default_rng(choose.integer(0, 999))
    origin = choose.pick((0, 0, 0, 1000))
    clock = prompt + 2
    written: list[list[tuple[int, int]]] = []  # per lane: (position, token)
    for m in range(n):
        kind = choose.pick(("ragged", "late", "fork") if m else ("ragged", "late"))
        start = clock + choose.integer(1, 3) if kind == "late" else clock - choose.integer(0, 2)
        length = choose.integer(0, 4)
        text = [(start + k, int(rng.integers(vocab))) for k in range(length)]
        if kind == "fork":
            source = written[choose.integer(0, m - 1)]
            kept = source[: choose.integer(0, len(source))]
            begin = kept[-1][0] + 1 if kept else clock
            text = kept + [(begin + k, token) for k, (_, token) in enumerate(text)]
        written.append(text)
    rows = [(int(rng.integers(vocab)), i, SHARED) for i in range(prompt)]
    rows += [(token, i, m) for m, text in enumerate(written) for i, token in text]
    if choose.pick((False, False, False, True)):
        rows.append((int(rng.integers(vocab)), clock + choose.integer(0, 3), SHARED))
    rows = rows or [(0, 0, SHARED)]
    rows.sort(key=lambda row: row[1])
    return np.array(rows, dtype=np.int64) + np.array([0, origin, 0]), n


def random_sample(
    choose: Chooser, vocab: int, theta: np.ndarray, layers: int, lanes: int | None = None
) -> Sample:
    """Rows, a mask and a rotation for a model of these sizes. lanes: how many (default 1 to 4);
    with 1 the rows are one text, as a decoder takes it that knows no lanes."""
    rows, n = (random_text(choose, vocab), 1) if lanes == 1 else random_rows(choose, vocab, lanes)
    mask = random_mask(choose, n)
    rope = random_lane_rope(choose, theta, layers, n)
    tokens, positions, of = (np.ascontiguousarray(x) for x in rows.T)
    return Sample(tokens, positions, of, mask, rope, vocab)


def random_segments(choose: Chooser, sample: Sample, rope: Rotation) -> Sample:
    """Up to five lanes of which each sees any of those before it, behind the sample's prompt."""
    rng, n = np.random.default_rng(choose.integer(0, 999)), choose.integer(2, 5)
    prompt = sample.prompt_first()
    shared = prompt.tokens[prompt.lanes == SHARED][-8:].tolist()
    texts = [rng.integers(sample.vocab, size=choose.integer(1, 3)).tolist() for _ in range(n)]
    bits = choose.integer(0, 2 ** (n * n) - 1)
    sees = np.tril(np.array([bits >> k & 1 for k in range(n * n)]).reshape(n, n), -1)
    return segments(shared, texts, sees, sample.vocab, rope, choose.integer(0, 1))


def random_case(choose: Chooser, kinds: Sequence[str] = (), lanes: int | None = None) -> Case:
    """A small model and a sample for it. kinds: the RoPE kinds to choose from (default all). lanes:
    as of `random_sample`."""
    config = random_config(choose, kinds)
    theta, _ = frequencies(config.rope, config.head_dim)
    sample = random_sample(choose, config.vocab, theta, config.layers, lanes)
    adapted = choose.pick((False, True))
    return Case(config, choose.integer(0, 999), sample, choose, adapted)


def example_case(seed: int = 0, kinds: Sequence[str] = (), lanes: int | None = None) -> Case:
    """The same case for the same seed, without Hypothesis. lanes: how many; 1 is one text (lane 0,
    positions from 0 on) for a decoder that knows no lanes. Raises TinylaneError for fewer."""
    if lanes is not None:
        whole("lanes", lanes, 1, MAX_LANES)
    return random_case(RandomChooser(np.random.default_rng(seed)), kinds, lanes)
