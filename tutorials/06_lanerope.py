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
from tinylane import SHARED, LaneMask, LaneRoPE, plot
from tinylane.commands.common import embedded
from tinylane.core.config import ModelConfig
from tinylane.core.rope import RopeConfig, frequencies, rotate, table
from tinylane.testing import Sample, assert_group_think
from tinylane.testing.checks import plain  # a decoder that knows no lanes
from tinylane.testing.samples import random_weights
from tinylane.view.attention import difference_scores

D, N, slot = 64, 4, 128  # channels, lanes; the slot is explained below
theta, _ = frequencies(RopeConfig(), D)
rng = np.random.default_rng(0)
q, k = rng.standard_normal((2, D))

# %% [markdown]
# ## By hand, and from tinylane
#
# A plane is one complex number: channel d plus i times channel d + D/2. A turn is a product.


# %%
def turned(x, i, m, omega):
    x = x[: D // 2] + 1j * x[D // 2 :]
    return x * np.exp(1j * (theta * i + omega * m))


def score(a, b):
    return (a.conj() * b).sum().real


omega = rng.uniform(-3, 3, D // 2)  # any numbers
lane_rope = LaneRoPE(omega)
for (i, m), (j, n) in [((7, 0), (3, 2)), ((9, 3), (9, 1)), ((5, 1), (4, 1))]:
    ours = score(turned(q, i, m, omega), turned(k, j, n, omega))
    shifted = score(turned(q, i + 50, m + 2, omega), turned(k, j + 50, n + 2, omega))
    angles = np.array([[i], [j]]) * theta + lane_rope.angles(np.array([m, n]), layer=0)
    Q, K = rotate(np.stack([q, k]), *table(angles, dtype=np.float64))
    assert np.allclose([shifted, Q @ K], ours)
    assert np.isclose(difference_scores(q, k, theta, omega, [j - i], [n - m])[0, 0], ours)

ntk = LaneRoPE.ntk(theta, slot=16, scale=N)
figure = plot.scores(np.ones(D), np.ones(D), theta, ntk.omega, range(-64, 65), range(-3, 4))
plot.show(figure, "06-scores")

# %% [markdown]
# The ridge shows: with this Omega, one lane further is much like `slot` = 16 positions ahead. The
# prompt has no lane: by default (`prompt_lane="own"`) every lane sees it at lane difference 0.
#
# ## Group Think is a special case
#
# Let Omega be `slot * theta`. Then theta * i + Omega * m is theta * (i + m * slot): lane m's token
# i stands where token i + m * slot of one long text would stand. With the prompt at lane 0 this is
# Group Think (arXiv:2505.11107). The check runs a decoder with that Omega, and a decoder without
# lanes at the virtual positions: the logits are the same (law 11; laws are in tutorial 8).

# %%
config = ModelConfig(vocab=11)
params = {name: w.astype(np.float64) for name, w in random_weights(config, seed=0).items()}
model = tinylane.Model(config, params, dtype="float64")
lanes = np.array([SHARED] * 3 + [0, 1, 2, 3] * 3)
positions = np.array([0, 1, 2] + [3] * 4 + [4] * 4 + [5] * 4)
tokens, mask = rng.integers(11, size=15), LaneMask.joint(N)
sample = Sample(tokens, positions, lanes, mask, LaneRoPE.none(model.theta), vocab=11)
f = lambda *rows, **more: model(*rows, lane_mask=mask, **more)
print(assert_group_think(f, plain(model), sample, model.theta, slot))

# %% [markdown]
# ## Why far negative distances hurt
#
# A lane's own past is behind it. A key of a *higher* lane is ahead: its virtual distance is `(j-i)
# + (n-m)*slot`, up to `(N-1)*slot`. A model that writes from left to right has never seen a key
# ahead of its query, and a score that was learned on some distances can be anything on others. A
# small example: fit the D numbers of a score (a cosine and a sine per plane) to "nearer is larger"
# on 512 distances behind. Ahead the score keeps rising, and is larger than all scores behind.

# %%
seen = -np.arange(512)
waves = lambda angle: np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
fit = np.linalg.lstsq(waves(seen[:, None] * theta), np.exp(seen / 64), rcond=None)[0]

behind = waves(seen[:, None] * theta) @ fit
ahead = np.arange(1, (N - 1) * slot + 1)
group_think = waves(ahead[:, None] * theta) @ fit
assert np.abs(behind).max() < 1.1 and np.abs(group_think).max() > 100
where = np.arange(-511, 101)
near = {"learned on the left, not on the right": waves(where[:, None] * theta) @ fit}
title = "A score fitted to keys behind, and keys ahead"
plot.show(plot.lines(near, where, "virtual distance", "score", title), "06-ahead")

# %% [markdown]
# ## The NTK-aware start
#
# The problem is in the slow planes. In training a fast plane has been at all angles many times. A
# slow plane has seen only a small arc, and a key far ahead is outside of it. So keep Group Think's
# turn in the fast planes, to tell lanes apart, and make it smaller towards the slow planes:
# Omega_d = slot * theta_d * scale^(-2d / (D - 2)), 1/scale of it in the slowest. The paper names
# such a start; these constants are our reading of it. It reduces the harm; training does the rest.

# %%
assert theta[0] * 511 > 80 * 2 * np.pi and theta[-1] * 511 < 0.1  # rounds; a small arc
starts = {"Group Think": LaneRoPE.group_think(theta, slot), "NTK": LaneRoPE.ntk(theta, slot, N)}
ratio = starts["NTK"].omega / starts["Group Think"].omega
assert np.isclose(ratio[0], 1) and np.isclose(ratio[-1], 1 / N) and (np.diff(ratio) < 0).all()

worst = {}
for name, start in starts.items():  # all other lanes, at all seen distances
    apart = seen[:, None, None] * theta + np.arange(1, N)[:, None] * start.omega
    worst[name] = np.abs(waves(apart) @ fit).max()
print("worst score of a higher lane's key:", {name: round(x) for name, x in worst.items()})
assert worst["NTK"] < worst["Group Think"] / 2

learned = tinylane.load(embedded(), backend="numpy")
curves = {"theta (a position)": theta, "learned (a lane)": learned.lane_rope.omega}
curves |= {f"{name} (a lane)": start.omega for name, start in starts.items()}
plot.show(plot.angles(curves), "06-omega")

# %% [markdown]
# ## Exercises
# **1.** Which Omegas make lanes indistinguishable? There is more than one.
#
# **2.** Relabel the lanes: all up by one, then 0 and 1 exchanged. Which may change a score?

# %% [markdown]
# ### Solution 1
# 0, and every whole number of full turns, because a lane index is a whole number.

# %%
for same in (np.zeros(D // 2), 2 * np.pi * rng.integers(-3, 4, D // 2)):
    assert np.allclose(np.ptp(difference_scores(q, k, theta, same, [-5], range(-3, 4))), 0)

# %% [markdown]
# ### Solution 2
# Moving all lanes changes no difference. An exchange reverses "one lane over".

# %%
at = lambda m, n: score(turned(q, 5, m, omega), turned(k, 3, n, omega))
assert np.isclose(at(0, 1), at(1, 2)) and not np.isclose(at(0, 1), at(1, 0))
