"""Laws 16, 18 and 24 on SmolLM2: a fork-join against one flat pass of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_real
import numpy as np
import pytest

import tinylane
from tinylane.methods.decoding import Decoding
from tinylane.testing import (
    LawViolation,
    Sample,
    assert_fork_join,
    assert_reread,
    assert_rollout,
    fork_join,
    hf,
    reuse_gap,
    transcript,
)
from tinylane.testing.samples import depths
from tinylane.testing.segments import ancestors
from tinylane.testing.subjects import bound

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
smollm2 = helpers_real.smollm2  # fixture
pytestmark = pytest.mark.real
PROMPT = "Name three rivers in Europe, and say where each of them ends.\n"
PATHS = (
    " The Danube ends in the Black Sea.",
    " The Rhine flows into the North Sea near Rotterdam.",
    " The Loire: the Atlantic Ocean.",
)
SUMMARY = " In short, they end in"


@pytest.fixture(scope="module")
def both(smollm2: Path) -> tuple[tinylane.Model, Any]:
    """The model in tinylane, and as the unmodified one in transformers, both float32."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=torch.float32, attn_implementation="eager"
    )
    return tinylane.load(smollm2, "numpy", dtype="float32"), hf.plain(theirs.eval())


@pytest.fixture(scope="module")
def joined(both: Any) -> Sample:
    model, _ = both
    ids = lambda text: model.tokenizer.encode(text)
    rope = tinylane.LaneRoPE.none(model.theta)
    paths = [ids(text) for text in PATHS]
    return fork_join(ids(PROMPT), paths, ids(SUMMARY), model.config.vocab, rope)


def test_a_fork_join_is_one_flat_pass_of_transformers(both: Any, joined: Sample) -> None:
    model, plain = both
    report = assert_fork_join(bound(model, joined), plain, joined, dtype="float32")
    deviation = plain(joined.tokens, depths(joined), ancestors(joined)).std()
    print(f"fork join: {report}, {report.worst / deviation:.1e} standard deviations")
    assert report.worst < 1e-4 * deviation
    later = joined.positions + np.where(joined.lanes == 3, 9, 0)
    wrong = Sample(joined.tokens, later, *[getattr(joined, x) for x in ("lanes", "mask", "rope")],
                   joined.vocab)  # fmt: skip
    with pytest.raises(LawViolation, match="fork join"):
        assert_fork_join(bound(model, wrong), plain, wrong, dtype="float32")


def test_a_decoding_that_joins_is_one_flat_pass_of_transformers(both: Any, joined: Sample) -> None:
    """Three paths of their own lengths, and a summary that `join(sees="all")` lets read them. No
    path ends by a token: that would not be fed, and its place would stay empty."""
    model, plain = both
    lengths = [6, 9, 4]
    never = dict.fromkeys(model.end_ids, -np.inf)
    decoding = Decoding(
        model, model.tokenizer.encode(PROMPT), 3, max_tokens=lengths, lane_rope=joined.rope,
        lane_mask=tinylane.LaneMask.independent(3), schedule=lambda d: None, seed=3,
        sampler=tinylane.Sampler(temperature=0.7, top_k=20, logit_bias=never),
    )  # fmt: skip
    for _ in decoding:
        pass
    decoding.join(SUMMARY, sees="all", max_tokens=6)
    for _ in decoding:
        pass
    done = transcript(decoding)
    assert np.array_equal(depths(done.sample), done.sample.positions)
    flat = lambda tokens, positions, lanes: plain(tokens, positions, ancestors(done.sample))
    report = assert_rollout(flat, done, dtype="float32")
    print(f"decoded: {report}")
    assert report.worst < 1e-4 and report.compared == len(done.tokens) > 15


def test_reading_rows_and_reading_texts_are_two_methods(both: Any, joined: Sample) -> None:
    model, plain = both
    f = lambda *rows, lane_mask: model(*rows, joined.rope, lane_mask)
    report = assert_reread(f, plain, joined, 3, dtype="float32")
    gap = reuse_gap(f, joined, 3)
    print(f"reread: {report}; reuse and rereading are {gap:.2g} apart")
    assert gap > 100 * report.worst
