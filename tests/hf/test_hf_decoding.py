"""`tinylane.hf` decodes as tinylane does: same tokens, fork, drop, Ctrl-C."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers_life import NAMES, fields, live
from test_architectures import tiny

import tinylane
import tinylane.hf as hf
from tinylane.core.errors import TinylaneError

TABLES = 1e-5  # transformers makes its cosines and sines in float32; measured: 2e-6
PROMPT = [5, 9, 23, 7, 61, 3]
METHODS: dict[str, dict[str, Any]] = {
    "independent": {},
    "joint": {"omega": "ntk", "slot": 8},
    "joint, lag 2, prompt in lane 0": {"omega": "ntk", "slot": 8, "lag": 2, "prompt_lane": 0},
    "group_think": {"slot": 8},
    "hogwild": {},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, tinylane.Model]:
    """One random Qwen3 in float64: as transformers has it, and as tinylane reads its files."""
    folder = tmp_path_factory.mktemp("qwen3")
    model = tiny("qwen3", head_dim=16).double()
    model.save_pretrained(folder)
    return hf.lanes(model), tinylane.load(folder, backend="numpy", dtype="float64")


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_seed_draws_the_same_tokens(both: Any, what: str, temperature: float) -> None:
    """Greedy and sampled, in every mode, with log-probabilities equal up to `TABLES`."""
    wrapped, ours = both
    name, settings = what.partition(",")[0], METHODS[what]
    sampler = tinylane.Sampler(temperature=temperature)
    common: dict[str, Any] = {"seed": 7, "max_tokens": 12, "sampler": sampler}
    common["lane_prompts"] = [[1], [2, 3], []]
    rope, mask = tinylane.mode(name, ours, 3, **settings)
    expected = tinylane.generate(ours, PROMPT, lanes=3, lane_rope=rope, lane_mask=mask, **common)
    got = hf.generate(wrapped, None, PROMPT, lanes=3, method=name, **settings, **common)
    for mine, theirs in zip(got.lanes, expected.lanes, strict=True):
        assert mine.tokens == theirs.tokens
        assert np.allclose(mine.logprobs, theirs.logprobs, atol=TABLES, rtol=0)
    steps = hf.stream(wrapped, None, PROMPT, lanes=3, method=name, **settings, **common)
    assert [s.tokens for s in steps] == [
        list(step) for step in zip(*(_padded(lane.tokens, 12) for lane in got.lanes), strict=True)
    ][: got.steps]


def _padded(tokens: list[int], length: int) -> list[int | None]:
    return [*tokens, *[None] * (length - len(tokens))]


@pytest.mark.parametrize("name", ["joint", "hogwild"])
def test_fork_drop_join_are_those_of_tinylane(both: Any, name: str) -> None:
    """A forked lane shares rows of the cache with its source, and reads them as its own."""
    logs = []
    for model in both:
        rope, mask = tinylane.mode(name, model, 5, **METHODS[name])
        d = tinylane.Decoding(
            model, PROMPT, 2, max_tokens=14, lane_rope=rope, lane_mask=mask, seed=3,
            sampler=tinylane.Sampler(temperature=1.0),
        )  # fmt: skip
        for k in range(10):
            d.step()
            if k == 2:
                d.fork(1)
            if k == 4:
                d.drop(0)
                d.join([4, 4])
            if k == 6:
                d.fork(2)
        logs.append([(lane.tokens, lane.logprobs) for lane in d.lanes])
        if model is both[0]:
            assert len(d.cache) == len(d.cache.physical) <= d.cache.used + 30
            assert d.cache.nbytes > 0
    for (tokens, probabilities), (mine, theirs) in zip(*logs, strict=True):
        assert tokens == mine
        assert np.allclose(probabilities, theirs, atol=TABLES, rtol=0)


@pytest.mark.parametrize("name", ["joint", "hogwild"])
@pytest.mark.parametrize("seed", range(4))
def test_any_life_is_that_of_tinylane(both: Any, name: str, seed: int) -> None:
    """Lanes that see, wait, are sealed, given, peeked at, placed, forked, dropped, in any order."""
    rng = np.random.default_rng(seed)
    script = [
        (str(rng.choice(NAMES)), *rng.integers(0, 8, 2).tolist(), rng.integers(0, 11, 2).tolist())
        for _ in range(60)
    ]
    logs, did = [], []
    for model in both:
        rope, mask = tinylane.mode(name, model, 4, **METHODS[name])
        d = tinylane.Decoding(
            model, PROMPT, 2, max_tokens=60, lane_rope=rope, lane_mask=mask, seed=seed,
            sampler=tinylane.Sampler(temperature=1.0), schedule=lambda d: None,
        )  # fmt: skip
        did.append(live(d, script))
        looked = [d.peek(x.index, [3, 4]) for x in d.live]
        logs.append((fields(d), [x.logprobs for x in d.lanes], [d.mask.visibility, *looked]))
    assert did[0] == did[1] and len({*did[0]}) > 8
    (one, mine, looks), (two, theirs, expected) = logs
    assert one == two
    for a, b in zip([*mine, *looks], [*theirs, *expected], strict=True):
        assert np.allclose(a, b, atol=TABLES, rtol=0)


def test_a_broken_pass_leaves_no_trace(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a layer: the next step is that of a decoding nobody disturbed."""
    wrapped = both[0]
    rope, mask = tinylane.mode("joint", wrapped, 2, omega="ntk", slot=8)
    make = lambda: tinylane.Decoding(
        wrapped, PROMPT, 2, lane_rope=rope, lane_mask=mask, max_tokens=8
    )
    calm, disturbed = make(), make()
    for d in (calm, disturbed):
        d.step()
        d.step()
    attention = wrapped.source.model.layers[2].self_attn

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attention, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            disturbed.step()
    for _ in range(3):
        assert disturbed.step().tokens == calm.step().tokens


def test_bad_input_is_one_line(both: Any) -> None:
    wrapped = both[0]
    with pytest.raises(TinylaneError, match="no tokenizer"):
        hf.generate(wrapped, None, "a text", lanes=2)
    with pytest.raises(TinylaneError, match="outside the vocabulary"):
        hf.generate(wrapped, None, [5, 4096], lanes=2)
    with pytest.raises(TinylaneError, match="decides lane_mask"):
        mask = tinylane.LaneMask.joint(2)
        hf.generate(wrapped, None, PROMPT, lanes=2, method="joint", lane_mask=mask)
