"""Laws 14 to 18 and 22 to 25 applied to a model; a `Chooser` picks the rest.

Laws 15 to 18 are asked with rows of their own: a fork-join with the sample's prompt, without an
Omega. As in `checks`, a law that says nothing about a sample reports that nothing was compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinylane.checkpoints.side import lace_layers
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.testing import segments as laws
from tinylane.testing.laws import (
    LawViolation,
    Logits,
    Report,
    assert_equal,
    nothing_to_compare,
    numbers,
    worst_of,
)
from tinylane.testing.merge import merged_in_every_layer
from tinylane.testing.samples import Chooser, Sample, fork_join, random_segments
from tinylane.testing.segments import Rollout
from tinylane.testing.subjects import Law, bound, plain

DRAWN = 4  # rows whose tokens the chain rule runs through
MOST_LANES = 6  # of a decoding's life
PROMPT = 8  # tokens of a sample's prompt that a fork-join begins with


def chain_rule(model: Any, sample: Sample, count: int, drawn: int, seed: int) -> Report:
    """`count` tokens in the last `drawn` rows to arrive: those of several lanes at a position."""
    tokens = np.random.default_rng(seed).permutation(sample.vocab)[:count]
    rows = np.flatnonzero(laws.predecessors(sample) >= 0)[-drawn:]
    return laws.assert_chain_rule(bound(model, sample), sample, rows, tokens)


def _chain_rule(model: Any, sample: Sample, choose: Chooser) -> Report:
    return chain_rule(model, sample, choose.integer(2, 3), DRAWN, choose.integer(0, 999))


def joined(
    model: Any, sample: Sample, paths: Sequence[int], summary: int, seed: int, lag: int = 0
) -> Sample:
    """A fork-join of paths and a summary of these lengths, which begins with the sample's prompt.
    There is no Omega; Hogwild!'s rotation stays."""
    rng, rope = np.random.default_rng(seed), LaneRoPE.none(model.theta)

    def text(count: int) -> list[int]:
        return list(map(int, rng.integers(sample.vocab, size=count)))

    prompt = sample.prompt_first()
    shared = prompt.tokens[prompt.lanes == SHARED][-PROMPT:].tolist()
    texts = [text(length) for length in paths]
    hogwild = isinstance(sample.rope, Hogwild)
    kind = sample.rope if hogwild else rope
    origin = 0 if hogwild else int(sample.positions.min())
    return fork_join(shared, texts, text(summary), sample.vocab, kind, lag, origin)


def random_fork_join(model: Any, sample: Sample, choose: Chooser, paths: int) -> Sample:
    """`joined` with so many paths of 1 to 4 tokens and a summary of 1 to 3."""
    lengths = [choose.integer(1, 4) for _ in range(paths)]
    summary, seed, lag = choose.integer(1, 3), choose.integer(0, 999), choose.integer(0, 1)
    return joined(model, sample, lengths, summary, seed, lag)


def cached(model: Any, sample: Sample) -> Logits:
    """`f(tokens, positions, lanes)` that feeds what arrives at one position in one pass, behind a
    cache of what came before. Rows must be in order of arrival."""

    def run(tokens: Any, positions: Any, lanes: Any, **settings: Any) -> np.ndarray:
        rope = settings.get("lane_rope", sample.rope)
        cache = model.new_cache(rope, settings.get("lane_mask", sample.mask))
        ends = [*np.flatnonzero(np.diff(positions)) + 1, len(positions)]
        pieces, begin = [], 0
        for end in ends:
            rows = slice(begin, end)
            pieces.append(numbers(model(tokens[rows], positions[rows], lanes[rows], cache=cache)))
            begin = end
        return np.concatenate(pieces)

    return run


def either(model: Any, sample: Sample, choose: Chooser) -> Logits:
    """One pass, or the same through a cache, position by position, for a `Model`."""
    if isinstance(model, Model) and choose.pick((False, True)):
        return cached(model, sample)
    return bound(model, sample)


