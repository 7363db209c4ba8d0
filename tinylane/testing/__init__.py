"""Laws that anyone can check on any model: `assert_*` for each, and Hypothesis strategies.

`assert_all(f)` asks a decoder every law that applies to it, also one that knows no lanes.

Each `assert_*` (in `laws`) takes a callable `f(tokens, positions, lanes) -> logits (T, V)`, a
`Sample`, and what the law needs besides. It returns a `Report` with the worst error, or raises
`LawViolation` with the law, the sample, the row and the size of the error. The callable may use any
library: its result must be an array that `numpy.asarray` accepts, or a PyTorch tensor.

    samples      Sample; random configs, weights and coordinates; fork-joins
    laws         laws 1 to 13; Report, LawViolation
    segments     laws 14 to 18, 22, 24 and 25: segments of text, and how a decoding goes
    additions    laws 19 to 21: what a checkpoint may add for lanes
    merge        law 23: blocks of keys
    every        `assert_all`
    checks       the laws and further checks applied to a model: `LAWS`, `check`; with
                 `segment_checks`, and `subjects`: what a law is asked of
    reference    the definition: a float64 decoder in complex numbers, in plain loops
    tolerances   C * eps(dtype) * scale, and why
    verification the laws on a real checkpoint at its real size, as `tinylane verify` runs them;
                 with `at_size`
    strategies   Hypothesis strategies for samples
    machine      state machines of a cache and a decoding; both need Hypothesis
    shadow       what a decoding must write, whatever happens to its lanes
    hf           a transformers model as a callable

The laws compare float32 with a tolerance for float32. So an import of this package sets
MLX_ENABLE_TF32=0 if it is not set. MLX reads it at its first product: where that came earlier, or
the variable says otherwise, and products are rounded, a violation says so.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tinylane.testing.additions import (
    assert_bridge_alone,
    assert_bridge_finished,
    assert_bridge_history,
    assert_bridge_order,
    assert_identity,
    assert_multi_stream,
)
from tinylane.testing.checks import EXTRA, LAWS, check
from tinylane.testing.every import assert_all
from tinylane.testing.laws import (
    LawViolation,
    Report,
    assert_backends,
    assert_causality,
    assert_company,
    assert_equal,
    assert_group_think,
    assert_independent,
    assert_isolation,
    assert_lane_shift,
    assert_one_lane,
    assert_periodicity,
    assert_shared_prompt,
    assert_steps,
    assert_storage_order,
    assert_token_shift,
)
from tinylane.testing.merge import assert_blocks_merge, merge_blocks
from tinylane.testing.samples import Case, Sample, example_case, fork_join, random_case
from tinylane.testing.segment_checks import transcript
from tinylane.testing.segments import (
    Rollout,
    assert_chain_rule,
    assert_fork_join,
    assert_moved_cache,
    assert_one_path,
    assert_permuted_paths,
    assert_reread,
    assert_rollout,
    assert_seal,
    reuse_gap,
)
from tinylane.testing.subjects import Law
from tinylane.testing.tolerances import TOLERANCES, Tolerance, tolerance

__all__ = [
    "EXTRA",
    "LAWS",
    "TOLERANCES",
    "Case",
    "Law",
    "LawViolation",
    "Report",
    "Rollout",
    "Sample",
    "Tolerance",
    "assert_all",
    "assert_backends",
    "assert_blocks_merge",
    "assert_bridge_alone",
    "assert_bridge_finished",
    "assert_bridge_history",
    "assert_bridge_order",
    "assert_causality",
    "assert_chain_rule",
    "assert_company",
    "assert_equal",
    "assert_fork_join",
    "assert_group_think",
    "assert_identity",
    "assert_independent",
    "assert_isolation",
    "assert_lane_shift",
    "assert_moved_cache",
    "assert_multi_stream",
    "assert_one_lane",
    "assert_one_path",
    "assert_periodicity",
    "assert_permuted_paths",
    "assert_reread",
    "assert_rollout",
    "assert_seal",
    "assert_shared_prompt",
    "assert_steps",
    "assert_storage_order",
    "assert_token_shift",
    "check",
    "example_case",
    "fork_join",
    "hf",
    "machine",
    "merge_blocks",
    "random_case",
    "reuse_gap",
    "strategies",
    "tolerance",
    "transcript",
]


os.environ.setdefault("MLX_ENABLE_TF32", "0")


def __getattr__(name: str) -> Any:
    if name in ("strategies", "machine", "hf"):  # they need libraries that the laws do not
        return import_module(f"tinylane.testing.{name}")
    raise AttributeError(f"module 'tinylane.testing' has no attribute {name!r}")
