# %% [markdown]
# # 6. LaneRoPE: a second axis
#
# RoPE turns a vector by theta per position. LaneRoPE (arXiv:2605.27570) turns it further, by
# **Omega** per lane, in the same planes. Two turns, one after the other, are one turn by the sum.
# So a score depends on two differences: of position and of lane. A query can look for "three back,
# one lane over", and Omega can be learned.

# %%
import numpy as np

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, learn, plot
from tinylane.commands.common import embedded
from tinylane.core.config import ModelConfig
from tinylane.core.rope import RopeConfig, frequencies, rotate, table
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.testing import Sample, assert_group_think
from tinylane.testing.checks import plain  # a decoder that knows no lanes
from tinylane.testing.samples import random_weights
from tinylane.view.attention import difference_scores

D, N = 64, 4  # channels, lanes
theta, _ = frequencies(RopeConfig(), D)
rng = np.random.default_rng(0)
q, k = rng.standard_normal((2, D))

# %% [markdown]
# ## One vector, turned twice
#
# Here is one plane of one vector. A step to the right is the next position, a step up the next
# lane. Both only turn it.

# %%
figure = learn.turned_vector(theta=0.5, omega=1.5)
see = (
    "Along a row the arrow turns by 0.5 radians at each step, along a column by 1.5. Two arrows "
    "that point the same way cannot be told apart in this plane; other planes turn at other speeds."
)
plot.show(figure, "06-turned", caption=see)

# %% [markdown]
# ## By hand, and from tinylane
#
# It is page 2's function with another angle: theta * i + Omega * m, where m is the lane's index.