def _permuted_paths(model: Any, sample: Sample, choose: Chooser) -> Report:
    paths = choose.integer(2, 4)
    rows = random_fork_join(model, sample, choose, paths)
    order = np.random.default_rng(choose.integer(0, 999)).permutation(paths)
    f = either(model, rows, choose)
    return laws.assert_permuted_paths(f, rows, [*order.tolist(), paths], dtype=model.dtype)


def _fork_join(model: Any, sample: Sample, choose: Chooser) -> Report:
    """Paths and a summary, or lanes of which each sees any of those before it."""
    if choose.pick((False, True)):
        rows = random_fork_join(model, sample, choose, choose.integer(1, 4))
    else:
        rows = random_segments(choose, sample, LaneRoPE.none(model.theta))
    f = either(model, rows, choose)
    return laws.assert_fork_join(f, plain(model), rows, dtype=model.dtype)


def _one_path(model: Any, sample: Sample, choose: Chooser) -> Report:
    one = random_fork_join(model, sample, choose, 1)
    f = either(model, one, choose)
    return laws.assert_one_path(f, plain(model), one, dtype=model.dtype)


def _reread(model: Any, sample: Sample, choose: Chooser) -> Report:
    paths = choose.integer(1, 3)
    rows = random_fork_join(model, sample, choose, paths)
    f = either(model, rows, choose)
    return laws.assert_reread(f, plain(model), rows, paths, dtype=model.dtype)


def seal(model: Model, sample: Sample, lanes: int, authors: Sequence[int], seed: int) -> Report:
    """Of a decoding with Hogwild!'s rotation in which authors (numbers among the live lanes) seal
    their lane, a step after the other. No cached number changes where a lane is sealed and its
    piece is put before the others. In a model of one layer, every lane's next logits (`peek`) are
    those of the unmodified model on its view."""
    lag = min(sample.mask.lag, 1)
    decoding = Decoding(
        model, prompt_of(sample), lanes, max_tokens=50, sampler=endless(model), seed=seed,
        lane_rope=Hogwild(), lane_mask=LaneMask.joint(lanes, lag),
    )  # fmt: skip
    sealed: list[int] = []
    reports = []
    with drawing("seal", sample):
        decoding.step()
    for author in authors:
        lane, before = decoding.live[author % lanes].index, held(decoding.cache)
        decoding.seal(lane)
        sealed.append(lane)
        decoding.arrange(sealed)
        same: dict[str, Any] = {"dtype": None, "detail": f"lane {lane} was sealed"}
        reports += [
            assert_equal("seal", now, then, sample, **same)
            for now, then in zip(held(decoding.cache), before, strict=True)
        ]
        with drawing("seal", sample):
            decoding.step()
    if model.config.layers == 1 and not lace_layers(model.params, model.config):
        rows = rows_of(decoding, LaneMask.joint(len(decoding.lanes), lag))
        live = [lane.index for lane in decoding.live]

        def next_logits(tokens: Any, positions: Any, lanes: Any) -> np.ndarray:
            logits = np.zeros((len(tokens), model.config.vocab))
            for m in live:
                logits[np.flatnonzero(lanes == m)[-1]] = decoding.peek(m)
            return logits

        views = [[*sealed, *live]] * len(decoding.lanes)
        how: dict[str, Any] = {"lanes": live, "dtype": model.dtype}
        reports.append(laws.assert_seal(next_logits, plain(model), rows, views, **how))
    return worst_of(reports)


def _seal(model: Any, sample: Sample, choose: Chooser) -> Report:
    lanes = choose.integer(1, 3)
    authors = [choose.integer(0, lanes - 1) for _ in range(choose.integer(1, 3))]
    return seal(model, sample, lanes, authors, choose.integer(0, 999))


@contextlib.contextmanager
def drawing(law: str, sample: Sample) -> Iterator[None]:
    """Logits from which no token can be drawn, as of damaged weights, violate the law."""
    try:
        yield
    except TinylaneError as error:
        raise LawViolation(Report(law, np.inf, 0.0, 1), sample, str(error)) from error


def prompt_of(sample: Sample) -> list[int]:
    """The first tokens of a sample's prompt, or one token where it has none."""
    return sample.tokens[sample.lanes == SHARED][:PROMPT].tolist() or [0]


