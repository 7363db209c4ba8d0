"""Law 23 for kernels of other libraries: attention over blocks that gives its log-sum-exp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.rope import RopeConfig, frequencies, rotate, table
from tinylane.testing import LawViolation, assert_blocks_merge, merge_blocks
from tinylane.testing.merge import attention_part

H, K, T, D = 4, 2, 9, 8


def lanes_of_two_blocks() -> tuple[Any, ...]:
    """Queries turned for the prompt and for the lanes, keys, values, mask and blocks of a pass with
    three lanes and a random Omega."""
    rng = np.random.default_rng(3)
    positions = np.array([0, 1, 2, 3, 3, 3, 4, 4, 4])
    lanes = np.array([SHARED, SHARED, SHARED, 0, 1, 2, 0, 1, 2])
    mask = LaneMask.joint(3)
    seen = mask.visible(positions, lanes, positions, lanes)
    theta, _ = frequencies(RopeConfig(), D)
    rope = LaneRoPE(rng.uniform(-3, 3, D // 2))
    q, k, v = (rng.standard_normal((heads, T, D)) for heads in (H, K, K))
    keys, views, block_of = rope.views(theta, mask, Places(positions, lanes, positions, lanes))
    turn = lambda x, angles: rotate(x, *table(angles, dtype=np.float64))
    assert block_of is not None
    return [turn(q, angles) for angles in views], turn(k, keys), v, seen, block_of


def torch_part(query: Any, keys: Any, values: Any, mask: np.ndarray) -> Any:
    """What a serving kernel does: its own softmax over its own keys, and the log-sum-exp."""
    torch = pytest.importorskip("torch")
    q, k, v = (torch.tensor(np.asarray(x), dtype=torch.float32) for x in (query, keys, values))
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) / D**0.5
    scores = scores.masked_fill(~torch.from_numpy(mask), float("-inf"))
    return torch.nan_to_num(torch.softmax(scores, -1)) @ v, torch.logsumexp(scores, -1)


def test_blocks_of_a_pytorch_kernel_merge_to_one_softmax() -> None:
    report = assert_blocks_merge(None, *lanes_of_two_blocks(), part=torch_part, dtype="float32")
    assert report.compared == T and report.worst > 0


def test_the_definition_merges_and_a_row_that_sees_nothing_of_a_block_has_no_weight_there() -> None:
    queries, keys, values, seen, block_of = lanes_of_two_blocks()
    assert not seen[:3][:, block_of == 1].any()  # the prompt sees no lane
    report = assert_blocks_merge(None, queries, keys, values, seen, block_of)
    assert report.worst < 1e-14
    nothing = attention_part(queries[1], keys, values, np.zeros((T, T), dtype=bool))
    assert not nothing[0].any() and np.isneginf(nothing[1]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda out, lse: (out, np.where(lse > -9e9, 0, lse)),  # each block counts alike
        lambda out, lse: (out, lse * D**0.5),  # of scores that were not divided by sqrt(D)
        lambda out, lse: (out, lse / np.log(2)),  # to the base 2, as some kernels give it
    ],
)
def test_a_kernel_with_another_log_sum_exp_is_caught(wrong: Any) -> None:
    part = lambda *given: wrong(*attention_part(*given))
    with pytest.raises(LawViolation, match=r"blocks merge: row [3-8] differs"):
        assert_blocks_merge(None, *lanes_of_two_blocks(), part=part)


def test_one_query_for_all_blocks_is_caught() -> None:
    queries, keys, values, seen, block_of = lanes_of_two_blocks()
    parts = []
    for block, query in enumerate(queries):
        of = block_of == block
        parts.append(attention_part(query, keys[:, of], values[:, of], seen[:, of]))
    merged = merge_blocks(parts)
    assert_blocks_merge(merged, queries, keys, values, seen, block_of)
    with pytest.raises(LawViolation):
        assert_blocks_merge(merged, [queries[0]] * 2, keys, values, seen, block_of)


def test_a_row_that_sees_no_key_is_refused() -> None:
    queries, keys, values, seen, block_of = lanes_of_two_blocks()
    seen = seen.copy()
    seen[4] = False
    with pytest.raises(TinylaneError, match="a row of the mask sees no key"):
        assert_blocks_merge(None, queries, keys, values, seen, block_of)
