# %% [markdown]
# # 3. A decoder from these pieces
#
# A decoder is attention, position and a few smaller parts, repeated. Here is a whole one in forty
# lines of NumPy, with the weights of the trained model that comes with tinylane. Then each part is
# left out in turn, to see what it is for.
#
# The model plays a shell game: four cups, sixteen swaps, where is each cup at the end?

# %%
import numpy as np

import tinylane
from tinylane import learn, plot
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame

model = tinylane.load(embedded(), backend="numpy", dtype="float64")
config, params = model.config, model.params  # sizes; arrays by the checkpoint's own names
H, K, D = config.heads, config.kv_heads, config.head_dim
print(f"{config.vocab} words, rows of {config.width} numbers, {config.layers} blocks, {H} heads")

see = (
    "Follow one row from the bottom up. It goes straight through; twice in a block a copy turns "
    "off, is worked on, and is added back. Only attention looks at other rows."
)
plot.show(learn.block(config.layers), "03-block", caption=see)

# %% [markdown]
# ## The parts, from the bottom up
#
# **Embedding.** A word is a number, such as 17. Numbers that are near are not words that are
# alike, so a number is no good as an input. It picks a row of a table instead: 128 numbers that
# training chose for this word. From here on there is one row for every word of the text.
#
# **Norm.** Rows grow from block to block, because results are added. `norm` scales a copy of each
# row to a common size, so that the parts always get numbers that they can work with (RMSNorm).


# %%
def embed(tokens):
    return params["model.embed_tokens.weight"][tokens]  # (T, width)


def norm(x, name):
    size = np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.norm_eps)
    return x / size * params[name + ".weight"]


def linear(x, name):
    return x @ params[name + ".weight"]  # (in, out): a file's (out, in) is transposed when loaded


# %% [markdown]
# **Attention.** You know it from page 1, and its turn from page 2. Three matrices make the queries,
# the keys and the values from the rows, a fourth mixes what the heads have read. This model also
# norms each query and key (as Qwen3 does).


