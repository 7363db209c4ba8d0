# %% [markdown]
# # Solutions of page 6

# %%
import numpy as np

from tinylane import learn

# %% [markdown]
# ## Solution 06.1
# Page 2's function with another angle: two turns in one plane are one turn by the sum.


# %%
def turned(x, i, m, theta, omega):
    angle, half = theta * i + omega * m, len(theta)
    a, b = x[:half], x[half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin])


print(learn.check("06.1", turned))

# %% [markdown]
# ## Solution 06.2
# theta * i + Omega * m shall be theta * (i + m * slot). Adding full turns (2 pi) to any entry would
# be right as well.


# %%
def omega_of_group_think(theta, slot):
    return slot * theta


print(learn.check("06.2", omega_of_group_think))
