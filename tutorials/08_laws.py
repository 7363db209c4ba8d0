# %% [markdown]
# # 8. The laws: test an encoding of your own
#
# You change something: another angle, another mask, another way to place lanes. Does it still do
# what it must? One example proves little. A **law** is a sentence about all inputs: "adding 7 to
# every position changes no logits". This page takes an encoding that you write (a function that
# turns one vector, as on pages 2 and 6), puts it into a decoder, and tests the decoder by laws.
# `tinylane.testing` has twenty-five; here are four of them.

# %%
import numpy as np
from hypothesis import Phase, given, settings

from tinylane import SHARED, LaneMask, learn, plot, testing
from tinylane.testing.checks import bound, plain  # a decoder with a sample's lanes; with none
from tinylane.testing.samples import example_case
from tinylane.testing.strategies import cases

# %% [markdown]
# ## An encoding: lanes on a ring
#
# Let five lanes stand in a circle, so that the last is next to the first: each lane is turned by a
# fifth of a circle more, in every plane. Positions turn as in RoPE.


# %%
def turn(x, angle):
    """x (D,), plane d turned by angle[d]."""
    a, b = np.split(x, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin])


def ring(x, i, m, theta):
    """x (D,), a query or key at position i in the lane of index m; theta (D/2,)."""
    return turn(x, theta * i + 2 * np.pi / 5 * m)


# %% [markdown]
# ## A decoder with your encoding
#
# `learn.with_turn` takes a decoder and calls your function for every query and key, where it would
# use its own rotation. What comes out is a function of tokens and their coordinates. `example_case`
# draws a small decoder with random weights, and rows of some lanes. Now a law is one line.

# %%
case = example_case(6, kinds=("default",))  # from seed 6; RoPE as on page 2
model, sample = case.model(), case.sample  # float64
tokens, positions, lanes = sample.rows
print("positions", positions, "\nlanes    ", lanes, " (-1: the shared prompt)")

f = learn.with_turn(model, lambda x, i, m: ring(x, i, m, model.theta), sample.mask)
logits = f(tokens, positions, lanes)
assert np.allclose(f(tokens, positions + 7, lanes), logits)  # the law "token shift", once

# %% [markdown]
# ## Three mistakes
#
# All look harmless.


# %%
def squared(x, i, m, theta):
    """Spreads the lanes out."""
    return turn(x, theta * i + 2 * np.pi / 5 * m * m)


def faster(x, i, m, theta):
    """Gives each lane its own speed."""
    return turn(x, theta * i * (m + 1))


def neighbours(x, i, m, theta):
    """Pairs channel 0 with 1, 2 with 3, as the RoPE paper does."""
    order = np.concatenate([np.arange(0, len(x), 2), np.arange(1, len(x), 2)])
    turned = np.empty(len(x))
    turned[order] = ring(x[order], i, m, theta)
    return turned


encodings = {f.__name__: f for f in (ring, squared, faster, neighbours)}

# %% [markdown]
# ## Let the computer look for a counterexample
#
# Four laws, each an `assert_...` function of `tinylane.testing`. It takes the function f and a
# sample, and raises an error if the law does not hold.
#
# - token shift: adding c to every position changes no logits;
# - lane shift: adding c to every lane index changes no logits;
# - one lane: a single lane is the unmodified model (so trained weights still mean the same);
# - shared prompt: the prompt that all share equals a copy for each lane.
#
# `cases()` draws decoders, masks and rows: lanes of different lengths, that start late or are
# forked, with a prompt or without. Hypothesis tries many, and makes a failing one small.

# %%
laws = {
    "token shift": lambda f, model, sample: testing.assert_token_shift(f, sample, 7),
    "lane shift": lambda f, model, sample: testing.assert_lane_shift(f, sample, 1),
    "one lane": lambda f, model, sample: testing.assert_one_lane(f, plain(model), sample),
    "shared prompt": lambda f, model, sample: testing.assert_shared_prompt(f, sample),
}


def counterexample(law, decoder_of, small=False):
    """What breaks a law (made small, if asked: that takes longer), or None.

    law(f, model, sample) raises; decoder_of(model, sample) -> f.
    """
    phases = [Phase.generate, Phase.shrink] if small else [Phase.generate]

    @settings(max_examples=40, phases=phases, deadline=None, database=None, derandomize=True)
    @given(cases(kinds=("default",)))
    def holds(case):
        model, sample = case.model(), case.sample
        law(decoder_of(model, sample), model, sample)

    try:
        holds()
    except testing.LawViolation as violation:
        return violation
    return None


