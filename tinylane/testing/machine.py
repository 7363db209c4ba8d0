"""State machines: after any operations, a cache or a decoding equals one pass over all rows.

Hypothesis picks the operations, their order and their arguments. `CacheMachine` feeds rows in any
chunks, forks, drops, trims, copies, saves and loads a cache. `DecoderMachine` steps a `Decoding`
whose lanes join, fork, finish and are dropped, and whose cache is saved and loaded in between.
Both keep their own list of rows. After each feed or step the model is run on that list without a
cache, and the results are compared.

    check_machine(CacheMachine, model)       raises AssertionError; either backend
    check_machine(DecoderMachine, model)

The model must have one layer, so that a row's key depends on its token and coordinate alone. Deeper
rows of a forked lane were computed in the lane they come from, and deeper rows of other lanes keep
the influence of a dropped lane. Needs Hypothesis.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinylane.core.cache import LaneCache
from tinylane.core.decoding import Decoding
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, Rotation
from tinylane.core.model import Model
from tinylane.core.result import Lane
from tinylane.core.sampling import Sampler, uniform
from tinylane.testing.strategies import lane_ropes, masks
from tinylane.testing.tolerances import tolerance

N = 4  # lanes of a cache
LANES = 6  # of a decoding's life
TOKENS = st.integers(0, 10)  # modulo the vocabulary
Row = tuple[int, int, int]  # token, position, lane


def check_machine(kind: Any, model: Model, **options: Any) -> None:
    """Run a machine of `kind` on a model of one layer; raises AssertionError where it is wrong.

    options: for `hypothesis.settings`; 12 steps a run, or `stateful_step_count`. Raises
    TinylaneError for a deeper model.
    """
    if model.config.layers != 1:
        raise TinylaneError(
            f"the model has {model.config.layers} layers; the machines need one: deeper rows keep "
            "what a lane read before it was forked or dropped"
        )
    machine = type(kind.__name__, (kind,), {"model": model})
    run_state_machine_as_test(machine, settings=settings(**{"stateful_step_count": 12, **options}))


def columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and lanes, (T,) each."""
    tokens, positions, lanes = np.array(rows).T.copy()
    return tokens, positions, lanes


class CacheMachine(RuleBasedStateMachine):
    """`rows` is what the cache should hold, in its order; `clock` the next position."""

    model: Model

    @initialize(
        mask=masks(N), data=st.data(), prompt=st.lists(TOKENS, min_size=1, max_size=4),
        chunk=st.integers(1, 4),
    )  # fmt: skip
    def begin(self, mask: LaneMask, data: Any, prompt: list[int], chunk: int) -> None:
        """A prompt, prefilled in chunks."""
        self.mask, self.rope = mask, self.rotation(data)
        self.cache = self.model.new_cache(self.rope, mask)
        self.rows: list[Row] = []
        self.clock = len(prompt)
        rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        for start in range(0, len(rows), chunk):
            self.feed(rows[start : start + chunk])

    def rotation(self, data: Any) -> Rotation:
        """The rotation of the lanes; a subclass may draw another kind."""
        return data.draw(lane_ropes(self.model.theta, n=N))

    def feed(self, rows: list[Row]) -> None:
        """Through the cache; the logits must be those of a pass over all rows."""
        rows = [(token % self.model.config.vocab, i, lane) for token, i, lane in rows]
        got = self.model(*columns(rows), cache=self.cache)
        self.rows += rows
        fresh = self.model(*columns(self.rows), lane_rope=self.rope, lane_mask=self.mask)
        expected = np.asarray(fresh)[-len(rows) :]
        allowed = tolerance(self.model.dtype, float(np.abs(expected).max()), 1000.0)
        error = np.abs(np.asarray(got) - expected).max()
        assert error <= allowed, f"row of {rows} off by {error:.2g}, allowed {allowed:.2g}"

    @rule(
        tokens=st.dictionaries(st.integers(0, N - 1), TOKENS, min_size=1),
        gap=st.sampled_from((0, 0, 0, 5)),
    )
    def step(self, tokens: dict[int, int], gap: int) -> None:
        """One token for each of some lanes, as when lanes join, pause and finish."""
        self.clock += gap
        self.feed([(token, self.clock, lane) for lane, token in sorted(tokens.items())])
        self.clock += 1

    @rule(lane=st.integers(0, N - 1), tokens=st.lists(TOKENS, min_size=2, max_size=4))
    def prompt_of_a_lane(self, lane: int, tokens: list[int]) -> None:
        """Several rows of one lane in one pass."""
        self.feed([(token, self.clock + k, lane) for k, token in enumerate(tokens)])
        self.clock += len(tokens)

    @rule(token=TOKENS)
    def word_to_all(self, token: int) -> None:
        """A shared row that comes late."""
        self.feed([(token, self.clock, SHARED)])
        self.clock += 1

    @rule(source=st.integers(0, N - 1), to=st.integers(0, N - 1))
    def fork(self, source: int, to: int) -> None:
        """Into a lane without rows."""
        if any(lane == to for _, _, lane in self.rows):
            return
        self.cache.fork(source, to)
        self.rows += [(token, i, to) for token, i, lane in self.rows if lane == source]

    @rule(lane=st.integers(0, N - 1))
    def drop(self, lane: int) -> None:
        """Its rows are gone."""
        self.cache.drop(lane)
        self.rows = [row for row in self.rows if row[2] != lane]

    @precondition(lambda self: self.clock > 1)
    @rule(back=st.integers(0, 4))
    def trim(self, back: int) -> None:
        """Back to an earlier position."""
        self.clock = max(1, self.clock - back)
        self.cache.trim(self.clock)
        self.rows = [row for row in self.rows if row[1] < self.clock]

    @rule()
    def go_on_with_a_copy(self) -> None:
        """What the original is fed must not appear in the copy."""
        left, self.cache = self.cache, self.cache.copy()
        self.model([1], [self.clock], [SHARED], cache=left)

    @rule()
    def save_and_load(self) -> None:
        """Go on with what comes out of the file."""
        self.cache = saved_and_loaded(self.cache)

    @rule(token=TOKENS)
    def a_refused_call_leaves_no_trace(self, token: int) -> None:
        """A token outside the vocabulary, beside a valid one."""
        vocab = self.model.config.vocab
        try:
            self.model([token % vocab, vocab], [self.clock] * 2, [0, 1], cache=self.cache)
        except TinylaneError:
            return
        raise AssertionError(f"token {vocab} of a vocabulary of {vocab} was accepted")

    @invariant()
    def coordinates_are_those_of_the_rows(self) -> None:
        """Checked after every operation, also one that feeds nothing."""
        if not hasattr(self, "rows"):
            return
        held = list(zip(self.cache.positions.tolist(), self.cache.lanes.tolist(), strict=True))
        assert held == [(i, lane) for _, i, lane in self.rows]
        assert len(self.cache) == len(self.rows)


