# %% [markdown]
# # 10. Teach lanes to cooperate
#
# Page 7 removed reading and rotation from a trained model. What can be *learned* without them?
# Here small decoders are trained from random weights, each in seconds, on a game so small that we
# can prove what some of them cannot do. The gradients need MLX (`.[learn]` installs it on Linux and
# on a Mac with Apple silicon; on Windows, use WSL).

# %%
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, learn, plot
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import forward
from tinylane.core.mlx_ops import OPS  # MLX's own attention, norm, rotation and products
from tinylane.core.random_weights import random_params
from tinylane.train.omega import TrainingPlan  # the mask and the angles of a batch's rows

# %% [markdown]
# ## The game
#
# Each of two lanes gets a number from 0 to 4 that the other does not see. Both must write lane 1's
# number minus lane 2's. The prompt is `?`; the number is a lane prompt. A batch is all 25 games.

# %%
words = ["?", *"01234", *(f"{d:+d}" for d in range(-4, 5))]
words += ["first", "second", *(f"second:{d}" for d in range(5))]  # these are for later
one, two = (x.ravel() for x in np.mgrid[:5, :5])  # the numbers of lane 1 and of lane 2
games = np.stack([0 * one, 1 + one, 1 + two], axis=1)  # (25, 3) ids: the prompt, lane 1, lane 2
due = np.stack([10 + one - two] * 2, axis=1)  # (25, 2) ids: what both lanes are to write
rows = np.array([0, 1, 1]), np.array([SHARED, 0, 1])  # positions, lane indices

print("a game:", [words[t] for t in games[8]], " both are to write", words[due[8, 0]])
assert [words[d] for d in due[:, 0]] == [f"{x - y:+d}" for x, y in zip(one, two, strict=True)]

# %% [markdown]
# ## What is fitted
#
# The model gives every word a probability to come next. The loss is minus the logarithm of the
# right word's probability, averaged. All rows go through in one pass, with the same mask as in
# decoding, so training and decoding cannot differ. Omega is a parameter like the others.

# %%
sizes = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_width": 64}
config = ModelConfig(vocab=len(words), **sizes)
model = tinylane.Model(config, random_params(config, seed=0, std=0.1))
turned, unturned = LaneRoPE.group_think(model.theta, slot=2), LaneRoPE.none(model.theta)
joint, apart = LaneMask.joint(2), LaneMask.independent(2)


def untrained(rope):
    weights = {name: mx.array(w) for name, w in model.params.items()}
    return {"weights": weights, "omega": mx.array(rope.omega.astype(np.float32))}