def encoded(encoding):
    """encoding(x, i, m, theta) -> a function that puts it into a decoder."""

    def decoder_of(model, sample):
        return learn.with_turn(model, lambda *at: encoding(*at, model.theta), sample.mask)

    return decoder_of


caught = [
    [counterexample(law, encoded(encoding)) is not None for law in laws.values()]
    for encoding in encodings.values()
]
names = ("encoding", "law", "broken (1) or kept (blank)")
figure = plot.attention(caught, list(encodings), list(laws), "Which law catches which", names)
see = "A 1 is a law that the encoding breaks. The ring breaks none; no law catches all mistakes."
plot.show(figure, "08-caught", caption=see)

assert caught[0] == [False, False, False, False]  # the ring keeps every law
assert caught[1] == [False, True, False, False]  # squared: more than a difference of lanes
assert caught[2][0]  # faster: even positions do not count by difference
assert caught[3] == [False, False, True, False]  # neighbours: consistent, but another model

# %% [markdown]
# Each law misses some mistakes, so you need several. And each law needs a mistake that it catches,
# or it may be asserting nothing. A counterexample, made small, looks so: how far off the worst row
# was, and the rows.

# %%
violation = counterexample(laws["lane shift"], encoded(squared), small=True)
print(violation.report)
for token, i, m in zip(*violation.sample.rows, strict=True):
    print(f"token {token} at position {i}", "in the prompt" if m == SHARED else f"in lane {m + 1}")
assert len(violation.sample.tokens) <= 4  # two lanes that see each other are enough

# %% [markdown]
# ## A law that must break
#
# No turn by lanes at all keeps all four laws. But it does not tell lanes apart. So state the
# opposite as a law, and require that it breaks: "lanes that all see each other are anonymous:
# renaming them renames the logits".


# %%
def no_turn(x, i, m, theta):
    return turn(x, theta * i)


def anonymous(f, model, sample):
    n, (tokens, positions, lanes) = sample.mask.n, sample.rows
    renamed = np.where(lanes == SHARED, SHARED, n - 1 - lanes)
    joint = LaneMask.joint(n)
    got, expected = f(tokens, positions, renamed, lane_mask=joint), f(*sample.rows, lane_mask=joint)
    testing.assert_equal("anonymous", got, expected, sample)


assert counterexample(anonymous, encoded(no_turn)) is None
assert counterexample(anonymous, encoded(ring)) is not None

# %% [markdown]
# ## A mask has laws too
#
# Here is a mask with an off-by-one: other lanes' keys are visible one step too early. Causality
# notices: a later token may not change a single bit of what is earlier.


# %%
class Early(LaneMask):
    def visible(self, positions, lanes, key_positions, key_lanes):
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        soon = super().visible(positions + 1, lanes, key_positions, key_lanes)
        return seen | (soon & (lanes[:, None] != key_lanes[None, :]))


def causality(f, model, sample):
    testing.assert_causality(f, sample, row=sample.tokens.sum() % len(sample.tokens))


def with_early(model, sample):
    return bound(model, sample.with_mask(Early(sample.mask.visibility, sample.mask.lag)))


assert counterexample(causality, bound) is None
assert counterexample(causality, with_early) is not None

# %% [markdown]
# ## Exercises
#
# **08.1** Your own encoding: any that keeps the four laws and tells lanes apart. Begin with your
# function of page 2 (exercise 02.1), and find a place for the lane.


# %%
def my_encoding(x, i, m, theta):
    """x (D,) at position i in the lane of index m; theta (D/2,) -> (D,)."""
    ...


print(learn.check("08.1", my_encoding))

# %% [markdown]
# **08.2** Write causality yourself, as a function that says True or False. It is tried on decoders
# that keep it, and on a planted bug that it must notice.


# %%
def my_causality(f, sample):
    """f(tokens, positions, lanes) -> logits (T, V); sample.rows, sample.mask.lag, sample.vocab."""
    ...


print(learn.check("08.2", my_causality))

# %% [markdown]
# ## What next?
#
# [How to check an encoding](../how-to/encoding.md) does the same for code outside of tinylane, in
# any library. [The method](../method.md) has all laws with their numbers. [Page
# 9](09_checkpoint.md) goes to a real language model.