def endless(model: Model) -> Sampler:
    """With it no lane ends by a token."""
    return Sampler(logit_bias=dict.fromkeys(model.end_ids, -np.inf))


def held(cache: Any) -> list[np.ndarray]:
    """What a cache holds: keys and values of every layer, (S, K * D)."""
    both = [x for layer in range(len(cache.keys)) for x in cache.rows(layer)]
    return [numbers(x).swapaxes(0, 1).reshape(x.shape[1], -1) for x in both]


def rows_of(decoding: Decoding, mask: LaneMask) -> Sample:
    """All rows of a decoding's lanes, those included that the next step will feed."""
    rows = [(token, i, SHARED) for i, token in enumerate(decoding.prompt)]
    for lane in decoding.lanes:
        begin = lane.start - len(lane.prompt)
        rows += [(token, begin + k, lane.index) for k, token in enumerate(lane.prompt)]
        places = zip(lane.tokens, lane.positions, strict=True)
        rows += [(token, i, lane.index) for token, i in places if token not in decoding.ends]
    rows.sort(key=lambda row: (row[1], row[2]))
    tokens, positions, lanes = np.array(rows, dtype=np.int64).T.copy()
    rope, vocab = decoding.cache.lane_rope, decoding.model.config.vocab
    return Sample(tokens, positions, lanes, mask, rope, vocab)


def transcript(decoding: Decoding) -> Rollout:
    """What a decoding fed and drew, for `assert_rollout`.

    No one pass gives what a lane had read that was forked while it read others, or others while a
    lane was dropped; what a dropped lane drew is left out.
    """
    cache, vocab = decoding.cache, decoding.model.config.vocab
    rows = Sample(cache.tokens, cache.positions, cache.lanes, decoding.mask, cache.lane_rope, vocab)
    drawn = []
    for lane in (x for x in decoding.lanes if x.dropped is None):
        text_of: list[int] = [lane.index]  # and whom it goes on, then the prompt
        while (before := decoding.lanes[text_of[-1]].follows) is not None:
            text_of.append(before)
        texts = zip(lane.tokens, lane.positions, lane.logprobs, strict=True)
        for token, position, logprob in texts:
            for m in (*text_of, SHARED):
                mine = np.flatnonzero((cache.lanes == m) & (cache.positions < position))
                if len(mine):
                    asked = mine[cache.positions[mine].argmax()]
                    drawn.append((asked, token, logprob))
                    break
    asked, tokens, logprobs = zip(*drawn, strict=True) if drawn else ((), (), ())
    return Rollout(rows, np.array(asked, int), np.array(tokens, int), np.array(logprobs))


def random_life(choose: Chooser, vocab: int) -> Callable[[Decoding], None]:
    """A schedule that lets something happen before a step: a lane joins at the end and reads some,
    is sealed, waits, goes on, begins or ends to read another, or is told what to write."""
    rng = np.random.default_rng(choose.integer(0, 999))
    ids = lambda: rng.integers(vocab, size=choose.integer(1, 2)).tolist()

    def schedule(decoding: Decoding) -> None:
        for last in decoding.lanes if not decoding.live else ():  # the rest waits for nobody
            decoding.finish(last.index)
        event = choose.pick(("read", "join", "seal", "pause", "resume", "read", "give", ""))
        count, live = len(decoding.lanes), decoding.live
        some = choose.integer(0, max(len(live) - 1, 0))
        if event == "join" and count < MOST_LANES:
            sees = [m for m in range(count) if choose.pick((True, False))]
            decoding.join(ids(), sees=sees, max_tokens=4)
        elif event == "resume" and len(live) < count:
            waiting = [x.index for x in decoding.lanes if x.finish_reason is None and x not in live]
            for lane in waiting:
                decoding.resume(lane)
        elif event == "seal" and live and live[some].tokens and count < MOST_LANES:
            decoding.seal(live[some].index)
        elif event == "pause" and len(live) > 1:
            decoding.pause(live[some].index)
        elif event == "give" and live:
            decoding.give(live[some].index, ids())
        elif event == "read" and live and count > 1:
            of, yes = choose.integer(0, count - 1), choose.pick((True, False))
            with contextlib.suppress(TinylaneError):  # a pair begins once
                decoding.read(live[some].index, of, yes)

    return schedule


