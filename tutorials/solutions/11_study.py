# %% [markdown]
# # Solutions of page 11

# %%
from math import comb, sqrt

from tinylane import learn

# %% [markdown]
# ## Solution 11.1
# The values p for which k is within 1.96 standard deviations of n p: both ends solve a quadratic
# equation.


# %%
def wilson(k, n, z=1.959964):
    middle = (k + z * z / 2) / (n + z * z)
    spread = z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return middle - spread, middle + spread


print(learn.check("11.1", wilson))

# %% [markdown]
# ## Solution 11.2
# Count how often each arrangement is reached. All swaps are equally likely.


# %%
def chance(cups, swaps):
    ways = {tuple(range(cups)): 1}
    for _ in range(swaps):
        after = {}
        for places, count in ways.items():
            for i in range(cups):
                for j in range(i):
                    moved = list(places)
                    moved[i], moved[j] = moved[j], moved[i]
                    after[tuple(moved)] = after.get(tuple(moved), 0) + count
        ways = after
    return max(ways.values()) / comb(cups, 2) ** swaps


print(learn.check("11.2", chance))
