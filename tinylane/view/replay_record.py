"""What a saved run shows when it is replayed: who listened to whom, and what silence would change.

One pass over the run's rows (`tinylane.view.replay.passes`) gives the attention of every drawn
token: that of the row whose logits it was drawn from, which is the row just before it. To ask what
silence would change costs one more pass for each lane: the same texts, had nobody read that lane.

Kept of the attention, for every drawn token and every `View` (the mean of all layers and heads,
the mean of a layer, a head): the share that went to the prompt and to each lane, and its largest
keys with their weights. The weights of the other keys are left out; their sum is in the shares.

    Q drawn tokens   R rows of the run   N lanes   P tokens of the prompt   K keys kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.decoding import Lane
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.core.sampling import uniform
from tinylane.view.attention import listening
from tinylane.view.replay import ReplayRows, passes, rows_of

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

# Elements of one layer's scores, or of the logits, in a pass: 64 MiB, of which there are a few.
PASS = 1 << 24
KEPT = 1 << 30  # bytes that all views may take; with more, only the layers' means are recorded
LOGITS = 1 << 27  # elements of logits that are kept to be compared; with more, they are recomputed


@dataclass(frozen=True)
class View:
    """One way to look at attention. layer and head None: the mean of all; head None: of a layer.

    shares: (Q, N + 1) float32, to the prompt and to each lane, 1 in all. keys: (Q, K) int32 rows
    of the run, the largest first, -1 where there are no more. weights: (Q, K) float32, theirs.
    """

    layer: int | None
    head: int | None
    shares: np.ndarray
    keys: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Silence:
    """What every drawn token's distribution would have been, had nobody ever read `lane`.

    The texts are those that were written; each next token is asked anew. likeliest: (Q,) the top
    token. drawn: (Q,) what the same random number would have drawn. logprobs: (Q,) of the token
    that was written. kl: (Q,) KL(as it was || without the lane), nats.
    """

    lane: int
    likeliest: np.ndarray
    drawn: np.ndarray
    logprobs: np.ndarray
    kl: np.ndarray


@dataclass(frozen=True)
class Record:
    """A replayed run. Rows are numbered: the prompt's, then each lane's prompt and tokens.

    begins: (N + 1,) the first row of every lane, and the number of rows. of: (Q,) the lane of each
    drawn token; row: (Q,) its own row; asked: (Q,) the row whose attention chose it; copied: (Q,)
    whether a fork brought it along. logprobs: (Q,) float64, recomputed; difference: the largest
    distance from the saved ones. likeliest: (Q,) the top token; redrawn: (Q,) what its random
    number draws in the replay. heard: (layers, H, N, N + 1), the mean shares of each lane's tokens.
    views: the mean first, then as many layers and heads as were recorded. silences: one a lane.
    """

    run: Run
    begins: np.ndarray
    of: np.ndarray
    row: np.ndarray
    asked: np.ndarray
    copied: np.ndarray
    logprobs: np.ndarray
    difference: float
    likeliest: np.ndarray
    redrawn: np.ndarray
    heard: np.ndarray
    views: list[View]
    silences: list[Silence]

    @property
    def lanes(self) -> list[Lane]:
        """The run's lanes."""
        return self.run.result.lanes

    @property
    def n(self) -> int:
        """How many lanes took part."""
        return len(self.lanes)

    @property
    def tokens(self) -> np.ndarray:
        """(Q,) what was written."""
        return np.concatenate([np.array(lane.tokens, dtype=np.int64) for lane in self.lanes])

    def lane_shares(self) -> np.ndarray:
        """(N, N + 1): the mean share of each lane's attention to the prompt and to every lane;
        NaN for a lane that drew nothing."""
        return self._by_lane(self.views[0].shares)

    def changed(self) -> np.ndarray:
        """(N, silences): the share of each lane's tokens that would have been others; NaN for the
        silent lane itself, and for a lane that drew nothing."""
        if not self.silences:
            return np.zeros((self.n, 0))
        others = np.stack([silence.drawn != self.tokens for silence in self.silences], axis=1)
        shares = self._by_lane(others)
        for k, silence in enumerate(self.silences):
            shares[silence.lane, k] = np.nan
        return shares

    def to_others(self, view: int = 0) -> np.ndarray:
        """(Q,) the share of each token's attention that went to other lanes."""
        shares = self.views[view].shares.astype(np.float64)
        own = np.take_along_axis(shares, self.of[:, None] + 1, axis=1)[:, 0]
        return np.clip(shares[:, 1:].sum(axis=1) - own, 0.0, 1.0)

    def _by_lane(self, values: np.ndarray) -> np.ndarray:
        """(Q, K) -> (N, K): means over the tokens that each lane drew itself."""
        means = np.full((self.n, values.shape[1]), np.nan)
        for m in range(self.n):
            mine = ~self.copied & (self.of == m)
            if mine.any():
                means[m] = values[mine].astype(np.float64).mean(axis=0)
        return means


