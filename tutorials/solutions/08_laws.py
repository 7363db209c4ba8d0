# %% [markdown]
# # Solutions of page 8

# %%
import numpy as np

from tinylane import SHARED, learn

# %% [markdown]
# ## Solution 08.1
# One of many: the ring of this page for five lanes. The angle is a number for the position plus a
# number for the lane. That is what laws 1 and 2 ask for.


# %%
def encoding(x, i, m, theta):
    half = len(theta)
    angle = theta * i + 2 * np.pi / 5 * m
    a, b = x[:half], x[half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin])


print(learn.check("08.1", encoding))

# %% [markdown]
# ## Solution 08.2
# Change one token, then compare what stands before it, bit for bit. For another lane "before" is
# `lag` positions later. Every row is tried.


# %%
def causality(f, sample):
    tokens, positions, lanes = sample.rows
    before = np.asarray(f(*sample.rows))
    for row in range(len(tokens)):
        changed = tokens.copy()
        changed[row] = (changed[row] + 1) % sample.vocab
        after = np.asarray(f(changed, positions, lanes))
        j, n = positions[row], lanes[row]
        other = (lanes != n) & (n != SHARED)
        earlier = positions < j + np.where(other, sample.mask.lag, 0)
        if (after != before)[earlier].any():
            return False
    return True


print(learn.check("08.2", causality))
