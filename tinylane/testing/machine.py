"""State machines: after any operations, a cache or a decoding equals one pass over all rows.

Hypothesis picks the operations, their order and their arguments. `CacheMachine` feeds rows in any
chunks, forks, drops, trims, copies, saves and loads a cache. `DecoderMachine` steps a `Decoding` to
whose lanes everything happens that `tinylane.methods.life` has, and whose cache is saved and loaded
in between. Both keep their own list of rows (`tinylane.testing.shadow`). After each feed or step
the model is run on that list without a cache, and the results are compared.

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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinylane.checkpoints.side import lace_layers
from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, Rotation
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.testing.shadow import Row, Shadow, columns
from tinylane.testing.strategies import lane_ropes, masks
from tinylane.testing.tolerances import tolerance

N = 4  # lanes of a cache
LANES = 6  # of a decoding's life
TOKENS = st.integers(0, 10)  # modulo the vocabulary
PLACES = st.integers(0, LANES - 1)  # modulo the number of lanes, or positions behind the prompt


def check_machine(kind: Any, model: Model, **options: Any) -> None:
    """Run a machine of `kind` on a model of one layer; raises AssertionError where it is wrong.

    options: for `hypothesis.settings`; 12 steps a run, or `stateful_step_count`. Raises
    TinylaneError for a deeper model.
    """
    depth = model.config.layers + len(lace_layers(model.params, model.config))
    if depth != 1:
        raise TinylaneError(
            f"the model has {depth} layers of attention; the machines need one: deeper rows keep "
            "what a lane read before it was forked or dropped"
        )
    machine = type(kind.__name__, (kind,), {"model": model})
    usual = {  # a busy computer is no fault of the model's
        "stateful_step_count": 12,
        "deadline": None,
        "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    }
    run_state_machine_as_test(machine, settings=settings(**{**usual, **options}))


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


class DecoderMachine(RuleBasedStateMachine):
    """A `Decoding` of up to six lanes beside its `Shadow`."""

    model: Model

    @initialize(
        mask=masks(LANES) | masks(3), data=st.data(), seed=st.integers(0, 99),
        chunk=st.integers(1, 4),
        prompt=st.lists(TOKENS, min_size=1, max_size=3),
        lane_prompts=st.lists(st.lists(TOKENS, max_size=2), min_size=1, max_size=3),
        penalty=st.sampled_from((1.0, 1.4)), short=st.booleans(),
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
        short: bool,
    ) -> None:
        """Lane prompts of several lengths, prefilled in chunks. short: end tokens are likely."""
        vocab = self.model.config.vocab
        prompt = [token % vocab for token in prompt]
        lane_prompts = [[token % vocab for token in ids] for ids in lane_prompts]
        self.decoding = Decoding(
            self.model, prompt, len(lane_prompts), max_tokens=50, lane_prompts=lane_prompts,
            sampler=Sampler(
                repetition_penalty=penalty,
                logit_bias=dict.fromkeys(self.model.config.eos_ids, 2.0 * short),
            ),
            seed=seed, chunk=chunk,
            lane_rope=self.rotation(data), lane_mask=mask,
            schedule=lambda decoding: None,  # by itself: it says that who reads whom may change
        )  # fmt: skip
        self.shadow = Shadow(self.decoding)

    def rotation(self, data: Any) -> Rotation:
        """The rotation of the lanes; a subclass may draw another kind."""
        return data.draw(lane_ropes(self.model.theta, n=LANES))

    def living(self) -> bool:
        return bool(self.decoding.live)

    @precondition(living)
    @rule()
    def step(self) -> None:
        """Every live lane draws what a pass over all rows gives."""
        self.shadow.step()

    def room(self) -> bool:
        return len(self.decoding.lanes) < LANES

    def any(self, k: int) -> int:
        """The index of a lane, live or not."""
        return k % len(self.decoding.lanes)

    def alive(self, k: int) -> int | None:
        """The index of a lane that has not ended; it may wait."""
        alive = [x.index for x in self.decoding.lanes if x.finish_reason is None]
        return alive[k % len(alive)] if alive else None

    def ids(self, tokens: list[int]) -> list[int]:
        return [token % self.model.config.vocab for token in tokens]

    @precondition(lambda self: len(self.decoding.lanes) < self.shadow.room)
    @rule(ids=st.lists(TOKENS, max_size=2))
    def join(self, ids: list[int]) -> None:
        """A lane from the current position on."""
        self.shadow.join(self.ids(ids))

    @precondition(room)
    @rule(
        sees=st.sampled_from(("all", "none")) | st.sets(PLACES, max_size=3),
        at=st.sampled_from(("end", "before")) | PLACES,
        ids=st.lists(TOKENS, min_size=1, max_size=2),
    )
    def join_and_see(self, sees: Any, at: Any, ids: list[int]) -> None:
        """A lane that says whom it reads, and where it begins."""
        P, clock = len(self.decoding.prompt), self.decoding.clock
        if isinstance(sees, set):
            sees = sorted({self.any(k) for k in sees})
        if at == "before":
            at = at if clock - P >= len(ids) else "end"
        elif isinstance(at, int):
            at += P
        self.shadow.join(self.ids(ids), sees, at)

    @precondition(room)
    @rule(k=PLACES)
    def fork(self, k: int) -> None:
        """A lane that has written what another has."""
        lane = self.alive(k)
        if lane is not None:
            self.shadow.fork(lane)

    @precondition(room)
    @rule(k=PLACES)
    def seal(self, k: int) -> None:
        """What a lane has written stands; its author goes on in a new lane."""
        lane = self.alive(k)
        if lane is not None and self.decoding.lanes[lane].tokens:
            self.shadow.seal(lane)

    @rule(k=PLACES, of=PLACES, yes=st.booleans())
    def read(self, k: int, of: int, yes: bool) -> None:
        """From its next row on a lane reads another, or no longer does."""
        self.shadow.read(self.any(k), self.any(k + 1 + of), yes)

    @precondition(lambda self: isinstance(self.decoding.cache.lane_rope, Hogwild))
    @rule(lanes=st.lists(PLACES, max_size=3))
    def arrange(self, lanes: list[int]) -> None:
        """Other parts stand first in every view."""
        self.shadow.arrange(list(dict.fromkeys(map(self.any, lanes))))

    @rule(k=PLACES)
    def pause(self, k: int) -> None:
        """A lane draws nothing for now."""
        lane = self.alive(k)
        if lane is not None:
            self.shadow.pause(lane)

    @precondition(lambda self: bool(self.waits()))
    @rule(k=PLACES)
    def resume(self, k: int) -> None:
        """A lane goes on that waited, or that ended with an end token in the step before."""
        self.shadow.resume(self.waits()[k % len(self.waits())])

    def waits(self) -> list[int]:
        reasons = [lane.finish_reason for lane in self.decoding.lanes]
        paused = [m for m in sorted(self.shadow.waiting) if reasons[m] is None]
        return paused + [m for m in sorted(self.shadow.ended) if reasons[m] == "stop"]

    @rule(k=PLACES, ids=st.lists(TOKENS, max_size=3))
    def give(self, k: int, ids: list[int]) -> None:
        """A lane writes these next."""
        lane = self.alive(k)
        if lane is not None:
            self.shadow.give(lane, self.ids(ids))

    @rule(k=PLACES, ids=st.lists(TOKENS, max_size=3))
    def peek(self, k: int, ids: list[int]) -> None:
        """What the next token would be after these; nothing changes."""
        lane = self.alive(k)
        if lane is not None:
            self.shadow.peek(lane, self.ids(ids))

    @rule(k=PLACES)
    def finish(self, k: int) -> None:
        """What the lane wrote stays visible."""
        self.decoding.finish(self.any(k))

    @rule(k=PLACES)
    def drop(self, k: int) -> None:
        """The rows of a live or finished lane are gone."""
        self.shadow.drop(self.any(k))

    @rule()
    def save_and_load(self) -> None:
        """The decoding goes on with the cache that comes out of the file."""
        self.decoding.cache = saved_and_loaded(self.decoding.cache)

    def teardown(self) -> None:
        """Two more steps, which show the effect of the last operations."""
        for _ in range(2):
            if hasattr(self, "shadow") and self.living():
                self.shadow.step()
