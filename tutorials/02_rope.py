# %% [markdown]
# # 2. RoPE: rotate two vectors, and only the difference matters
#
# Attention sees a bag of words. To tell it where each word stands, rotary position embedding (RoPE,
# arXiv:2104.09864) turns each query and each key by an angle that grows with its position. A
# product of two vectors does not change when both turn by the same angle. So the score depends only
# on the *difference* of the two positions.

# %%
import numpy as np

from tinylane import learn, plot
from tinylane.core.rope import RopeConfig, frequencies, rotate, table
from tinylane.view.attention import difference_scores

rng = np.random.default_rng(0)

# %% [markdown]
# ## One plane
#
# In two dimensions, turning by an angle is a 2 x 2 matrix. Turn the query by i and the key by j
# radians: their product is that of the unturned query and the key turned by j - i.


# %%
def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


q, k = rng.standard_normal((2, 2))
for i, j in [(0, 0), (3, 1), (103, 101), (5, 9)]:
    assert np.isclose((turn(i) @ q) @ (turn(j) @ k), q @ (turn(j - i) @ k))
assert np.isclose((turn(3) @ q) @ (turn(1) @ k), (turn(103) @ q) @ (turn(101) @ k))  # 2 apart

# %% [markdown]
# ## Many planes, many speeds
#
# One plane repeats itself after 2 pi positions. So a head of D channels is cut into D/2 planes, and
# plane d turns by theta[d] radians per position: 1 radian in the fastest plane, then slower and
# slower in equal ratios, like the hands of a clock. Fast planes tell neighbours apart. Slow planes
# tell roughly where in a long text a word is. Channel d is paired with channel d + D/2 (the
# "half-split" layout of Hugging Face weights; the paper pairs neighbours).

# %%
D, base = 8, 10000.0
theta = base ** (-2 * np.arange(D // 2) / D)
assert np.allclose(theta, [1, 0.1, 0.01, 0.001])


def rope(x, i):
    """x (D,) at position i."""
    out = np.empty(D)
    for d in range(D // 2):
        out[[d, d + D // 2]] = turn(theta[d] * i) @ x[[d, d + D // 2]]
    return out


q, k = rng.standard_normal((2, D))
figure = plot.turns({"at 0": q, "at 1": rope(q, 1), "at 10": rope(q, 10)}, "One query, turned")
see = "One vector at three positions. Plane 0 turns far, plane 3 hardly at all. No length changes."
plot.show(figure, "02-turns", caption=see)

assert np.isclose(rope(q, 7) @ rope(k, 3), rope(q, 1007) @ rope(k, 1003))
assert not np.isclose(rope(q, 7) @ rope(k, 3), rope(q, 7) @ rope(k, 4))  # another difference
assert np.isclose(np.linalg.norm(rope(q, 7)), np.linalg.norm(q))  # turning keeps the length

# %% [markdown]
# ## The same from tinylane
#
# `table` computes the cosines C and sines S of all rows at once, `rotate` applies them: x * C plus
# S times x with its halves exchanged (and one of them negated). `factor` is 1, unless YaRN extended
# a checkpoint to longer texts; that scales the scores a little. Angles are computed in float64 on
# the host; exercise 2 shows why.

# %%
theirs, factor = frequencies(RopeConfig(base=base), D)
assert np.allclose(theirs, theta) and factor == 1.0

positions = np.arange(50)
x = rng.standard_normal((50, D))
tables = table(positions[:, None] * theta, dtype=np.float64)
by_hand = np.array([rope(row, i) for row, i in zip(x, positions, strict=True)])
assert np.allclose(rotate(x, *tables), by_hand)

# %% [markdown]
# ## How a score depends on the distance
#
# Take a key that equals the query, and move it away. At difference 0 all planes agree. Further away
# the fast planes disagree with each other, and the score falls. With a real head (64 channels or
# more) a model can prefer near keys in this way. For two different vectors the sign matters too: a
# key 5 behind is not the same as a key 5 ahead.

# %%
long, _ = frequencies(RopeConfig(), 64)
away = np.arange(-200, 201)
same, other = np.ones(64), rng.standard_normal(64)
curves = {  # `0 * long` and `[0]`: no rotation by lanes yet (page 6)
    "key equals query": difference_scores(same, same, long, 0 * long, away, [0])[0],
    "a random key": difference_scores(same, other, long, 0 * long, away, [0])[0],
}
figure = plot.lines(curves, away, "key position - query position", "score", "Score by distance")
see = "A key like the query scores highest at distance 0. The other curve has two unlike sides."
plot.show(figure, "02-scores", caption=see)

alike, random = curves.values()
assert alike.argmax() == 200 and np.isclose(alike[200], 64)  # the middle: difference 0
assert alike[np.abs(away) > 20].max() < 0.7 * alike[200]
assert np.allclose(alike, alike[::-1]) and not np.allclose(random, random[::-1])

# %% [markdown]
# ## Full turns do not count
#
# Positions are whole numbers. So six more full turns per position change no score: an angular
# frequency is known only up to multiples of 2 pi (page 6 says the same of lanes).

# %%
before = rope(q, 7) @ rope(k, 3)
theta[0] += 12 * np.pi
assert np.isclose(rope(q, 7) @ rope(k, 3), before)
theta[0] += 1  # no full turn
assert not np.isclose(rope(q, 7) @ rope(k, 3), before)

# %% [markdown]
# ## Why float64
#
# The angle of a far position, computed in float32, is off by more than 0.001 radians, where a
# float32 cosine could be right to 0.0000001. So angles are computed in float64, and only their
# cosines and sines are rounded.

# %%
far = 131072
error = np.abs((np.float32(far) * long.astype(np.float32)).astype(np.float64) - far * long)
print(f"worst float32 angle at position {far}: off by {error.max():.1e} radians")
assert 1e-4 < error.max() < 1e-1
rounded = table(far * long[None, :])[0]  # float32 cosines of float64 angles
assert np.abs(rounded[0, :32] - np.cos(far * long)).max() < 1e-7

# %% [markdown]
# ## Exercises
#
# **02.1** RoPE of one vector, all planes at once, without a loop.


# %%
def my_rope(x, i, theta):
    """x (D,) at position i; theta (D/2,) radians per position -> (D,)."""
    ...


print(learn.check("02.1", my_rope))

# %% [markdown]
# **02.2** The score of a query and a key from their distance alone: how far the key stands after
# the query. No position is given.


# %%
def score_at(q, k, distance, theta):
    """q, k (D,) before any turn -> a number."""
    ...


print(learn.check("02.2", score_at))

# %% [markdown]
# ## What next?
#
# On the short way to lanes: [page 5](05_lanes.md), who sees whom. Otherwise [page 3](03_decoder.md)
# builds a whole decoder from attention and RoPE.