# %%
def turned(x, i, m, omega):
    """x (D,) at position i in the lane of index m."""
    angle = theta * i + omega * m
    a, b = x[: D // 2], x[D // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin])


omega = rng.uniform(-3, 3, D // 2)  # any numbers
lane_rope = LaneRoPE(omega)
for (i, m), (j, n) in [((7, 0), (3, 2)), ((9, 3), (9, 1)), ((5, 1), (4, 1))]:
    score = turned(q, i, m, omega) @ turned(k, j, n, omega)

    shifted = turned(q, i + 50, m + 2, omega) @ turned(k, j + 50, n + 2, omega)
    assert np.isclose(shifted, score)  # only the two differences matter

    angles = np.array([[i], [j]]) * theta + lane_rope.angles(np.array([m, n]), layer=0)
    Q, K = rotate(np.stack([q, k]), *table(angles, dtype=np.float64))
    assert np.isclose(Q @ K, score)  # the same from tinylane
    assert np.isclose(difference_scores(q, k, theta, omega, [j - i], [n - m])[0, 0], score)

swapped = turned(q, 5, 1, omega) @ turned(k, 3, 0, omega)
assert not np.isclose(swapped, turned(q, 5, 0, omega) @ turned(k, 3, 1, omega))  # direction counts

ntk = LaneRoPE.ntk(theta, slot=16, scale=N)
figure = plot.scores(np.ones(D), np.ones(D), theta, ntk.omega, range(-64, 65), range(-3, 4))
see = (
    "Each row is a difference of lane. The ridge of high scores moves by about 16 positions per "
    "lane: with this Omega, one lane further is much like 16 positions ahead."
)
plot.show(figure, "06-scores", caption=see)

# %% [markdown]
# The prompt has no lane: by default (`prompt_lane="own"`) every lane sees it at lane difference 0.
#
# Some Omegas make all lanes the same: 0, and every whole number of full turns, because a lane's
# index is a whole number.

# %%
for same in (np.zeros(D // 2), 2 * np.pi * rng.integers(-3, 4, D // 2)):
    assert np.allclose(np.ptp(difference_scores(q, k, theta, same, [-5], range(-3, 4))), 0)

# %% [markdown]
# ## Group Think is a special case
#
# Let Omega be `slot * theta`. Then theta * i + Omega * m is theta * (i + m * slot): a lane's token
# stands where token i + m * slot of one long text would stand. With the prompt at the first lane
# this is Group Think (arXiv:2505.11107). The check runs a decoder with that Omega, and a decoder
# without lanes at those *virtual positions*: the logits are the same (law 11; laws are on page 8).

# %%
config = ModelConfig(vocab=11)
params = {name: w.astype(np.float64) for name, w in random_weights(config, seed=0).items()}
model = tinylane.Model(config, params, dtype="float64")
lanes = np.array([SHARED] * 3 + [0, 1, 2, 3] * 3)
positions = np.array([0, 1, 2] + [3] * 4 + [4] * 4 + [5] * 4)
tokens, mask = rng.integers(11, size=15), LaneMask.joint(N)
sample = Sample(tokens, positions, lanes, mask, LaneRoPE.none(model.theta), vocab=11)
with_mask = lambda *rows, **more: model(*rows, lane_mask=mask, **more)
print(assert_group_think(with_mask, plain(model), sample, model.theta, slot=32))

# %% [markdown]
# ## A key ahead of its query
#
# A lane's own past is behind it. A key of a *later* lane is ahead, by up to (N - 1) * slot
# positions. A model that writes from left to right has never seen that. Does it hurt?
#
# Page 9 measures it on a real language model that was not trained for lanes: how much its
# predictions change, in nats, when four lanes begin to read each other. Means of three prompts
# (with the prompt as a part of every lane):
#
# | slot | Group Think | NTK-aware (below) |
# |---|---|---|
# | 32 | 0.16 | 0.17 |
# | 128 | 0.22 | 0.12 |
# | 512 | 1.84 | 0.46 |
# | 2048 | 3.51 | 1.73 |
# | no turn (Omega = 0) | 1.48 | |
#
# So it depends on how far ahead. A small slot costs little; far ahead costs more than lanes that
# are not turned at all and read each other's words as their own.
#
# ## The NTK-aware start
#
# Why far? In training a fast plane has been at all angles many times. A slow plane has only seen a
# small arc, and a key far ahead is outside of it. So keep Group Think's turn in the fast planes,
# to tell lanes apart, and make it smaller towards the slow planes: Omega_d = slot * theta_d *
# scale^(-2d / (D - 2)), 1/scale of it in the slowest. The paper names such a start; these constants
# are our reading of it.

# %%
turns = theta * 511 / (2 * np.pi)  # full turns over a text of 512 words
print(f"turns in 512 words: {turns[0]:.0f} in the fastest plane, {turns[-1]:.3f} in the slowest")
assert turns[0] > 80 and turns[-1] < 0.02

group_think, ntk = LaneRoPE.group_think(theta, 32), LaneRoPE.ntk(theta, 32, N)
ratio = ntk.omega / group_think.omega
assert np.isclose(ratio[0], 1) and np.isclose(ratio[-1], 1 / N) and (np.diff(ratio) < 0).all()

# %% [markdown]
# ## What training makes of it
#
# The model inside started from 32 theta (Group Think with slot 32), and Omega was trained with the
# rest.

# %%
trained = tinylane.load(embedded(), backend="numpy")
start, learned = 32 * trained.theta, trained.lane_rope.omega
curves = {"theta (a position)": trained.theta, "start: 32 theta (a lane)": start}
curves |= {"learned (a lane)": np.abs(learned)}
see = (
    "Left, in the fast planes, the learned curve lies on its start. Right, in the slow planes, it "
    "rises far above it: 32 theta is nearly 0 there. Training turned lanes by up to 1.4 radians."
)
plot.show(plot.angles(curves), "06-omega", caption=see)
assert np.abs(learned - start)[:10].max() < 0.4 and np.abs(learned)[16:].max() > 1

# %% [markdown]
# It looks as if the slow planes did the work. Do they? Switch planes off (set their Omega to 0),
# and count the games in which every word of every lane is right.


# %%
def games_right(n, omega, count=20):
    """The share of games in which n lanes have the right word as the likeliest, everywhere."""
    game, right = ShellGame(), 0
    games, follows = game.rows(game.draw(count, np.random.default_rng(4)), n)
    positions, lanes = game.coordinates(n)
    for tokens, due in zip(games, follows, strict=True):
        logits = trained(tokens, positions, lanes, LaneRoPE(omega), LaneMask.joint(n))
        right += (logits[lanes != SHARED].argmax(axis=-1) == due).all()
    return right / count


plane = np.arange(32)
versions = {
    "learned, all planes": learned,
    "fast planes only (0 to 15)": np.where(plane < 16, learned, 0),
    "slow planes only (16 to 31)": np.where(plane >= 16, learned, 0),
    "the start, 32 theta": start,
    "planes 0 to 9 learned, else start": np.where(plane < 10, learned, start),
    "no turn": 0 * learned,
}
right = {name: [games_right(n, omega) for n in (2, 4, 8)] for name, omega in versions.items()}
for name, shares in right.items():
    print(
        f"{name:34}",
        *(f"{n} lanes {share:4.0%}  " for n, share in zip((2, 4, 8), shares, strict=True)),
    )
assert min(right["learned, all planes"]) > 0.9 and max(right["no turn"]) < 0.1
assert min(right["fast planes only (0 to 15)"][:2]) > 0.8
assert max(right["slow planes only (16 to 31)"]) < 0.1
assert right["planes 0 to 9 learned, else start"][1] > 0.8 > right["the start, 32 theta"][1] + 0.3

# %% [markdown]
# The fast planes tell the lanes apart. For 2 and 4 lanes they are nearly enough, the slow ones
# alone are nothing. Only with 8 lanes both are needed. And the start is not enough, but with the
# learned values in planes 0 to 9 four lanes can nearly do it: training moved these planes by at
# most 0.4 radians per lane. On a scale from 0.004 to 32 you cannot see that; over seven lanes it is
# nearly half a turn. A curve shows what is large, not what matters.
#
# ## Exercises
#
# **06.1** LaneRoPE of one vector.


# %%
def my_turned(x, i, m, theta, omega):
    """x (D,) at position i in the lane of index m; theta, omega (D/2,) -> (D,)."""
    ...


print(learn.check("06.1", my_turned))

# %% [markdown]
# **06.2** The Omega that makes Group Think. It is checked by law 11, in decoders with random
# weights.


# %%
def omega_of_group_think(theta, slot):
    """theta (D/2,) radians per position; slot: positions per lane -> (D/2,)."""
    ...


print(learn.check("06.2", omega_of_group_think))

# %% [markdown]
# ## What next?
#
# [Page 7](07_shell_game.md): four lanes use all this to share a task. In [the
# explorer](../explorer/index.md) you can change Omega and the mask yourself.
