import numpy as np
import pytest
from hypothesis import given, settings

from tinylane import LaneRoPE, testing
from tinylane.testing.checks import bound
from tinylane.testing.strategies import cases


def mine(theta):  # lanes on a ring of eight
    return LaneRoPE(2 * np.pi / 8 * (1 + np.arange(len(theta)) % 7))


@pytest.mark.parametrize("law", ["assert_token_shift", "assert_lane_shift"])
@settings(deadline=None)  # no example fails for being slow
@given(case=cases())
def test_only_differences_matter(law, case):
    model = case.model()  # float64
    sample = case.sample.with_rope(mine(model.theta))
    getattr(testing, law)(bound(model, sample), sample, 3)
