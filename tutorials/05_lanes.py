# %% [markdown]
# # 5. Lanes: coordinates, masks, what leaks and what cannot
#
# So far there was one writer. Now N writers work at the same time, each on its own continuation of
# one prompt: N **lanes**. They may read each other while they write. The decoder does not change.
# Each token gets a second coordinate, and the mask uses it.
#
# In words and pictures lanes are numbered 1 to N. Code and formulas count from 0, as Python does,
# and call that number the lane's *index*: lane 1 has the index 0.

# %%
import numpy as np

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, learn, plot
from tinylane.core.config import ModelConfig
from tinylane.testing.samples import random_weights

# %% [markdown]
# ## Coordinates
#
# A token stands at `(position, lane index)`. The position is a clock that all lanes share: each
# step gives every lane one token, all at the same position. Prompt tokens that all lanes share have
# the lane `SHARED`. Here: a prompt of 3, then 3 steps of 3 lanes, in the order of arrival.

# %%
P, N, steps = 3, 3, 3
positions = np.concatenate([np.arange(P), np.repeat(P + np.arange(steps), N)])
lanes = np.concatenate([np.full(P, SHARED), np.tile(np.arange(N), steps)])
T = len(positions)
assert positions.tolist() == [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]

# %% [markdown]
# ## Who sees whom
#
# A query at (i, m) sees a key at (j, n) if and only if
#
# - the key is shared, and j <= i; or
# - it is in the query's own lane, n == m, and j <= i; or
# - it is in another lane, `visibility[m, n]` is true, and j <= i - `lag`.
#
# Shared queries see shared keys only: the prompt does not depend on the lanes. These three
# sentences as a loop:


# %%
def sees(i, m, j, n, visibility, lag):
    if n in (SHARED, m):
        return j <= i
    return m != SHARED and visibility[m, n] and j <= i - lag


def by_hand(visibility, lag):
    rows = list(zip(positions, lanes, strict=True))
    return np.array([[sees(i, m, j, n, visibility, lag) for j, n in rows] for i, m in rows])


one_way = np.tri(N, dtype=bool)  # lane m reads the lanes before it
for visibility in (np.eye(N, dtype=bool), np.ones((N, N), dtype=bool), one_way):
    for lag in (0, 1, 2):
        theirs = LaneMask(visibility, lag).visible(positions, lanes, positions, lanes)
        assert np.array_equal(theirs, by_hand(visibility, lag))

figure = plot.mask(LaneMask.joint(N), positions, lanes, title="joint, lag 0")
see = (
    "Triangles are other lanes. At one position all three lanes see one another: blocks of 3 by 3."
)
plot.show(figure, "05-joint", caption=see)
figure = plot.mask(LaneMask.joint(N, lag=1), positions, lanes, title="joint, lag 1")
see = "One step late: the triangles within a block are gone, those of earlier steps stay."
plot.show(figure, "05-late", caption=see)
figure = plot.mask(LaneMask(one_way), positions, lanes, title="one way, lag 0")
see = (
    "Lane 3 (rows 3,3 4,3 5,3) reads lanes 1 and 2. Lane 1 reads nobody: its rows have no triangle."
)
plot.show(figure, "05-one-way", caption=see)

# %% [markdown]
# With `lag=0` a lane sees the tokens at its own position in other lanes. Does the future leak? No:
# the tokens fed in this step were sampled in the step before, so they are known to all lanes. What
# will be sampled *from* this step is not known to any lane yet.
#
# ## What leaks
#
# Take a small decoder with random weights, change the tokens of one lane, and see which logits
# change. With `one_way` lane 3 reads lane 1, and lane 1 never reads lane 3. "Never" is exact: not
# one bit changes.

# %%
config = ModelConfig(vocab=11, layers=2)
params = {name: w.astype(np.float64) for name, w in random_weights(config, seed=0).items()}
model = tinylane.Model(config, params, dtype="float64")
tokens = np.random.default_rng(2).integers(config.vocab, size=T)
rope = LaneRoPE.none(model.theta)  # the lanes' own rotation: the next page


def moved(changed, mask):
    """Which rows' logits change at all when the tokens of the rows `changed` do."""
    other = np.where(changed, (tokens + 1) % config.vocab, tokens)
    before, after = (model(t, positions, lanes, rope, mask) for t in (tokens, other))
    return (before != after).any(axis=1)


by_the_last = moved(lanes == 2, LaneMask(one_way))  # index 2: lane 3
by_the_first = moved(lanes == 0, LaneMask(one_way))
assert set(lanes[by_the_last]) == {2}
assert set(lanes[by_the_first]) == {0, 1, 2}
assert not moved(lanes == 2, LaneMask.joint(N))[:P].any()  # the prompt reads no lane

# %% [markdown]
# ## What leaks by way of others
#
# In a chain, lane 1 reads lane 2 and lane 2 reads lane 3. Lane 1 does not see lane 3's keys, but it
# is still influenced by them: in the second layer lane 2's rows carry what they read in the first.
# What counts is which lanes can be *reached*: the transitive closure of `visibility`.

# %%
chain = LaneMask(np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]]))
assert not chain.visibility[0, 2] and chain.reaches()[0, 2]
assert set(lanes[moved(lanes == 2, chain)]) == {0, 1, 2}

# %% [markdown]
# ## How late?
#
# Change one token of lane 2 at the first step, and find the first position in lane 1 that notices.
# It is exactly `lag` steps later. In its own lane the change arrives at once.

# %%
first = (lanes == 1) & (positions == P)
for lag in (0, 1, 2):
    hit = moved(first, LaneMask.joint(N, lag))
    assert positions[hit & (lanes == 1)].min() == P
    assert positions[hit & (lanes == 0)].min() == P + lag

# %% [markdown]
# ## Twins
#
# Two lanes that read each other, the same prompt, the same first token: can they ever write
# different things, if each takes its likeliest token? No. Both see the same, so their logits are
# the same. To share work, a lane must know which lane it is. A tag as the first token helps. To
# know *which lane* wrote what it reads, it needs the second rotation of the next page.

# %%
twins = tokens[positions]  # the same word at the same position in every lane
logits = model(twins, positions, lanes, rope, LaneMask.joint(N))
assert np.allclose(logits[lanes == 0], logits[lanes == 1])
settings = {"lane_mask": LaneMask.joint(2), "lane_rope": rope, "max_tokens": 8}
greedy = tinylane.Sampler(temperature=0)
written = tinylane.generate(model, tokens[:P], lanes=2, sampler=greedy, **settings).lanes
assert written[0].tokens == written[1].tokens

# %% [markdown]
# ## Exercises
#
# **05.1** Write `sees` yourself, without looking. `m` and `n` are lane indices, or `SHARED` (-1).


# %%
def my_sees(i, m, j, n, visibility, lag):
    """May the query at (i, m) see the key at (j, n)? -> True or False."""
    ...


print(learn.check("05.1", my_sees))

# %% [markdown]
# **05.2** Which lane can influence which, also by way of others?


# %%
def my_reaches(visibility):
    """visibility (N, N): m reads n -> (N, N): n can influence m (every lane influences itself)."""
    ...


print(learn.check("05.2", my_reaches))

# %% [markdown]
# ## What next?
#
# Lanes that read each other cannot tell yet who wrote what. [Page 6](06_lanerope.md) turns each
# lane by an angle of its own.
