# %% [markdown]
# # Solutions of page 5

# %%
import numpy as np

from tinylane import SHARED, learn

# %% [markdown]
# ## Solution 05.1
# The three sentences. A shared query sees no lane, whatever `visibility` says.


# %%
def my_sees(i, m, j, n, visibility, lag):
    if n in (SHARED, m):
        return j <= i
    return m != SHARED and visibility[m, n] and j <= i - lag


print(learn.check("05.1", my_sees))

# %% [markdown]
# ## Solution 05.2
# Go one step further as often as there are lanes: what can be reached, can be reached in so many.


# %%
def my_reaches(visibility):
    one_step = visibility | np.eye(len(visibility), dtype=bool)
    return np.linalg.matrix_power(one_step.astype(int), len(visibility)) > 0


print(learn.check("05.2", my_reaches))
