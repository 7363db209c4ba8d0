"""What a saved run shows when it is replayed: who listened to whom, and what silence would change.

One pass over the run's rows (`tinylane.view.replay.passes`) gives the attention of every drawn
token: that of the row whose logits it was drawn from, which is the row just before it. To ask what
silence would change costs one more pass for each lane: the same texts, had nobody read that lane.

What is kept of the attention, for every drawn token and every `View` (the mean of all layers and
heads, the mean of a layer, a head): the share that went to the prompt and to each lane, and the
largest keys with their weights. The other keys' weights are left out; the shares contain them.

    Q drawn tokens   R rows of the run   N lanes   P tokens of the prompt   K keys kept
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.result import Lane
from tinylane.core.sampling import uniform
from tinylane.methods.life import own_text
from tinylane.view.attention import listening
from tinylane.view.replay import ReplayRows, log_softmax, passes, rows_of

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

PASS = 1 << 24  # elements of one layer's scores, or of the logits, in a pass: 64 MiB, a few times
KEPT = 1 << 30  # bytes of all views; if more are needed, only the layers' means are recorded
LOGITS = 1 << 27  # elements of logits kept for comparison; if more are needed, they are recomputed

Tell = Callable[[str], None]


@dataclass(frozen=True)
class View:
    """One way to look at attention. layer and head None: the mean of all; head None: of a layer.

    shares: (Q, N + 1) float32, to the prompt and to each lane; a row sums to 1. keys: (Q, K) int32
    rows of the run, the largest first, -1 where there are no more. weights: (Q, K) float32, theirs.
    """

    layer: int | None
    head: int | None
    shares: np.ndarray
    keys: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Silence:
    """What every drawn token's distribution would have been, had nobody ever read `lane` (None:
    what it was).

    The texts are those that were written; each next token is computed again. likeliest: (Q,) the
    top token. drawn: (Q,) what the same random number would have drawn. logprobs: (Q,) float64, of
    the token that was written. kl: (Q,) KL(as it was || without the lane), nats.
    """

    lane: int | None
    likeliest: np.ndarray
    drawn: np.ndarray
    logprobs: np.ndarray
    kl: np.ndarray


@dataclass(frozen=True)
class Record:
    """A replayed run. Rows are numbered: the prompt's, then each lane's prompt and tokens.

    of: (Q,) the lane of each drawn token; row: (Q,) its own row; asked: (Q,) the row whose
    attention chose it; source: (Q,) the lane that drew it, another one where a fork copied it.
    logprobs: (Q,) float64, recomputed; difference: the largest distance from the saved ones.
    likeliest: (Q,) the top token; redrawn: (Q,) what its random number draws in the replay. heard:
    (layers, H, N, N + 1), the mean shares of each lane's tokens. views: the mean first, then as
    many layers and heads as were recorded. silences: one a lane.
    """

    run: Run
    of: np.ndarray
    row: np.ndarray
    asked: np.ndarray
    source: np.ndarray
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
    def copied(self) -> np.ndarray:
        """(Q,) whether a fork copied the token."""
        return self.source != self.of

    @property
    def steps(self) -> np.ndarray:
        """(Q,) the step, from 0, at which each token was drawn."""
        return np.concatenate([np.array(lane.steps, dtype=np.int64) for lane in self.lanes])

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
        silent lane itself, and for a lane that drew nothing. Of a record with silences."""
        others = np.stack([silence.drawn != self.tokens for silence in self.silences], axis=1)
        shares = self._by_lane(others)
        for k, silence in enumerate(self.silences):
            shares[silence.lane, k] = np.nan
        return shares

    def to_others(self, view: int = 0) -> np.ndarray:
        """(Q,) the share of each token's attention that went to lanes other than its writer."""
        shares = self.views[view].shares.astype(np.float64)
        to_self = np.take_along_axis(shares, self.source[:, None] + 1, axis=1)[:, 0]
        return np.clip(shares[:, 1:].sum(axis=1) - to_self, 0.0, 1.0)

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
    note: Tell = lambda text: None,
    progress: Tell = lambda text: None,
) -> Record:
    """Replay a run and keep what it shows.

    keys: how many of each token, in the mean of all; a layer's mean and a head keep a quarter of
    them, at least two. influence: also silence each lane in turn. note: is told what does not fit
    into memory; progress: how far the passes are. Raises TinylaneError for a run of another model,
    for one that replay refuses (`rows_of`), for one without tokens, and for one too long to keep.
    """
    if not 1 <= keys <= 1024:
        raise TinylaneError(f"--keys is {keys}; expected 1 to 1024")
    rows, lanes = rows_of(run, model), run.result.lanes
    if not len(rows.of):
        raise TinylaneError("the run has no tokens: there is nothing to view")
    attention = _Attention(model, rows, rows.source != rows.of, keys, note)
    Q, base = len(rows.of), []
    usual = Silence(None, *np.zeros((2, Q), np.int64), *np.zeros((2, Q)))
    keep = influence and Q * model.config.vocab <= LOGITS
    twin = listening(model, attention.hear)
    for part, drawn, logits in passes(twin, rows, PASS, before=attention.begin):
        attention.finish()
        _take(usual, rows, drawn, logits)
        if keep:
            base.append(logits)
        progress(f"attention: {part.stop:,} of {len(rows.tokens):,} rows")
    silences = []
    for lane in range(len(lanes) if influence else 0):
        progress(f"silence: {lane} of {len(lanes)} lanes")
        silences.append(_silence(model, rows, lane, base, usual))
    return Record(
        run,
        rows.of,
        rows.row,
        rows.number[rows.asked],
        rows.source,
        usual.logprobs,
        float(np.abs(usual.logprobs - rows.saved).max()),
        usual.likeliest,
        usual.drawn,
        attention.means(),
        list(attention.views.values()),
        silences,
    )


