# %% [markdown]
# # 1. Attention is a weighted average
#
# A transformer has one place where a token learns something about another token: attention. It is
# an average of vectors, and the vectors themselves decide the weights. This page builds it in four
# lines of NumPy. Positions, lanes and caches come later, one at a time.
#
# You need: matrix products, and a little NumPy. `pip install -e '.[learn]'` in a checkout brings
# all that the pages need. Every claim below is an `assert`: the page would not be here if one
# failed.

# %%
import numpy as np

from tinylane import learn, plot
from tinylane.core.decoder import attention as tinylane_attention

words = ["the", "cup", "on", "the", "left", "moved"]
T, D = len(words), 8  # rows (tokens), channels
rng = np.random.default_rng(5)
queries, keys, values = rng.standard_normal((3, T, D))

# %% [markdown]
# ## Weights
#
# Each token has three vectors. Its **query** says what it looks for, its **key** says what it can
# be found by, its **value** is what it passes on. How much token t attends to token s depends on
# the product of t's query with s's key: the **score**. A softmax turns a row of scores into
# weights: positive, with the sum 1. First the scores are divided by sqrt(D). A sum of D random
# products has a spread of sqrt(D); without the division a long query would attend to almost one key
# only.


# %%
def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))  # minus the largest: exp cannot overflow
    return x / x.sum(axis=-1, keepdims=True)


scores = queries @ keys.T / np.sqrt(D)  # (T, T): row t, column s
weights = softmax(scores)
mixed = weights @ values  # (T, D)

assert (weights > 0).all() and np.allclose(weights.sum(axis=1), 1)
wide = np.sum(rng.standard_normal((2, 100, 100, 256)).prod(axis=0), axis=-1)  # 100 x 100 scores
assert np.isclose(wide.std(), np.sqrt(256), rtol=0.05)
assert softmax(wide).max(axis=1).mean() > 0.8 and softmax(wide / 16).max(axis=1).mean() < 0.1
for t in range(T):  # the matrix product is the weighted average, written out
    assert np.allclose(mixed[t], sum(weights[t, s] * values[s] for s in range(T)))

# %% [markdown]
# An average stays between the values that it averages, and their order does not matter: attention
# alone sees a *bag* of words. The next tutorial adds the order.

# %%
assert (mixed <= values.max(axis=0) + 1e-12).all() and (mixed >= values.min(axis=0) - 1e-12).all()
order = rng.permutation(T)
shuffled = softmax(queries @ keys[order].T / np.sqrt(D)) @ values[order]
assert np.allclose(shuffled, mixed)

# %% [markdown]
# ## Which keys may be seen
#
# A model that writes from left to right must not read what is not written yet. A **mask** says
# which keys a query may see, here those up to its own place. A hidden key gets the score minus
# infinity, which the softmax turns into the weight 0: not a small weight, but zero. The first token
# sees only itself.

# %%
visible = np.arange(T)[:, None] >= np.arange(T)[None, :]  # (T, T)
causal = softmax(np.where(visible, scores, -np.inf))

assert (causal[~visible] == 0).all()
assert causal[0, 0] == 1
louder = values.copy()
louder[-1] += 1000  # the last word changes,
assert np.array_equal((causal @ louder)[:-1], (causal @ values)[:-1])  # no word before it does

names = [f"{word} {t}" for t, word in enumerate(words)]
figure = plot.attention(causal, names, names, "Causal attention")
see = (
    "Each row is a query and sums to 1. Nothing stands right of the diagonal: no word reads ahead."
)
plot.show(figure, "01-causal", caption=see)

# %% [markdown]
# ## The same from tinylane
#
# tinylane's decoder has this function for several **heads** at once: each head has its own queries
# and makes its own average. There may be fewer heads of keys than of queries (2 and 4 here). Then
# two heads of queries share one head of keys: "grouped" attention, with half the keys and values to
# keep.

# %%
H, K = 4, 2
many_q = rng.standard_normal((H, T, D))
many_k, many_v = rng.standard_normal((2, K, T, D))

by_hand = []
for h in range(H):
    k, v = many_k[h // (H // K)], many_v[h // (H // K)]
    by_hand.append(softmax(np.where(visible, many_q[h] @ k.T / np.sqrt(D), -np.inf)) @ v)

# One set of queries; with lanes (page 6) there may be two, and a place where the keys are split.
theirs = tinylane_attention((many_q,), many_k, many_v, visible, None)
assert np.allclose(theirs, by_hand)
print(f"attention by hand equals tinylane's, error {np.abs(theirs - by_hand).max():.1e}")

# %% [markdown]
# ## How sharp is the choice?
#
# The size of the queries decides. With queries of 0 every score is 0, and all keys get the same
# weight. With very large ones a single key gets all: the softmax becomes a choice.

# %%
assert np.allclose(softmax(0 * scores), 1 / T)
sharp = softmax(100 * scores)
assert (sharp.max(axis=1) > 0.999).all()
assert np.array_equal(sharp.argmax(axis=1), scores.argmax(axis=1))

# %% [markdown]
# ## Exercises
#
# Replace `...` by your code and run the cell. `learn.check` tries your function on random inputs.
# It says right, or shows the smallest input that it gets wrong. The solutions are folded on the
# site, and in `tutorials/solutions`.
#
# **01.1** Masked attention of one head, as a function. Large scores must not overflow.


# %%
def attention(q, k, v, visible):
    """q (T, D); k, v (S, D); visible (T, S) booleans -> (T, D)."""
    ...


print(learn.check("01.1", attention))

# %% [markdown]
# **01.2** Grouped attention: H heads of queries share K heads of keys and values.


# %%
def grouped(q, k, v, visible):
    """q (H, T, D); k, v (K, S, D); visible (T, S) -> (H, T, D)."""
    ...


print(learn.check("01.2", grouped))

# %% [markdown]
# ## What next?
#
# Attention sees a bag of words. [Page 2](02_rope.md) tells it where each word stands, by turning
# queries and keys. If you know attention already, begin there: pages 2, 5, 6 and 7 are the short
# way to lanes.
