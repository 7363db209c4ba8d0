# %% [markdown]
# # 4. The cache: the same text, faster
#
# Tutorial 3 wrote a word by running the whole text through the model, again for every word. But a
# key and a value depend only on their own row and the rows before it, and those never change. So
# keep them: that is the KV cache. A step then feeds one new row, whose query reads the stored
# keys.

# %%
import numpy as np

import tinylane
from tinylane import plot
from tinylane.commands.common import embedded
from tinylane.core.oracle import naive
from tinylane.core.rope import rotate, table
from tinylane.evaluate.tasks.shell_game import ShellGame

rng = np.random.default_rng(3)

# %% [markdown]
# ## By hand, in one head
#
# Feed six rows at once, and one by one with a growing pile of keys and values: the last row's
# average is the same. Keys are stored *after* their rotation. A key's angle is that of its own
# position, which never changes, so it is turned once.

# %%
T, D = 6, 8
theta = 10000.0 ** (-np.arange(0, D, 2) / D)
C, S = table(np.arange(T)[:, None] * theta, dtype=np.float64)
q, k, v = rng.standard_normal((3, T, D))


def average(query, keys, values):
    w = np.exp(query @ keys.T / np.sqrt(D))
    return w / w.sum() @ values


kept_k, kept_v, one_by_one = np.empty((0, D)), np.empty((0, D)), []
for i in range(T):
    turned = rotate(k[i : i + 1], C[i : i + 1], S[i : i + 1])
    kept_k, kept_v = np.concatenate([kept_k, turned]), np.concatenate([kept_v, v[i : i + 1]])
    one_by_one.append(average(rotate(q[i : i + 1], C[i : i + 1], S[i : i + 1])[0], kept_k, kept_v))

Q, K = rotate(q, C, S), rotate(k, C, S)
at_once = [average(Q[i], K[: i + 1], v[: i + 1]) for i in range(T)]
assert np.allclose(one_by_one, at_once)

# %% [markdown]
# No mask was needed in a step: what is in the pile has been written, and may be seen.
#
# ## A whole model
#
# `model.new_cache()` gives an empty cache; calling the model with it feeds rows, which see what
# the cache holds and stay in it. In one pass, in two pieces, row by row: the same logits.

# %%
model = tinylane.load(embedded(), backend="numpy", dtype="float64")
game = ShellGame()
moves = game.draw(1, rng)[0]
tokens = np.array(model.tokenizer.encode(game.prompt(moves)))
positions, lanes = np.arange(len(tokens)), np.full(len(tokens), tinylane.SHARED)

whole = model(tokens, positions, lanes)
for cuts in ([10], [1, 2, 20], range(1, len(tokens))):
    cache = model.new_cache()
    pieces = np.split(np.arange(len(tokens)), list(cuts))
    logits = [model(tokens[p], positions[p], lanes[p], cache=cache) for p in pieces]
    assert np.allclose(np.concatenate(logits), whole, atol=1e-9)
assert len(cache) == len(tokens)

# %% [markdown]
# Rows that are in a cache stay as they are when more come, to the last bit.

# %%
before = cache.rows(layer=1)[0].copy()  # (kv heads, rows, D)
model(tokens[:3], positions[-1] + np.arange(1, 4), lanes[:3], cache=cache)
assert np.array_equal(cache.rows(layer=1)[0][:, : len(tokens)], before)
cache.trim(len(tokens))  # forget what stands at this position or later
assert len(cache) == len(tokens)

# %% [markdown]
# ## The same text
#
# tinylane keeps the slow way: `tinylane.core.oracle.naive` computes everything again for each word.
# The fast way must write the same words. Count the rows that each sends through the model. Time
# depends on the machine; the number of rows does not.


# %%
class Counting(tinylane.Model):
    def __call__(self, tokens, *rest, **more):
        self.fed = [*getattr(self, "fed", []), len(tokens)]  # rows of every pass
        return super().__call__(tokens, *rest, **more)


c, prompt, tag = model.config, tokens.tolist(), model.tokenizer.encode("1/1")
a, b = (Counting(c, model.params, dtype="float64", tokenizer=model.tokenizer) for _ in "ab")
greedy, alone = tinylane.Sampler(temperature=0), tinylane.LaneMask.independent(1)
# No lanes yet: a second rotation by 0 (`a.rope()`), and the mask of one lane.
slow = naive(a, prompt, [tag], 16, greedy, a.rope(), alone)[0].tokens
fast = tinylane.generate(b, prompt, lane_prompts=[tag], max_tokens=16, sampler=greedy)
assert fast.lanes[0].tokens == slow and fast.texts[0].split()[-1] == game.answer(moves)
print(f"rows through the model: {sum(a.fed)} without a cache, {sum(b.fed)} with one")
assert sum(b.fed) == len(prompt) + 16 and sum(a.fed) > 10 * sum(b.fed)

work = {"no cache": np.cumsum(a.fed), "cache": np.cumsum(b.fed)[1:]}
picture = plot.lines(work, np.arange(1, 17), "words written", "rows", "Rows through the model")
plot.show(picture, "04-work")

# %% [markdown]
# ## Exercises
#
# **1.** How many bytes does the cache hold per token? Compute it from `model.config` and check it.
#
# **2.** What if keys were stored before their rotation, and all turned anew at each step, counting
# positions from the *newest* word backwards? Is the score another?

# %% [markdown]
# ### Solution 1
# A key and a value, per layer and per key head, of D numbers each. The buffers have room to spare.

# %%
per_token = 2 * c.layers * c.kv_heads * c.head_dim * 8  # float64: 8 bytes
held = sum(x.nbytes for layer in range(c.layers) for x in cache.rows(layer))
assert held == per_token * len(cache) <= cache.nbytes
print(per_token, "bytes per token")

# %% [markdown]
# ### Solution 2
# The same score, for only differences matter (tutorial 2), at the price of turning every key at
# every step. Storing them turned is free; it is also why a cached key cannot move to another
# place.

# %%
back_C, back_S = table((np.arange(T) - (T - 1))[:, None] * theta, dtype=np.float64)
again = rotate(k, back_C, back_S)
assert np.allclose(average(q[-1], again, v), at_once[-1])