# %%
def turn(x):
    """RoPE; x (heads, T, D), row t at position t."""
    angle = np.arange(x.shape[1])[:, None] * model.theta
    a, b = x[..., : D // 2], x[..., D // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def heads_first(x):
    """(T, heads * D) -> (heads, T, D)."""
    return x.reshape(len(x), -1, D).swapaxes(0, 1)


def attend(x, at):
    """(T, width) -> (T, width), and the weights (H, T, T)."""
    q, k, v = (heads_first(linear(x, at + name)) for name in ("q_proj", "k_proj", "v_proj"))
    q, k = turn(norm(q, at + "q_norm")), turn(norm(k, at + "k_norm"))
    k, v = (np.repeat(y, H // K, axis=0) for y in (k, v))  # two query heads share a key head

    scores = q @ k.swapaxes(1, 2) / np.sqrt(D)
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)  # no word reads ahead
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)

    mixed = (weights @ v).swapaxes(0, 1).reshape(len(x), -1)
    return linear(mixed, at + "o_proj"), weights


# %% [markdown]
# **The gated network** works on each row alone: what attention has brought together is used here.
# Two matrices make it wider; a third makes it narrow again. In between stands the *gate*: one of
# the two, squeezed to about 0 where it is negative, multiplies the other. So a number can be let
# through or shut off, depending on the row. Without it the three matrices would be one matrix.


# %%
def silu(x):
    return x / (1 + np.exp(-x))


def mlp(x, at):
    gate, up = linear(x, at + "gate_proj"), linear(x, at + "up_proj")
    return linear(silu(gate) * up, at + "down_proj")


# %% [markdown]
# **Add.** Each part's result is *added* to the rows. So a row keeps what it has, and each block
# only has to write what is new.
#
# **Logits.** A last matrix gives a score to every word of the vocabulary as the next word. A
# softmax would make probabilities of these scores; the largest is the likeliest word.


# %%
def decoder(tokens):
    """ids -> logits (T, vocab), and the attention weights of each block."""
    x, seen = embed(tokens), []
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        mixed, weights = attend(norm(x, at + "input_layernorm"), at + "self_attn.")
        x = x + mixed
        x = x + mlp(norm(x, at + "post_attention_layernorm"), at + "mlp.")
        seen.append(weights)
    return linear(norm(x, "model.norm"), "lm_head"), seen


# %% [markdown]
# ## The same numbers from tinylane
#
# tinylane wants a position and a lane for every token (page 5); `SHARED` is the prompt's lane.

# %%
game = ShellGame()
moves = game.draw(1, np.random.default_rng(8))[0]
prompt = model.tokenizer.encode(game.prompt(moves))
positions, lanes = np.arange(len(prompt)), np.full(len(prompt), tinylane.SHARED)
theirs = model(np.array(prompt), positions, lanes)
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
    logits, _ = decoder(tokens)
    tokens.append(int(logits[-1].argmax()))
written = model.tokenizer.decode(tokens[-game.swaps :])
print(game.prompt(moves), "\n", written)
assert written.split()[-1] == game.answer(moves)

result = tinylane.generate(model, prompt, lane_prompts=["1/1"], max_tokens=16)
assert result.texts[0].split() == written.split()

# %% [markdown]
# Which words does it read when it writes the next arrangement? In the first block each step reads
# the swap that comes next.

# %%
first_block = decoder(tokens)[1][0].mean(axis=0)  # mean of the heads: (T, T)
words = [model.tokenizer.decode([t]) for t in tokens]
n, begin = len(prompt), 4  # the swaps stand behind "cups ABCD , swap"
to_swaps = first_block[n:-1, begin : begin + game.swaps]  # (16, 16): step, swap
swaps = words[begin : begin + game.swaps]
names = ("word just written", "swap", "weight")
figure = plot.attention(to_swaps, words[n:-1], swaps, "First block: attention to the swaps", names)
see = (
    "Rows: the word that was just written. Columns: the sixteen swaps in order. The diagonal says "
    "that each step looks at its own swap. (A fainter one stands eight swaps further on.)"
)
plot.show(figure, "03-attention", caption=see)
assert np.trace(to_swaps) / 16 > 2 * to_swaps.mean()

# %% [markdown]
# ## Leave one part out
#
# How many of the words are still right, if one part is missing? Twenty games, each word written
# after the right words. This model was trained with all parts, so the table does not say what a
# model could learn without one. It shows what each part does in this one.

# %%
games, _ = game.rows(game.draw(20, np.random.default_rng(1)), 1)
due = games[:, n + 1 :]  # what is to be written, after the prompt and the tag


def right_words():
    """The share of the words of twenty games that are right."""
    said = np.array([decoder(tokens)[0].argmax(axis=-1) for tokens in games])
    return (said[:, n:-1] == due).mean()


parts = {"embed": embed, "norm": norm, "turn": turn, "attend": attend, "silu": silu, "mlp": mlp}
one_line = np.linspace(-1, 1, config.vocab)[:, None] * np.ones(config.width)
replacements = {
    "nothing": {},
    "the embedding (a word's number, scaled)": {"embed": lambda tokens: one_line[tokens]},
    "the norms": {"norm": lambda x, name: x * params[name + ".weight"]},
    "the turn (no positions)": {"turn": lambda x: x},
    "attention": {"attend": lambda x, at: (0 * x, None)},
    "the gate (1 instead)": {"silu": np.ones_like},
    "the gated network": {"mlp": lambda x, at: 0 * x},
}
without = {}
for name, changed in replacements.items():  # a name is looked up when it is used: replace it
    globals().update(parts | changed)
    without[name] = right_words()
globals().update(parts)


def decoder_without_adding(tokens):
    """Each part's result replaces the rows."""
    x = embed(tokens)
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        x, _ = attend(norm(x, at + "input_layernorm"), at + "self_attn.")
        x = mlp(norm(x, at + "post_attention_layernorm"), at + "mlp.")
    return linear(norm(x, "model.norm"), "lm_head"), None


whole_decoder, decoder = decoder, decoder_without_adding
without["the adding"] = right_words()
decoder = whole_decoder
for name, share in without.items():
    print(f"without {name:42}{share:6.0%} of the words are right")
assert without["nothing"] > 0.99
assert max(share for name, share in without.items() if name != "nothing") < 0.5

# %% [markdown]
# What goes wrong, one by one:
#
# - Without attention the next word depends on the last word alone: nothing else carries anything
#   from row to row.
# - Without the turn it is a bag of swaps: which one is next?
# - Without the norms the rows have sizes that the matrices do not expect.
# - Without adding, each block forgets what the rows were.

# %%
attend = lambda x, at: (0 * x, None)
alone, in_text = decoder(prompt[-1:])[0][-1], decoder(prompt)[0][-1]
assert np.allclose(alone, in_text) and not np.allclose(ours[-1], in_text)
attend = parts["attend"]


def sizes(tokens):
    """The size of the rows after the embedding and after every block."""
    x, grown = embed(tokens), []
    for layer in range(config.layers):
        grown.append(np.sqrt((x * x).mean()))
        at = f"model.layers.{layer}."
        x = x + attend(norm(x, at + "input_layernorm"), at + "self_attn.")[0]
        x = x + mlp(norm(x, at + "post_attention_layernorm"), at + "mlp.")
    return [*grown, np.sqrt((x * x).mean())]


grown = sizes(tokens)
print("size of the rows, from block to block:", *(f"{size:.2f}" for size in grown))
assert grown[-1] > 3 * grown[0]

# %% [markdown]
# Another swap in the ninth place changes the logits from there on. Rows before it stay exactly the
# same: what comes later is hidden from them.

# %%
other, place = list(prompt), begin + 8
other[place] = game.ids["1-2" if words[place] != "1-2" else "1-3"]
changed = (model(np.array(other), positions, lanes) != theirs).any(axis=1)
assert not changed[:place].any() and changed[place:].all()

# %% [markdown]
# ## Exercises
#
# **03.1** RMSNorm, as a function of its own.


# %%
def my_norm(x, weight, eps):
    """x (T, C); weight (C,); eps is added to the mean of the squares -> (T, C)."""
    ...


print(learn.check("03.1", my_norm))

# %% [markdown]
# **03.2** One block, as in the picture. The four parts are given as functions of rows.


# %%
def my_block(x, attend, mlp, norm_1, norm_2):
    """x (T, C) -> (T, C)."""
    ...


print(learn.check("03.2", my_block))

# %% [markdown]
# ## What next?
#
# For every word all the rows went through all the blocks again. [Page 4](04_cache.md) keeps what
# was computed.
