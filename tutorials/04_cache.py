# %% [markdown]
# # 4. The cache: the same text, faster
#
# Page 3 ran the whole text through the model again for every word. But a key and a value depend
# only on their own row and the rows before it, and those never change. So keep them: that is the KV
# cache. A step then feeds one new row, and its query reads the stored keys.

# %%
import numpy as np

import tinylane
from tinylane import learn, plot
from tinylane.commands.common import embedded
from tinylane.core.oracle import naive
from tinylane.core.rope import rotate, table
from tinylane.evaluate.tasks.shell_game import ShellGame

rng = np.random.default_rng(3)

# %% [markdown]
# ## By hand, in one head
#
# Feed six rows at once, then one by one with a growing list of keys and values: the averages are
# the same. Keys are stored *after* their rotation. A key's angle belongs to its own position, which
# never changes, so it is turned once.

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
# A step needs no mask: what is in the list has been written, and may be seen.
#
# ## A whole model
#
# `model.new_cache()` gives an empty cache. Calling the model with it feeds rows. They see what the
# cache holds, and stay in it. In one pass, in pieces or row by row: the logits are the same.

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
# Rows in a cache stay exactly the same when more rows come.

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
figure = plot.lines(work, np.arange(1, 17), "words written", "rows", "Rows through the model")
see = "Without a cache each word costs a whole text. With one, the line rises by one row a word."
plot.show(figure, "04-work", caption=see)

# %% [markdown]
# ## Why turned keys are kept
#
# One could keep keys as they were before their rotation, and turn all of them at each step,
# counting positions backwards from the *newest* word. The scores are the same, because only
# differences matter (page 2). But every key must be turned at every step. Keeping turned keys
# avoids that. It is also the reason why a cached key cannot move to another position.

# %%
back_C, back_S = table((np.arange(T) - (T - 1))[:, None] * theta, dtype=np.float64)
again = rotate(k, back_C, back_S)
assert np.allclose(average(q[-1], again, v), at_once[-1])

# %% [markdown]
# What does a token cost in memory? A key and a value per layer and per key head, D numbers each.

# %%
per_token = 2 * c.layers * c.kv_heads * c.head_dim * 8  # float64: 8 bytes
held = sum(x.nbytes for layer in range(c.layers) for x in cache.rows(layer))
assert held == per_token * len(cache) <= cache.nbytes  # the buffers are larger than needed
print(per_token, "bytes per token")

# %% [markdown]
# ## Exercises
#
# **04.1** One step of one head. `kept` is None at first, then whatever you returned the last time.


# %%
def step(q, k, v, kept):
    """q, k, v (D,), k already turned -> the average (D,), and what the next step needs."""
    ...


print(learn.check("04.1", step))

# %% [markdown]
# **04.2** Write `count` tokens after a prompt, always the likeliest, and send every row through the
# model once. The check counts the rows.


# %%
def write(model, prompt, count):
    """model(tokens, positions, lanes, cache=...); prompt: a list of ids -> a list of ids."""
    ...


print(learn.check("04.2", write))

# %% [markdown]
# ## What next?
#
# You have a writer. [Page 5](05_lanes.md) gives it company: several writers, who read one another.
