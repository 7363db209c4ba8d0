"""Law 24 for every method: what it drew, once more, in one pass over all its rows.

Two layers deep: rows keep what they had read when they were fed. `test_methods.py` compares every
step of one layer.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers_methods import PROMPT, WARM, small

from tinylane.core.lanes import LaneMask
from tinylane.methods import NAMES, decode
from tinylane.methods.decoding import Decoding
from tinylane.testing import LawViolation, assert_rollout, transcript
from tinylane.testing.subjects import bound

MODEL = small(layers=2)


def decoded(name: str) -> Decoding:
    decoding = decode(MODEL, PROMPT, name, 3, sampler=WARM, seed=1, max_tokens=12)
    for _ in decoding:
        pass
    return decoding


@pytest.mark.parametrize("name", [name for name in NAMES if name != "beam"])
def test_what_a_method_draws_is_one_pass_over_its_rows(name: str) -> None:
    done = transcript(decoded(name))
    report = assert_rollout(bound(MODEL, done.sample), done)
    assert report.compared >= 12 and report.worst < 1e-12


@pytest.mark.parametrize("name", ["lanerope", "parathinker", "multiverse", "hogwild_steps"])
def test_a_pass_in_which_lanes_do_not_read_each_other_is_not(name: str) -> None:
    """The control: the mask, or the lanes' places, are a part of what was decoded."""
    done = transcript(decoded(name))
    alone = done.sample.with_mask(LaneMask(np.eye(done.sample.mask.n, dtype=bool)))
    with pytest.raises(LawViolation, match="rollout"):
        assert_rollout(bound(MODEL, alone), done)