def record(
    run: Run,
    model: Model,
    keys: int = 8,
    influence: bool = False,
    note: Callable[[str], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Record:
    """Replay a run and keep what it shows. keys: how many of each token, in the mean of all; a
    layer's mean and a head keep a quarter of them, at least two. influence: also silence each lane
    in turn. note: is told what is left out for want of memory; progress: how far the passes are.

    Raises TinylaneError for a run of another model, for one that replay refuses (`rows_of`), for
    one without tokens, and for one too long to be kept.
    """
    if not 1 <= keys <= 1024:
        raise TinylaneError(f"--keys is {keys}; expected 1 to 1024")
    rows, lanes = rows_of(run, model), run.result.lanes
    counts = [len(lane.tokens) for lane in lanes]
    if not sum(counts):
        raise TinylaneError("the run has no tokens: there is nothing to view")
    tell = progress or (lambda text: None)
    book = _Book(run, model, rows, keys, note or (lambda text: None))
    base: list[np.ndarray] | None = None
    if influence and sum(counts) * model.config.vocab <= LOGITS:
        base = []
    asker = _Asker(run)
    twin = listening(model, book.hear)
    for part, asked, logits in passes(
        run, twin, rows, before=book.begin, limit=_limit(model, len(rows.tokens))
    ):
        book.finish()
        asker.ask(asked, logits)
        if base is not None:
            base.append(logits)
        tell(f"attention: {part.stop:,} of {len(rows.tokens):,} rows")
    saved = np.concatenate([np.asarray(lane.logprobs, dtype=np.float64) for lane in lanes])
    silences = []
    for lane in range(len(lanes) if influence else 0):
        tell(f"silence: {lane} of {len(lanes)} lanes")
        silences.append(_silence(run, model, rows, lane, base, asker))
    return Record(
        run,
        book.begins,
        book.of,
        book.row,
        book.asked,
        book.copied,
        asker.logprobs,
        float(np.abs(asker.logprobs - saved).max()),
        asker.likeliest,
        asker.drawn,
        book.heard(),
        book.views(),
        silences,
    )


class _Book:
    """Where every row and token of the run has its number, and what was heard of them."""

    def __init__(
        self, run: Run, model: Model, rows: ReplayRows, keys: int, tell: Callable[[str], None]
    ) -> None:
        lanes, P, c = run.result.lanes, len(run.result.prompt), model.config
        N, Q = len(lanes), sum(len(lane.tokens) for lane in lanes)
        sizes = [len(lane.prompt) + len(lane.tokens) for lane in lanes]
        self.begins = np.cumsum([P, *sizes])
        self.of = np.repeat(np.arange(N), [len(lane.tokens) for lane in lanes])
        first = {lane.index: int(self.begins[lane.index]) + len(lane.prompt) for lane in lanes}
        self.row = np.concatenate([first[x.index] + np.arange(len(x.tokens)) for x in lanes])
        self.copied = np.concatenate([_copied(lane) for lane in lanes])
        self.number = dict(zip(_tokens(lanes), range(Q), strict=True))  # (lane, index) -> q
        # Rows of the passes, in their order: which row of the run, and which share they count to.
        zero = np.array([x.start - len(x.prompt) for x in lanes])
        m = np.maximum(rows.lanes, 0)
        of_lane = self.begins[m] + rows.positions - zero[m]
        self.place = np.where(rows.lanes == SHARED, rows.positions, of_lane)
        self.slot = np.eye(N + 1, dtype=np.float32)[rows.lanes + 1]
        self.rows, self.count = rows, (c.layers, c.heads)
        self.asked = np.zeros(Q, np.int64)
        few = max(2, keys // 4)
        per = Q * (4 * (N + 1) + 8 * few)
        self.with_heads = per * c.layers * (c.heads + 1) <= KEPT
        self.with_layers = per * c.layers <= KEPT
        if Q * (4 * (N + 1) + 8 * keys) > KEPT:
            raise TinylaneError(
                f"{Q:,} tokens with {keys} keys of each do not fit into {KEPT >> 30} GiB; "
                "give fewer --keys, or view a shorter run"
            )
        if not self.with_heads:
            kept = "the layers' means" if self.with_layers else "the mean of all"
            tell(f"{Q:,} tokens of {c.layers} layers with {c.heads} heads: only {kept} recorded")
        names: list[tuple[int | None, int | None]] = [(None, None)]
        for layer in range(c.layers):
            names += [(layer, None)] * self.with_layers
            names += [(layer, head) for head in range(c.heads)] * self.with_heads
        self._views = {
            name: View(
                *name,
                np.zeros((Q, N + 1), np.float32),
                np.full((Q, few if k else keys), -1, np.int32),
                np.zeros((Q, few if k else keys), np.float32),
            )
            for k, name in enumerate(names)
        }
        self._heard = np.zeros((c.layers, c.heads, N, N + 1))

    def begin(self, part: slice, wanted: list[int]) -> None:
        """A pass over the rows `part` begins; `wanted` are those, of the pass, that are asked."""
        at = [
            (k, self.number[token])
            for k in wanted
            for token in self.rows.asked[
                int(self.rows.positions[part.start + k]), int(self.rows.lanes[part.start + k])
            ]
        ]
        self.ask = np.array(at, dtype=np.int64).reshape(-1, 2)  # row of the pass, token
        self.asked[self.ask[:, 1]] = self.place[part][self.ask[:, 0]]
        self.stop = part.stop
        self.mean = np.zeros((len(at), part.stop), np.float32)

    def hear(self, layer: int, first: int, weights: np.ndarray) -> None:
        """What `listening` tells of a block of this pass's rows."""
        inside = (self.ask[:, 0] >= first) & (self.ask[:, 0] < first + weights.shape[1])
        if not inside.any():
            return
        rows, tokens = self.ask[inside].T
        some = weights[:, rows - first].astype(np.float32, copy=False)  # (H, asked, S)
        shares = some @ self.slot[: self.stop]
        written = ~self.copied[tokens]
        np.add.at(
            self._heard[layer].transpose(1, 0, 2), self.of[tokens[written]],
            shares[:, written].transpose(1, 0, 2),
        )  # fmt: skip
        layer_mean = some.mean(axis=0)
        self.mean[inside] += layer_mean / self.count[0]
        if self.with_layers:
            self._keep(self._views[layer, None], tokens, shares.mean(axis=0), layer_mean)
        if self.with_heads:
            for head in range(self.count[1]):
                self._keep(self._views[layer, head], tokens, shares[head], some[head])

    def finish(self) -> None:
        """The pass is over: the mean of all layers and heads is known."""
        tokens = self.ask[:, 1]
        if len(tokens):
            shares = self.mean @ self.slot[: self.stop]
            self._keep(self._views[None, None], tokens, shares, self.mean)

    def _keep(
        self, view: View, tokens: np.ndarray, shares: np.ndarray, weights: np.ndarray
    ) -> None:
        view.shares[tokens] = shares
        k = min(view.keys.shape[1], weights.shape[1])
        top = np.argpartition(weights, -k, axis=1)[:, -k:]
        found = np.take_along_axis(weights, top, axis=1)
        order = np.lexsort((self.place[top], -found), axis=1)
        top, found = (np.take_along_axis(x, order, axis=1) for x in (top, found))
        view.keys[tokens, :k] = np.where(found > 0, self.place[top], -1)
        view.weights[tokens, :k] = found

    def heard(self) -> np.ndarray:
        """(layers, H, N, N + 1) means; 0 for a lane that wrote nothing itself."""
        written = np.bincount(self.of[~self.copied], minlength=self._heard.shape[2])
        return self._heard / np.maximum(written, 1)[:, None]

    def views(self) -> list[View]:
        """All that were recorded, the mean of all first."""
        return list(self._views.values())


class _Asker:
    """What logits say about the tokens that were drawn from them, in the order of Q."""

    def __init__(self, run: Run) -> None:
        lanes = run.result.lanes
        self.run, self.lanes = run, lanes
        self.number = {token: q for q, token in enumerate(_tokens(lanes))}
        Q = len(self.number)
        self.likeliest, self.drawn = np.zeros(Q, np.int64), np.zeros(Q, np.int64)
        self.logprobs, self.kl = np.zeros(Q), np.zeros(Q)

    def ask(
        self,
        asked: list[list[tuple[int, int]]],
        logits: np.ndarray,
        base: np.ndarray | None = None,
    ) -> None:
        """logits (rows, V), and the (lane, index) of the tokens drawn from each row. base: what to
        compare them with."""
        if not asked:
            return
        wide = _log_softmax(logits)
        top = logits.argmax(axis=-1)
        kl = np.zeros(len(asked))
        if base is not None:
            as_it_was = _log_softmax(base)
            kl = (np.exp(as_it_was) * (as_it_was - wide)).sum(axis=-1)
        tokens = [(k, lane, index) for k, drawn in enumerate(asked) for lane, index in drawn]
        drawn = self._draw(logits, tokens)
        for token, (k, lane, index) in zip(drawn, tokens, strict=True):
            q = self.number[lane, index]
            self.logprobs[q] = wide[k, self.lanes[lane].tokens[index]]
            self.likeliest[q], self.drawn[q], self.kl[q] = top[k], token, max(kl[k], 0.0)

    def _draw(self, logits: np.ndarray, tokens: list[tuple[int, int, int]]) -> np.ndarray:
        """With the run's sampler and the random number that each token was drawn with."""
        sampler, prompt = self.run.sampler, self.run.result.prompt
        sources = [self._source(lane, index) for _, lane, index in tokens]
        numbers = np.array(
            [uniform(self.run.seed, m, k) for m, (_, _, k) in zip(sources, tokens, strict=True)]
        )
        history: list[list[int]] = [[] for _ in tokens]
        if sampler.repetition_penalty != 1:
            history = [prompt + self.lanes[m].prompt + self.lanes[m].tokens[:k]
                       for _, m, k in tokens]  # fmt: skip
        rows = logits[[k for k, _, _ in tokens]]
        return np.asarray(sampler.draw(rows, numbers, history)[0])

    def _source(self, lane: int, index: int) -> int:
        """The lane whose random number drew a token: a fork's first ones are its source's."""
        while True:
            forked = self.lanes[lane].forked
            if forked is None or self.lanes[lane].start + index >= forked[1]:
                return lane
            lane = forked[0]


def _silence(
    run: Run, model: Model, rows: ReplayRows, lane: int, base: list[np.ndarray] | None, kept: _Asker
) -> Silence:
    """One lane silenced; `base` are the logits as they were, or None to compute them again."""
    asker = _Asker(run)
    reach = run.lane_mask.reaches()[: len(run.result.lanes), lane]
    if reach.sum() <= 1:  # law 5: nobody else can have heard of it
        return Silence(lane, kept.likeliest, kept.drawn, kept.logprobs, asker.kl)
    limit = _limit(model, len(rows.tokens))
    again = passes(run, model, rows, mask=rows.silenced(lane), limit=limit)
    usual = (logits for _, _, logits in passes(run, model, rows, limit=limit))
    for (_, asked, logits), as_it_was in zip(again, usual if base is None else base, strict=True):
        asker.ask(asked, logits, as_it_was)
    # Whom it cannot reach it cannot have changed; what the passes differ by there is rounding.
    for m in np.flatnonzero(~reach):
        mine = np.array([q for (of, _), q in asker.number.items() if of == m], dtype=np.int64)
        for name in ("likeliest", "drawn", "logprobs"):
            getattr(asker, name)[mine] = getattr(kept, name)[mine]
        asker.kl[mine] = 0.0
    return Silence(lane, asker.likeliest, asker.drawn, asker.logprobs, asker.kl)


def _limit(model: Model, count: int) -> int:
    """Rows of a pass over a run of `count` rows."""
    return max(1, PASS // max(model.config.vocab, model.config.heads * count))


def _tokens(lanes: list[Lane]) -> list[tuple[int, int]]:
    return [(lane.index, k) for lane in lanes for k in range(len(lane.tokens))]


def _copied(lane: Lane) -> np.ndarray:
    positions = lane.start + np.arange(len(lane.tokens))
    return positions < (-1 if lane.forked is None else lane.forked[1])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