def rollout(decoding: Decoding, sample: Sample) -> Report:
    """A decoding with the sample's rotation to its end, and one pass over what it fed.

    Lanes of which none reads another are decoded without an Omega (law 7): the pass has it.
    """
    with drawing("rollout", sample):
        for _ in decoding:
            pass
    done, model = transcript(decoding), decoding.model
    f = bound(model, sample.with_mask(done.sample.mask))
    return laws.assert_rollout(f, done, dtype=model.dtype)


def _rollout(model: Model, sample: Sample, choose: Chooser) -> Report:
    """In half of the cases with a random life, in which no lane ends by a token."""
    rng = np.random.default_rng(choose.integer(0, 999))
    n, count = sample.mask.n, choose.integer(1, 5)
    lane_prompts = [
        rng.integers(sample.vocab, size=choose.integer(0, 2)).tolist() for _ in range(n)
    ]
    life, sampler = None, Sampler(temperature=choose.pick((1.0, 0.7)))
    if choose.pick((False, True)):
        life, sampler, count = random_life(choose, sample.vocab), endless(model), count + 3
    decoding = Decoding(
        model, prompt_of(sample), n, max_tokens=count, lane_prompts=lane_prompts,
        lane_rope=sample.rope, lane_mask=sample.mask, seed=choose.integer(0, 999), schedule=life,
        sampler=sampler,
    )  # fmt: skip
    return rollout(decoding, sample)


def moved_cache(model: Model, sample: Sample, lane: int, cut: int, shift: int) -> Report:
    """The rows of the prompt and of one lane as one text, of which the first `cut` (modulo their
    number) are moved: by a fork, into a lane that Group Think puts `shift` positions further on."""
    sample = sample.prompt_first()
    text = sample.select((sample.lanes == SHARED) | (sample.lanes == lane))
    text = replace(text, lanes=np.zeros_like(text.lanes), mask=LaneMask.independent(1))
    text = text.with_rope(LaneRoPE.none(model.theta))
    if len(text.tokens) < 2:
        return nothing_to_compare("moved cache")

    def moved(rows: laws.Rows, shift: int, further: laws.Rows) -> Any:
        rope = LaneRoPE.group_think(model.theta, shift, prompt_lane=0)
        cache = model.new_cache(rope, LaneMask.independent(2))
        model(*rows, np.zeros_like(rows[0]), cache=cache)
        cache.fork(0, 1)
        cache.drop(0)
        tokens, positions = further
        return model(tokens, positions - shift, np.ones_like(tokens), cache=cache)

    cut = 1 + cut % (len(text.tokens) - 1)
    return laws.assert_moved_cache(moved, plain(model), text, cut, shift, dtype=model.dtype)


def _moved_cache(model: Model, sample: Sample, choose: Chooser) -> Report:
    lane = choose.integer(0, sample.mask.n - 1)
    return moved_cache(model, sample, lane, choose.integer(0, 9), choose.pick((1, 7, 100, 5000)))


SEGMENT_LAWS = (
    Law(14, "chain rule", "the probabilities of all continuations add up to 1", _chain_rule),
    Law(15, "permuted paths", "paths in another order change nothing", _permuted_paths),
    Law(16, "fork join", "fork and join are one flat pass", _fork_join),
    Law(17, "one path", "one path is no path", _one_path),
    Law(18, "reread", "rereading is the plain model; of one path it is reuse", _reread),
    Law(22, "seal", "a sealed piece stands where every view says", _seal),
    Law(23, "blocks merge", "blocks of keys merge by log-sum-exp", merged_in_every_layer),
    Law(24, "rollout", "a decoding's log-probabilities are those of one pass", _rollout),
    Law(25, "moved cache", "a moved cache is that of moved rows", _moved_cache),
)
