# %% [markdown]
# # Solutions of page 7

# %%
from tinylane import learn

# %% [markdown]
# ## Solution 07.1
# `then` says for each place from which place it takes. Take it from `first`.


# %%
def compose(first, then):
    return "".join(first["ABCD".index(place)] for place in then)


print(learn.check("07.1", compose))

# %% [markdown]
# ## Solution 07.2
# The lane's own share first. Then in rounds: a group of `width` lanes has one product; the group to
# the left of its pair comes first.


# %%
def lane_words(cups, swaps, m, n):
    share = len(swaps) // n

    def follow(lane):
        words, now = [], list(cups)
        for swap in swaps[lane * share : (lane + 1) * share]:
            i, j = (int(place) - 1 for place in swap.split("-"))
            now[i], now[j] = now[j], now[i]
            words.append("".join(now))
        return words

    written = [follow(lane) for lane in range(n)]
    width = 1
    while width < n:
        left = [lane // (2 * width) * 2 * width for lane in range(n)]
        new = [compose(written[at][-1], written[at + width][-1]) for at in left]
        for lane in range(n):
            written[lane].append(new[lane])
        width *= 2
    return written[m]


print(learn.check("07.2", lane_words))
