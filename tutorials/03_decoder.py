# %% [markdown]
# # 3. A decoder from these pieces
#
# A decoder is attention, position and two more small parts, repeated a few times. Here is a whole
# decoder in forty lines of NumPy, with the weights of the trained model that comes with tinylane.
# It plays a shell game: four cups, sixteen swaps, where is each cup at the end?

# %%
import numpy as np

import tinylane
from tinylane import plot
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame

model = tinylane.load(embedded(), backend="numpy", dtype="float64")
config, params = model.config, model.params  # sizes; arrays by the checkpoint's own names
H, K, D = config.heads, config.kv_heads, config.head_dim

# %% [markdown]
# ## From the parts to the whole
#
# **RMSNorm** (`norm`) scales each row to a common size. **SwiGLU** (`mlp`) is a small network that
# sees one row alone. You know attention and rotation. Qwen3 also normalises each query and key.


# %%
def norm(x, name):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * params[name + ".weight"]


def linear(x, name):
    return x @ params[name + ".weight"]  # (in, out): a file's (out, in) is transposed when loaded


def rope(x):  # (heads, T, D), row t at position t
    angle = np.arange(x.shape[1])[:, None] * model.theta
    a, b = x[..., : D // 2], x[..., D // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attend(x, at):
    """(T, width) -> (T, width), and the weights (H, T, T)."""
    q, k, v = (linear(x, at + p).reshape(len(x), -1, D) for p in ("q_proj", "k_proj", "v_proj"))
    q, k = norm(q, at + "q_norm"), norm(k, at + "k_norm")
    q, k, v = (y.swapaxes(0, 1) for y in (q, k, v))  # heads first
    k, v = (np.repeat(y, H // K, axis=0) for y in (rope(k), v))  # two query heads share a key head
    scores = rope(q) @ k.swapaxes(1, 2) / np.sqrt(D)
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear((weights @ v).swapaxes(0, 1).reshape(len(x), -1), at + "o_proj"), weights


def mlp(x, at):
    gate = linear(x, at + "gate_proj")
    return linear(gate / (1 + np.exp(-gate)) * linear(x, at + "up_proj"), at + "down_proj")


# %% [markdown]
# The rows of the embedding go in; every layer *adds* its results to them. A last product gives a
# score to every word of the vocabulary as the next word: the logits.


# %%
def decoder(tokens):
    x, heard = params["model.embed_tokens.weight"][tokens], []
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        mixed, weights = attend(norm(x, at + "input_layernorm"), at + "self_attn.")
        x, heard = x + mixed, [*heard, weights]
        x = x + mlp(norm(x, at + "post_attention_layernorm"), at + "mlp.")
    return linear(norm(x, "model.norm"), "lm_head"), heard


# %% [markdown]
# ## The same numbers from tinylane
#
# tinylane wants a position and a lane for every token (tutorial 5); `SHARED` is the prompt's lane.

# %%
game = ShellGame()
moves = game.draw(1, np.random.default_rng(8))[0]
prompt = model.tokenizer.encode(game.prompt(moves))
rows = (prompt, range(len(prompt)), [tinylane.SHARED] * len(prompt))
theirs = model(*(np.array(row) for row in rows))
ours, _ = decoder(prompt)
assert theirs.shape == (len(prompt), config.vocab)
print(f"largest difference of {ours.size} logits: {np.abs(ours - theirs).max():.1e}")
assert np.allclose(ours, theirs, atol=1e-9)

# %% [markdown]
# ## Let it write
#
# Take the most likely word, append it, repeat. After the prompt comes the writer's tag, `1/1`: the
# first of one. Then the model writes where the cups are after every swap.

# %%
tokens = prompt + model.tokenizer.encode("1/1")
for _ in range(game.swaps):
    tokens.append(int(decoder(tokens)[0][-1].argmax()))
written = model.tokenizer.decode(tokens[-game.swaps :])
print(game.prompt(moves), "\n", written)
assert written.split()[-1] == game.answer(moves)

result = tinylane.generate(model, prompt, lane_prompts=["1/1"], max_tokens=16)
assert result.texts[0].split() == written.split()

# %% [markdown]
# Which words does it read when it writes the next arrangement? The average over the first layer's
# heads shows a diagonal: each step reads the swap that comes next.

# %%
heard = decoder(tokens)[1][0].mean(axis=0)  # layer 0: (T, T)
words = [model.tokenizer.decode([t]) for t in tokens]
n, first = len(prompt), 4  # the swaps stand behind "cups ABCD , swap"
figure = plot.attention(heard[n:-1], words[n:-1], words, "Layer 0 as it writes, mean of heads")
plot.show(figure, "03-heard")

to_swaps = heard[n:-1, first : first + game.swaps]  # (16, 16): step, swap
assert np.trace(to_swaps) / 16 > 2 * to_swaps.mean()

# %% [markdown]
# ## Exercises
#
# **1.** Let attention add nothing, in all layers. What does the next word depend on then?
#
# **2.** Replace the ninth swap by another. Which rows of the logits change, and which cannot?

# %% [markdown]
# ### Solution 1
# On the last word alone: no other part of a decoder carries anything from row to row.

# %%
hear, attend = attend, lambda x, at: (0 * x, None)
deaf, alone = decoder(prompt)[0], decoder(prompt[-1:])[0]
assert np.allclose(deaf[-1], alone[0]) and not np.allclose(ours[-1], alone[0])

# %% [markdown]
# ### Solution 2
# Rows before it stay exactly the same: what comes later is hidden from them. The others change.

# %%
other, place = list(prompt), first + 8
other[place] = game.ids["1-2" if words[place] != "1-2" else "1-3"]
changed = (model(np.array(other), *map(np.array, rows[1:])) != theirs).any(axis=1)
assert not changed[:place].any() and changed[place:].all()
