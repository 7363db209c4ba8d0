# %% [markdown]
# # Solutions of page 2

# %%
import numpy as np

from tinylane import learn

# %% [markdown]
# ## Solution 02.1
# Plane d has the channels d and d + D/2. So all planes at once are the first half and the second.


# %%
def rope(x, i, theta):
    half = len(theta)
    a, b = x[:half], x[half:]
    cos, sin = np.cos(i * theta), np.sin(i * theta)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin])


print(learn.check("02.1", rope))

# %% [markdown]
# ## Solution 02.2
# Turn only the key, by the distance. Turning both by the same angle would change nothing.


# %%
def score_at(q, k, distance, theta):
    return q @ rope(k, distance, theta)


print(learn.check("02.2", score_at))