def scores(state, plan, tokens):
    """tokens (B, T) -> logits (B, 2, vocab) of the rows that end a lane's prompt."""
    T = tokens.shape[1]
    last = mx.array([T // 2, T - 1])
    placed = plan.at(state["omega"])  # the angles of this Omega
    return forward(state["weights"], config, mx.array(tokens), placed, OPS, rows=last)


def loss(state, plan, tokens):
    logits = scores(state, plan, tokens)
    right = mx.take_along_axis(logits, mx.array(due)[..., None], axis=-1)[..., 0]
    return (mx.logsumexp(logits, axis=-1) - right).mean()


chances = np.exp([model(game, *rows, turned, joint)[1:] for game in games])  # by hand, in NumPy
chances /= chances.sum(axis=-1, keepdims=True)
by_hand = -np.log(np.take_along_axis(chances, due[..., None], axis=-1)).mean()
theirs = loss(untrained(turned), TrainingPlan(config, joint, *rows), games).item()
assert np.isclose(by_hand, theirs, rtol=1e-4)


def train(mask, rope, games=games, rows=rows, steps=300):
    """The share of the games that both lanes win, by step; and the model."""
    plan, state, shares = TrainingPlan(config, mask, *rows), untrained(rope), []
    omega_rate = 1e-2 if rope.omega.any() else 0.0  # no turn stays no turn
    rates = {"weights": optim.Adam(3e-3), "omega": optim.Adam(omega_rate)}
    for _ in range(steps):
        _, slopes = mx.value_and_grad(loss)(state, plan, games)
        for part, rate in rates.items():
            state[part] = rate.apply_gradients({part: slopes[part]}, {part: state[part]})[part]
        said = mx.argmax(scores(state, plan, games), axis=-1)
        shares.append((np.asarray(said) == due).all(axis=1).mean())
    params = {name: np.array(w) for name, w in state["weights"].items()}
    return shares, tinylane.Model(config, params, lane_rope=LaneRoPE(np.array(state["omega"])))


# %% [markdown]
# ## Three trainings
#
# There are three cases, with the same weights and games: lanes that read each other and are turned;
# lanes that read each other (mask only); lanes that cannot read. The last win at most 5 games of
# 25: for a lane that knows one number, five answers are equally likely. The second win at most 15.
# Unturned lanes are *anonymous*: what a lane says depends on the two numbers, not on which lane it
# is. Two different numbers make two games, (u, v) and (v, u); what wins one loses the other.

# %%
cases = {"mask and rotation": (joint, turned), "mask only": (joint, unturned)}
trained = {name: train(*case) for name, case in (cases | {"neither": (apart, turned)}).items()}
curves = {name: shares for name, (shares, _) in trained.items()}
see = "With both, all games are won. Mask only is never above 15/25, neither never above 5/25."
plot.show(
    plot.lines(curves, np.arange(300), "step", "share of games won", "Three trainings"),
    "10-learned",
    caption=see,
)
print("won at the end:", {name: float(shares[-1]) for name, shares in curves.items()})
assert curves["mask and rotation"][-1] == 1
assert max(curves["mask only"]) <= 15 / 25 and max(curves["neither"]) <= 5 / 25

# %% [markdown]
# ## Let them write
#
# (The model inside learned in this way, in an hour: `tinylane train shell-game --out runs/mine`.)


# %%
def play(mask):
    """How many of the 25 games the trained lanes win under this mask."""
    greedy, model = tinylane.Sampler(temperature=0), trained["mask and rotation"][1]
    won = 0
    for (_, x, y), answer in zip(games, due, strict=True):
        given = {"lane_prompts": [[x], [y]], "lane_mask": mask, "sampler": greedy}
        lanes = tinylane.generate(model, [0], lanes=2, max_tokens=1, **given).lanes
        won += [lane.tokens[0] for lane in lanes] == answer.tolist()
    return won


assert play(joint) == 25

# %% [markdown]
# If they read each other one step later, the other's number is not visible yet when the answer must
# be written. Five games at most can be won.

# %%
assert play(LaneMask.joint(2, lag=1)) <= 5

# %% [markdown]
# ## Would tags do?
#
# With the mask only, tell each lane which one it is: `first` or `second` before its number. It is
# not enough: a lane sees two tags and two numbers, and nothing says which belong together. But if
# lane 2 has its own words for the numbers (`second:3`), so that every word says whose it is, then
# it is. The rotation does that for *all* words.

# %%
tag = words.index("first") + 0 * one
tagged = np.stack([0 * one, tag, 1 + one, tag + 1, 1 + two], axis=1)
where = np.array([[0, 1, 2, 1, 2], [SHARED, 0, 0, 1, 1]])  # positions, lane indices
with_tags, _ = train(joint, unturned, tagged, where)
own_words, _ = train(joint, unturned, np.stack([0 * one, 1 + one, tag + 2 + two], axis=1))
print("mask only, tags:", with_tags[-1], " words of its own:", own_words[-1])
assert max(with_tags) <= 15 / 25 and own_words[-1] == 1

# %% [markdown]
# ## Exercises
#
# **10.1** The loss: minus the logarithm of the right word's probability, averaged. Large logits
# must not overflow.


# %%
def my_loss(logits, right):
    """logits (B, V); right (B,) ids -> a number."""
    ...


print(learn.check("10.1", my_loss))

# %% [markdown]
# **10.2** Why 15? For lanes that are not turned: how many of the n * n games with the numbers 0 to
# n - 1 can be won at most?


# %%
def most_won(numbers):
    """5 -> 15."""
    ...


print(learn.check("10.2", most_won))

# %% [markdown]
# ## What next?
#
# [Page 11](11_study.md) asks the same of a harder game, with more seeds. To train lanes of your
# own: [how to train](../how-to/train.md).