def saved_and_loaded(cache: LaneCache) -> LaneCache:
    """The cache that comes out of the file that `cache` is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.safetensors"
        cache.save(path)
        return LaneCache.load(path, cache.model, cache.lane_rope, cache.lane_mask)


class Shadow:
    """Operates a decoding, and says what it must write: a pass over all its rows for every token.

    A token is right if the pass gives it for the lane's random number, or for a number that differs
    from it by no more than rounding can change a cumulative probability.
    """

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.rows: list[Row] = [(token, i, SHARED) for i, token in enumerate(decoding.prompt)]
        self.written: dict[int, list[int]] = {}  # what each lane drew
        for lane in decoding.lanes:
            self._begin(lane)

    def _begin(self, lane: Lane) -> None:
        self.written[lane.index] = []
        begin = self.decoding.clock - len(lane.prompt)
        self.rows += [(token, begin + k, lane.index) for k, token in enumerate(lane.prompt)]

    def fork(self, source: int) -> None:
        """A lane that has written what another has."""
        new = self.decoding.fork(source).index
        self.rows += [(token, i, new) for token, i, m in self.rows if m == source]
        self.written[new] = list(self.written[source])

    def join(self, ids: list[int]) -> None:
        """A lane from the current position on, with as much of a prompt as there is room for."""
        room = self.decoding.clock - len(self.decoding.prompt)
        self._begin(self.decoding.join(ids[:room], max_tokens=50))

    def drop(self, lane: int) -> None:
        """A live or finished lane: its rows are gone."""
        self.decoding.drop(lane)
        self.rows = [row for row in self.rows if row[2] != lane]

    def expected(self) -> dict[int, tuple[set[int], np.ndarray]]:
        """For every live lane: the tokens that are right, and all log-probabilities (V,)."""
        d = self.decoding
        model, cache = d.model, d.cache
        logits = model(*columns(self.rows), lane_rope=cache.lane_rope, lane_mask=d.mask)
        # A logit off by t moves a cumulative probability by at most 2 t.
        allowed = 2 * tolerance(model.dtype, float(np.abs(np.asarray(logits)).max()), 1000.0)
        expected = {}
        for lane in d.live:
            mine = [k for k, row in enumerate(self.rows) if row[2] == lane.index]
            last = max(mine, key=lambda k: self.rows[k][1]) if mine else len(d.prompt) - 1
            written = self.written[lane.index]
            history = [[*d.prompt, *lane.prompt, *written]]
            draw, tokens = uniform(d.seed, lane.index, len(written)), set()
            for number in (draw - allowed, draw, draw + allowed):
                number = np.clip([number], 2.0**-53, 1.0)
                token, _ = d.sampler(logits[last : last + 1], number, history)
                tokens.add(int(token[0]))
            row = np.asarray(logits[last], dtype=np.float64)
            expected[lane.index] = tokens, row - np.logaddexp.reduce(row)
        return expected

    def step(self) -> None:
        """Step the decoding; raises AssertionError for a wrong token or log-probability."""
        d = self.decoding
        before, clock = self.expected(), d.clock
        step = d.step()
        drawn = {m: t for m, t in enumerate(step.tokens) if t is not None}
        assert drawn.keys() == before.keys(), f"lanes {[*drawn]} wrote, {[*before]} are live"
        for m, token in drawn.items():
            right, logprobs = before[m]
            assert token in right, f"lane {m} drew {token}, a pass over all rows gives {right}"
            allowed = 2 * tolerance(d.model.dtype, float(np.abs(logprobs).max()), 1000.0)
            error = abs(step.logprobs[m] - logprobs[token])  # type: ignore[operator]
            assert error <= allowed, f"lane {m}: log-probability off by {error:.2g}"
            self.written[m].append(token)
            if token not in d.ends:
                self.rows.append((token, clock, m))
        assert {lane.index: lane.tokens for lane in d.lanes} == self.written


class DecoderMachine(RuleBasedStateMachine):
    """A `Decoding` of up to six lanes beside its `Shadow`."""

    model: Model

    @initialize(
        mask=masks(LANES), data=st.data(), seed=st.integers(0, 99), chunk=st.integers(1, 4),
        prompt=st.lists(TOKENS, min_size=1, max_size=3),
        lane_prompts=st.lists(st.lists(TOKENS, max_size=2), min_size=1, max_size=3),
        penalty=st.sampled_from((1.0, 1.4)),
    )  # fmt: skip
    def begin(
        self,
        mask: LaneMask,
        data: Any,
        seed: int,
        chunk: int,
        prompt: list[int],
        lane_prompts: list[list[int]],
        penalty: float,
    ) -> None:
        """Lane prompts of several lengths, prefilled in chunks."""
        vocab = self.model.config.vocab
        prompt = [token % vocab for token in prompt]
        lane_prompts = [[token % vocab for token in ids] for ids in lane_prompts]
        self.decoding = Decoding(
            self.model, prompt, len(lane_prompts), max_tokens=50, lane_prompts=lane_prompts,
            sampler=Sampler(repetition_penalty=penalty), seed=seed, chunk=chunk,
            lane_rope=self.rotation(data), lane_mask=mask,
        )  # fmt: skip
        self.shadow = Shadow(self.decoding)

    def rotation(self, data: Any) -> Rotation:
        """The rotation of the lanes; a subclass may draw another kind."""
        return data.draw(lane_ropes(self.model.theta, n=LANES))

    def living(self) -> bool:
        return bool(self.decoding.live)

    def some(self, k: int) -> int:
        """The index of a live lane."""
        return self.decoding.live[k % len(self.decoding.live)].index

    @precondition(living)
    @rule()
    def step(self) -> None:
        """Every live lane draws what a pass over all rows gives."""
        self.shadow.step()

    @precondition(lambda self: len(self.decoding.lanes) < LANES)
    @rule(ids=st.lists(TOKENS, max_size=2))
    def join(self, ids: list[int]) -> None:
        """A lane from the current position on."""
        self.shadow.join([token % self.model.config.vocab for token in ids])

    @precondition(lambda self: self.living() and len(self.decoding.lanes) < LANES)
    @rule(k=st.integers(0, LANES - 1))
    def fork(self, k: int) -> None:
        """A lane that has written what another has."""
        self.shadow.fork(self.some(k))

    @precondition(living)
    @rule(k=st.integers(0, LANES - 1))
    def finish(self, k: int) -> None:
        """What the lane wrote stays visible."""
        self.decoding.finish(self.some(k))

    @rule(k=st.integers(0, LANES - 1))
    def drop(self, k: int) -> None:
        """The rows of a live or finished lane are gone."""
        self.shadow.drop(k % len(self.decoding.lanes))

    @rule()
    def save_and_load(self) -> None:
        """The decoding goes on with the cache that comes out of the file."""
        self.decoding.cache = saved_and_loaded(self.decoding.cache)

    def teardown(self) -> None:
        """One more step, which shows the effect of the last operation."""
        if hasattr(self, "shadow") and self.living():
            self.shadow.step()
