# %% [markdown]
# # 1. Attention is a weighted average
#
# A transformer has one place where a token learns anything about another token: attention. It is
# an average of vectors, with weights that the vectors themselves decide. That is all of it, and
# this page builds it in four lines of NumPy. Positions, lanes and caches come later, one at a
# time.
#
# Run it with `python tutorials/01_attention.py` (`pip install -e '.[test]'` gives all that the
# tutorials need), or open it as a notebook (`jupytext --to notebook tutorials/01_attention.py`).
# Every claim below is an `assert`.

# %%
import numpy as np

from tinylane import plot
from tinylane.core.decoder import attention as tinylane_attention

words = ["the", "cup", "on", "the", "left", "moved"]
T, D = len(words), 8  # rows (tokens), channels
rng = np.random.default_rng(5)
queries, keys, values = rng.standard_normal((3, T, D))

# %% [markdown]
# ## Weights
#
# Each token has three vectors. Its **query** says what it looks for, its **key** what it can be
# found by, its **value** what it has to say. How much token t listens to token s depends on the
# product of t's query with s's key: the **score**. A softmax turns a row of scores into weights:
# positive, with the sum 1. The scores are divided by sqrt(D) first. A product of D random terms
# has a spread of sqrt(D), and without the division a long query would hear little but one key.


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
# An average stays within what it averages, and it does not care in which order it is given:
# attention as it stands sees a *bag* of words. Order enters in the next tutorial.

# %%
assert (mixed <= values.max(axis=0) + 1e-12).all() and (mixed >= values.min(axis=0) - 1e-12).all()
order = rng.permutation(T)
shuffled = softmax(queries @ keys[order].T / np.sqrt(D)) @ values[order]
assert np.allclose(shuffled, mixed)

# %% [markdown]
# ## Who may be listened to
#
# A model that writes from left to right must not read what is not written yet. A **mask** says
# which keys a query may see, here those up to its own place. A hidden key gets the score minus
# infinity, which the softmax turns into the weight 0. Not a small weight: zero. The first token
# sees only itself.

# %%
visible = np.arange(T)[:, None] >= np.arange(T)[None, :]  # (T, T)
causal = softmax(np.where(visible, scores, -np.inf))

assert (causal[~visible] == 0).all()
assert causal[0, 0] == 1
louder = values.copy()
louder[-1] += 1000  # whatever the last word says,
assert np.array_equal((causal @ louder)[:-1], (causal @ values)[:-1])  # nobody before it can hear

names = [f"{word} {t}" for t, word in enumerate(words)]
plot.show(plot.attention(causal, names, names, "Causal attention"), "01-causal")

# %% [markdown]
# ## The same from tinylane
#
# tinylane's decoder has this function, for several **heads** at once: each head has queries of its
# own and makes its own average. With fewer heads of keys than of queries (4 and 2 here), two heads
# of queries share one of keys: "grouped" attention, with half the keys and values to remember.

# %%
H, K = 4, 2
many_q = rng.standard_normal((H, T, D))
many_k, many_v = rng.standard_normal((2, K, T, D))

by_hand = []
for h in range(H):
    k, v = many_k[h // (H // K)], many_v[h // (H // K)]
    by_hand.append(softmax(np.where(visible, many_q[h] @ k.T / np.sqrt(D), -np.inf)) @ v)

# One table of queries; with lanes (tutorial 6) there may be two, and a place to split the keys.
theirs = tinylane_attention((many_q,), many_k, many_v, visible, None)
assert np.allclose(theirs, by_hand)
print(f"attention by hand equals tinylane's, error {np.abs(theirs - by_hand).max():.1e}")

# %% [markdown]
# ## Exercises
#
# **1.** Multiply all queries by a factor: 0, 1, then 100. What happens to the weights?
#
# **2.** Find the weights of `tinylane_attention` without touching its inside. It returns averages
# only, but you choose what it averages.

# %% [markdown]
# ### Solution 1
# With 0 every score is 0 and everybody is heard alike. With a large factor one key gets
# everything: the softmax turns into a choice. The scale of the queries is a volume knob.

# %%
assert np.allclose(softmax(0 * scores), 1 / T)
sharp = softmax(100 * scores)
assert (sharp.max(axis=1) > 0.999).all()
assert np.array_equal(sharp.argmax(axis=1), scores.argmax(axis=1))

# %% [markdown]
# ### Solution 2
# Average the rows of the identity matrix. `tinylane.view.attention.attention_weights` measures
# whole models.

# %%
eye = np.broadcast_to(np.eye(T, D), (K, T, D))  # T <= D here, so one pass is enough
found = tinylane_attention((many_q,), many_k, eye, visible, None)[..., :T]
assert np.allclose(found.sum(axis=-1), 1) and (found[:, ~visible] == 0).all()
assert np.allclose(found[0], softmax(np.where(visible, many_q[0] @ many_k[0].T / D**0.5, -np.inf)))