class _Attention:
    """What every drawn token listened to."""

    def __init__(
        self, model: Model, rows: ReplayRows, copied: np.ndarray, keys: int, note: Tell
    ) -> None:
        self.rows, self.copied = rows, copied
        self.layers, self.heads = model.config.layers, model.config.heads
        N = len(rows.run.result.lanes)
        self.slot = np.eye(N + 1, dtype=np.float32)[rows.lanes + 1]  # the share a row counts to
        self._sums = np.zeros((self.layers, self.heads, N, N + 1))
        self.views = self._empty_views(keys, note)

    def _empty_views(self, keys: int, note: Tell) -> dict[tuple[int | None, int | None], View]:
        """As many views as fit into KEPT bytes."""
        Q, slots = len(self.rows.of), self.slot.shape[1]
        few = max(2, keys // 4)
        per = Q * (4 * slots + 8 * few)
        self.with_heads = per * self.layers * (self.heads + 1) <= KEPT
        self.with_layers = per * self.layers <= KEPT
        if Q * (4 * slots + 8 * keys) > KEPT:
            raise TinylaneError(
                f"{Q:,} tokens with {keys} keys of each do not fit into {KEPT >> 30} GiB; "
                "give fewer --keys, or view a shorter run"
            )
        if not self.with_heads:
            kept = "the layers' means" if self.with_layers else "the mean of all"
            note(f"{Q:,} tokens of {self.layers} layers with {self.heads} heads: only {kept} kept")
        names: list[tuple[int | None, int | None]] = [(None, None)]
        for layer in range(self.layers):
            names += [(layer, None)] * self.with_layers
            names += [(layer, head) for head in range(self.heads)] * self.with_heads
        views = {}
        for name in names:
            k = keys if name == (None, None) else few
            shares, weights = (np.zeros((Q, width), np.float32) for width in (slots, k))
            views[name] = View(*name, shares, np.full((Q, k), -1, np.int32), weights)
        return views

    def begin(self, part: slice, drawn: np.ndarray) -> None:
        """A pass over the rows `part` begins; drawn: as `passes` says."""
        self.tokens, self.asked = drawn, self.rows.asked[drawn] - part.start
        self.stop = part.stop
        self.mean = np.zeros((len(drawn), part.stop), np.float32)

    def hear(self, layer: int, first: int, weights: np.ndarray) -> None:
        """What `listening` tells of a block of this pass's rows."""
        inside = (self.asked >= first) & (self.asked < first + weights.shape[1])
        if not inside.any():
            return
        tokens = self.tokens[inside]
        some = weights[:, self.asked[inside] - first].astype(np.float32, copy=False)
        shares = some @ self.slot[: self.stop]  # (H, tokens, N + 1)
        drawn_here = ~self.copied[tokens]
        sums = self._sums[layer].swapaxes(0, 1)  # (N, H, N + 1)
        np.add.at(sums, self.rows.of[tokens[drawn_here]], shares[:, drawn_here].swapaxes(0, 1))
        layer_mean = some.mean(axis=0)
        self.mean[inside] += layer_mean / self.layers
        if self.with_layers:
            self._keep(self.views[layer, None], tokens, shares.mean(axis=0), layer_mean)
        for head in range(self.heads if self.with_heads else 0):
            self._keep(self.views[layer, head], tokens, shares[head], some[head])

    def finish(self) -> None:
        """The pass is over: the mean of all layers and heads is known."""
        if len(self.tokens):
            shares = self.mean @ self.slot[: self.stop]
            self._keep(self.views[None, None], self.tokens, shares, self.mean)

    def _keep(
        self, view: View, tokens: np.ndarray, shares: np.ndarray, weights: np.ndarray
    ) -> None:
        view.shares[tokens] = shares
        k = min(view.keys.shape[1], weights.shape[1])
        top = np.argpartition(weights, -k, axis=1)[:, -k:]
        largest = np.take_along_axis(weights, top, axis=1)
        numbers = self.rows.number[top]
        order = np.lexsort((numbers, -largest), axis=1)
        numbers, largest = (np.take_along_axis(x, order, axis=1) for x in (numbers, largest))
        view.keys[tokens, :k] = np.where(largest > 0, numbers, -1)
        view.weights[tokens, :k] = largest

    def means(self) -> np.ndarray:
        """(layers, H, N, N + 1) mean shares; 0 for a lane that wrote nothing itself."""
        written = np.bincount(self.rows.of[~self.copied], minlength=self._sums.shape[2])
        return self._sums / np.maximum(written, 1)[:, None]


def _silence(
    model: Model, rows: ReplayRows, lane: int, base: list[np.ndarray], usual: Silence
) -> Silence:
    """One lane silenced. base: the logits as they were; empty: they are computed again."""
    silence = Silence(lane, *map(np.copy, (usual.likeliest, usual.drawn, usual.logprobs, usual.kl)))
    reach = rows.reached(lane)
    if reach.sum() < 2:
        return silence  # nobody else can have heard of the lane (law 5)
    again = passes(model, rows, PASS, mask=rows.silenced(lane))
    kept = base or (logits for _, _, logits in passes(model, rows, PASS))
    for (_, drawn, logits), as_it_was in zip(again, kept, strict=True):
        # What silence cannot reach it cannot change; there the passes differ by rounding only.
        few = reach[rows.of[drawn]]
        _take(silence, rows, drawn[few], logits[few], as_it_was[few])
    return silence


def _take(
    silence: Silence,
    rows: ReplayRows,
    q: np.ndarray,
    logits: np.ndarray,
    base: np.ndarray | None = None,
) -> None:
    """Fill in what logits (tokens, V) say about the tokens q that were drawn from them.

    base: the logits as they were, to compare with.
    """
    if not len(q):
        return
    wide = log_softmax(logits)
    silence.logprobs[q] = wide[np.arange(len(q)), rows.written[q]]
    silence.likeliest[q], silence.drawn[q] = logits.argmax(axis=-1), _draw(rows, q, logits)
    if base is not None:
        as_it_was = log_softmax(base)
        kl = (np.exp(as_it_was) * (as_it_was - wide)).sum(axis=-1)
        silence.kl[q] = np.maximum(kl, 0.0)


def _draw(rows: ReplayRows, q: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """With the run's sampler and the random number that each token was drawn with; a token that was
    given stays what it is."""
    sampler, result = rows.run.sampler, rows.run.result
    places = list(zip(rows.of[q].tolist(), rows.index[q].tolist(), strict=True))
    drawers = zip(rows.source[q].tolist(), places, strict=True)
    numbers = [uniform(rows.run.seed, m, k) for m, (_, k) in drawers]
    history: list[list[int]] = [[] for _ in places]
    if sampler.repetition_penalty != 1:
        written = [own_text(result.lanes, lane) for lane in result.lanes]
        later = [len(result.lanes[m].tokens) - k for m, k in places]
        texts = zip(places, later, strict=True)
        history = [result.prompt + written[m][: len(written[m]) - n] for (m, _), n in texts]
    drawn = np.asarray(sampler.draw(logits, np.array(numbers), history)[0])
    return np.where(rows.given[q], rows.written[q], drawn)
