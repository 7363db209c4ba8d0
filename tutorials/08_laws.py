# %% [markdown]
# # 8. The laws: test an encoding of your own
#
# You change something: another Omega, another mask, another way to place lanes. Does it do what
# you want? One example proves little. A **law** is a sentence about all inputs ("adding 7 to
# every position changes no logits"). Hypothesis searches for an input that breaks it, then makes
# that input small. `tinylane.testing` has twenty-five laws; here are four of them.

# %%
import numpy as np
from hypothesis import Phase, given, settings

from tinylane import SHARED, LaneMask, LaneRoPE, plot, testing
from tinylane.testing.checks import bound, plain
from tinylane.testing.strategies import cases

# %% [markdown]
# ## An encoding: lanes on a ring
#
# Let the lanes stand in a circle, so that the last lane is next to the first. Each plane turns by a
# whole multiple of 2 pi / N per lane: after N lanes it is back at its start. It is only an Omega.


# %%
def ring(theta, N=4):
    return LaneRoPE(2 * np.pi / N * (1 + np.arange(len(theta)) % (N - 1)))


assert np.allclose(np.exp(1j * 4 * ring(np.ones(8)).omega), 1)

# %% [markdown]
# ## Two mistakes
#
# Both look harmless. `Squared` turns lane m by m * m, "to spread the lanes out". `Minus` forgets
# that the prompt's lane, `SHARED`, is -1, and turns the prompt by minus one lane.


# %%
class Squared(LaneRoPE):
    def angles(self, lanes, layer):
        return np.maximum(lanes, 0)[:, None] ** 2 * self.omega


class Minus(LaneRoPE):
    def angles(self, lanes, layer):
        return lanes[:, None] * self.omega


encodings = {
    "ring": ring,
    "squared": lambda theta: Squared(ring(theta).omega),
    "minus": lambda theta: Minus(ring(theta).omega),
}

# %% [markdown]
# ## The laws
#
# `cases()` draws a small decoder, a mask and rows. Lanes have different lengths, start late or are
# forked, with a prompt or without. A law takes a function `f(tokens, positions, lanes) -> logits`
# and a sample. `bound` makes such a function of a model; `plain` makes one without lanes.

# %%
laws = {
    "token shift": lambda model, f, sample: testing.assert_token_shift(f, sample, 7),
    "lane shift": lambda model, f, sample: testing.assert_lane_shift(f, sample, 1),
    "one lane": lambda model, f, sample: testing.assert_one_lane(f, plain(model), sample),
    "shared prompt": lambda model, f, sample: testing.assert_shared_prompt(f, sample),
}


def broken(law, encoding, small=False):
    """A violation that Hypothesis finds (made small, if asked: that takes longer), or None."""
    phases = [Phase.generate, Phase.shrink] if small else [Phase.generate]

    @settings(max_examples=30, phases=phases, deadline=None, database=None, derandomize=True)
    @given(cases())
    def holds(case):
        model = case.model()  # float64
        sample = case.sample.with_rope(encoding(model.theta))
        law(model, bound(model, sample), sample)

    try:
        return holds()
    except testing.LawViolation as violation:
        return violation


caught = [[broken(laws[name], e) is not None for name in laws] for e in encodings.values()]
names = ("encoding", "law", "broken (1) or not (0)")
plot.show(plot.attention(caught, list(encodings), list(laws), "Caught", names), "08-caught")
assert caught[0] == [False, False, False, False]  # the ring keeps every law
assert caught[1] == [False, True, False, False]  # the score depends on more than a difference
assert caught[2][2:] == [True, True]  # the prompt is no longer a part of every lane

# %% [markdown]
# Three laws do not catch `squared`. The token shift catches neither mistake, and the lane shift
# catches `minus` only sometimes. Each law misses some mistakes, so you need several. And each law
# needs a bug that it catches, or it may be asserting nothing. A violation, made small, looks so:

# %%
violation = broken(laws["lane shift"], encodings["squared"], small=True)
print(violation)
assert len(violation.sample.tokens) <= 4  # two lanes that see each other are enough

# %% [markdown]
# ## Exercises
#
# **1.** A mask with an off-by-one: other lanes' keys are visible one step too early. Which law?
#
# **2.** Omega = 0 passes all four laws above, but it does not tell lanes apart. Write the missing
# test: exchanging two lanes must change the logits.

# %% [markdown]
# ### Solution 1
# Causality. It allows no difference at all: a later token may not change a single bit.


# %%
class Early(LaneMask):
    def visible(self, i, m, j, n):
        soon = super().visible(i + 1, m, j, n) & (m[:, None] != n[None, :])
        return super().visible(i, m, j, n) | soon


def causality(model, f, sample, kind=LaneMask):
    f = bound(model, sample.with_mask(kind(sample.mask.visibility, sample.mask.lag)))
    testing.assert_causality(f, sample, row=sample.tokens.sum() % len(sample.tokens))


assert broken(causality, ring) is None
assert broken(lambda *given: causality(*given, kind=Early), ring) is not None

# %% [markdown]
# ### Solution 2
# State the opposite as a law, and require that it breaks: lanes that all see each other are
# anonymous, so renaming them renames the logits. True with Omega = 0; a good encoding breaks it.


# %%
def anonymous(model, f, sample):
    n, (tokens, positions, lanes) = sample.mask.n, sample.rows
    f = bound(model, sample.with_mask(LaneMask.joint(n)))
    renamed = np.where(lanes == SHARED, SHARED, n - 1 - lanes)
    testing.assert_equal("anonymous", f(tokens, positions, renamed), f(*sample.rows), sample)


none = LaneRoPE.none
assert not any(broken(law, none) for law in [*laws.values(), anonymous])
assert broken(anonymous, ring) is not None
