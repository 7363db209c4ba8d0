"""What the strategies draw is varied, valid, small when shrunk, and needs Hypothesis only there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from tinylane.checkpoints.export import config_to_dict
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.testing import (
    assert_group_think,
    assert_independent,
    assert_one_lane,
    example_case,
    strategies,
)
from tinylane.testing.checks import bound
from tinylane.testing.samples import random_weights

MANY = [example_case(seed) for seed in range(300)]


def test_every_family_rope_kind_and_head_layout_is_drawn() -> None:
    configs = [case.config for case in MANY]
    assert {c.family for c in configs} == {"llama", "mistral", "qwen2", "qwen3"}
    assert {c.rope.kind for c in configs} == {"default", "linear", "llama3", "yarn"}
    assert {c.heads // c.kv_heads for c in configs} == {1, 2}
    assert {c.kv_heads for c in configs} == {1, 2}
    for flag in ("tied", "qkv_bias", "out_bias", "mlp_bias", "qk_norm"):
        assert {getattr(c, flag) for c in configs} == {False, True}, flag
    assert {case.adapted for case in MANY} == {False, True}


def test_every_mask_and_omega_is_drawn() -> None:
    samples = [case.sample for case in MANY]
    assert {s.mask.lag for s in samples} == {0, 1, 2, 3}
    assert {s.mask.n for s in samples} == {1, 2, 3, 4}
    assert {s.rope.prompt_lane for s in samples} == {"own", 0}
    assert {s.rope.omega.ndim for s in samples} == {1, 2}
    assert {bool(s.rope.omega.any()) for s in samples} == {False, True}


def test_lanes_are_ragged_late_forked_and_missing() -> None:
    ragged = late = forked = missing = late_shared = far = 0
    for s in (case.sample for case in MANY):
        lanes = [np.flatnonzero(s.lanes == m) for m in range(s.mask.n)]
        starts = {int(s.positions[rows[0]]) for rows in lanes if len(rows)}
        ragged += len(starts) > 1
        late += bool(starts) and max(starts) - min(starts) > 2
        missing += any(len(rows) == 0 for rows in lanes)
        late_shared += len(s.prompt_first().tokens) < len(s.tokens)
        far += int(s.positions.max()) >= 1000
        for a in lanes:
            for b in lanes:
                head = list(zip(s.positions[a][:2], s.tokens[a][:2], strict=True))
                same = head == list(zip(s.positions[b][:2], s.tokens[b][:2], strict=True))
                forked += len(a) > 1 and len(b) > 1 and a is not b and same
    assert min(ragged, late, forked, missing, late_shared, far) > 20


@given(strategies.cases())
def test_rows_stand_in_order_of_arrival_and_keep_to_their_mask(case: Any) -> None:
    s = case.sample
    assert (np.diff(s.positions) >= 0).all()
    assert s.lanes.min() >= SHARED and s.lanes.max() < s.mask.n
    assert s.tokens.min() >= 0 and s.tokens.max() < s.vocab == case.config.vocab
    assert len({*zip(s.positions.tolist(), s.lanes.tolist(), strict=True)}) == len(s.tokens)


@given(strategies.configs(("yarn",)), st.data())
def test_weights_have_the_config_s_shapes(config: ModelConfig, data: Any) -> None:
    params = data.draw(strategies.weights(config))
    for name, shape in config.tensors().items():
        assert params[name].shape == (shape if len(shape) == 1 or "embed" in name else shape[::-1])
        assert params[name].dtype == np.float32 and params[name].any(), name
    assert config.rope.kind == "yarn"


@given(st.data())
def test_samples_for_a_given_model(data: Any) -> None:
    """As a test of one's own model draws them."""
    model = MANY[0].model()
    sample = data.draw(strategies.rows_for(model.config, model.theta))
    assert bound(model, sample)(*sample.rows).shape == (len(sample.tokens), 11)


def test_a_case_shrinks_to_a_few_rows() -> None:
    """Two lanes that see each other: what remains is those two, and next to nothing else."""

    def lanes_meet(case: Any) -> bool:
        s = case.sample
        seen = s.mask.visible(s.positions, s.lanes, s.positions, s.lanes)
        other = (s.lanes[:, None] != s.lanes[None, :]) & (s.lanes[None, :] != SHARED)
        return bool((seen & other).any())

    quiet = settings(
        max_examples=300, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    case = find(strategies.cases(), lanes_meet, settings=quiet)
    assert len(case.sample.tokens) <= 3 and case.sample.mask.n == 2
    assert case.config.layers == 1 and case.config.family == "llama"


def test_the_same_seed_is_the_same_case() -> None:
    again = example_case(7)
    assert repr(again.sample) == repr(MANY[7].sample) and again.config == MANY[7].config


def test_the_laws_need_no_hypothesis() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import tinylane\n"
        "from tinylane.testing import check, example_case\n"
        "case = example_case(0)\n"
        "print(check('definition', case.model(), case.sample, case.choose))\n"
        "assert 'mlx.core' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("definition: worst error ")


def test_laws_with_transformers_as_the_unmodified_model() -> None:
    """Laws 6, 7 and 11 name an unmodified model: here it is somebody else's."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tinylane.testing import hf

    config = ModelConfig(
        "qwen2", vocab=11, width=16, heads=4, kv_heads=2, head_dim=4, mlp_width=24, qkv_bias=True
    )
    params = random_weights(config, 5)
    theirs = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_spelled(config))).eval()
    state = {
        name: torch.from_numpy(w if w.ndim == 1 or "embed" in name else np.ascontiguousarray(w.T))
        for name, w in params.items()
    }
    theirs.load_state_dict(state)
    model, plain = Model(config, params), hf.plain(theirs)
    for seed in range(5):
        s = replace(MANY[seed].sample, vocab=11)
        rng = np.random.default_rng(seed)
        s = s.with_rope(LaneRoPE(rng.uniform(-3, 3, 2)))
        assert_one_lane(bound(model, s), plain, s, dtype="float32")
        apart = s.with_mask(LaneMask.independent(s.mask.n))
        assert_independent(bound(model, apart), plain, apart, dtype="float32")
        near = replace(s, positions=s.positions - s.positions.min())  # their angles are float32
        assert_group_think(bound(model, near), plain, near, model.theta, 3, dtype="float32")


def _spelled(config: ModelConfig) -> dict[str, Any]:
    raw = config_to_dict(config)
    raw.pop("head_dim")
    return raw
