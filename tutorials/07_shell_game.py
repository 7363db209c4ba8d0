# %% [markdown]
# # 7. Four lanes play the shell game, step by step
#
# One writer alone needs sixteen steps for sixteen swaps: the second swap acts on the result of the
# first. But swaps *compose*: the first four together are again a rearrangement, and so are the next
# four. Four lanes can take four swaps each, at the same time, if they can then read each other's
# results. This page shows a model that has learned this.

# %%
import numpy as np

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, learn, plot
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.view.attention import attention_weights

model = tinylane.load(embedded(), backend="numpy")
game, N = ShellGame(), 4
moves = game.draw(1, np.random.default_rng(0))[0]
print(game.prompt(moves))

# %% [markdown]
# ## The plan
#
# Each lane follows its quarter from `ABCD`, as if no swap came before: four words. Then the lanes
# form pairs, 1 with 2 and 3 with 4, and each writes its pair's product. Then all four write the
# product of everything. That makes six words instead of sixteen; for K swaps, K/N + log2 N instead
# of K. (In a seventh step each lane ends, so programs print 7 steps, and 17 for one lane.)

# %%
plan = game.write(moves[None], N)[0]  # (N, 6) numbers of arrangements
for m in range(N):
    print(f"lane {m + 1}:", *(game.arrangements[a] for a in plan[m]))
a, b, c, d = plan[:, 3]  # the four quarters
left, right = game.compose[a, b], game.compose[c, d]
assert plan[:, 4].tolist() == [left, left, right, right]
assert (plan[:, 5] == game.compose[left, right]).all()
assert game.arrangements[plan[0, 5]] == game.answer(moves)
assert plan.shape[1] == game.steps(N) == 16 // N + 2

# %% [markdown]
# ## The steps, by hand
#
# One pass for the prompt, one for the four tags (`1/4` ... `4/4`, so that each lane knows its
# part), then one pass per step, with one row per lane. The mask is `joint` with lag 0: each lane
# sees what the others were fed in this very step. This is joint decoding.

# %%
encode = model.tokenizer.encode
P = len(encode(game.prompt(moves)))
mask, everyone = LaneMask.joint(N), np.arange(N)
cache = model.new_cache(model.lane_rope, mask)
model(np.array(encode(game.prompt(moves))), np.arange(P), np.full(P, SHARED), cache=cache)

fed = np.array([encode(tag)[0] for tag in game.lane_prompts(N)])
written = []
for step in range(game.steps(N)):
    logits = model(fed, np.full(N, P + step), everyone, cache=cache)  # (4, vocab)
    fed = logits.argmax(axis=1)  # one word for each lane
    written.append(fed)
    print(f"position {P + 1 + step}:", *(f"{model.tokenizer.decode([t]):5}" for t in fed))
written = np.array(written).T
assert np.array_equal(written, plan + game.ids["ABCD"])  # exactly the plan; ABCD is number 0
assert len(cache) == P + N * game.steps(N)

# %% [markdown]
# ## The same from tinylane

# %%
settings = {"lane_prompts": game.lane_prompts(N), "max_tokens": game.steps(N) + 1}
result = tinylane.generate(model, game.prompt(moves), lanes=N, **settings)
assert [lane.tokens[:-1] for lane in result.lanes] == written.tolist()  # the last is <end>
assert result.texts[2].split()[-1] == game.answer(moves)
tagged = zip(game.lane_prompts(N), result.texts, strict=True)
words = [[tag, *text.split()] for tag, text in tagged]
figure = learn.written(words, rounds=2, title="Four lanes, six words each")
see = (
    "Blue: each lane follows its own four swaps. Then two lanes write the same word, their pair's "
    "product. In step 6 all four write the same: the answer."
)
plot.show(figure, "07-lanes", caption=see)

# %% [markdown]
# ## Which lane attends to which
#
# While a lane follows its own quarter, it does not need the others. When it composes, it must read
# them. The middle layer shows this, averaged over twenty games: for the fifth word each lane
# attends to its partner, for the sixth to the other pair as well.

# %%
games, _ = game.rows(game.draw(20, np.random.default_rng(5)), N)
positions, lanes = game.coordinates(N)
weights = [attention_weights(model, tokens, positions, lanes)[1] for tokens in games]
weights = np.mean(weights, axis=(0, 1))  # over games and heads: (T, T)


def to_lane(m, n):
    """The attention of lane m to lane n, for each word that m writes."""
    return weights[lanes == m][:-1, lanes == n].sum(axis=1)


share = np.array([[to_lane(m, n) for n in everyone] for m in everyone])
for m in everyone:  # share: reader, read, word written
    partner = m ^ 1  # 0 and 1, 2 and 3
    other_pair = [n for n in everyone if n // 2 != m // 2]
    assert share[m, :, 4].argmax() == partner
    assert share[m, other_pair, 5].sum() > 2 * share[m, other_pair, :5].sum(axis=0).mean()

title = "Lane 3's attention to the lanes (the rest goes to the prompt)"
curves = {f"to lane {n + 1}": share[2, n] for n in everyone}
see = (
    "For words 1 to 4 lane 3 hardly reads any lane: it reads its swaps in the prompt. For word 5 "
    "it turns to lane 4, its partner; for word 6 to the other pair, lanes 1 and 2, as well."
)
figure = plot.lines(curves, np.arange(1, 7), "word written", "weight", title)
plot.show(figure, "07-attention", caption=see)

# %% [markdown]
# ## Without reading, without a lane rotation
#
# Remove the reading (`independent`) or the second rotation (Omega = 0), and play ten games. This
# model was trained with both, so this shows that it *uses* both. What a model can learn without one
# of them is another question; only training can answer it (pages 10 and 11).


# %%
def right(n=N, word=-1, lane=0, **settings):
    """The share of ten games in which a lane's word is what the plan says."""
    hits = 0
    for moves in game.draw(10, np.random.default_rng(7)):
        given = {"lane_prompts": game.lane_prompts(n), "max_tokens": game.steps(n)}
        wrote = tinylane.generate(model, game.prompt(moves), lanes=n, **given, **settings).lanes
        due = game.write(moves[None], n)[0, lane, word] + game.ids["ABCD"]
        hits += wrote[lane].tokens[word:][:1] == [due]  # a lane may have ended early
    return hits / 10


alone, unturned = LaneMask.independent(N), LaneRoPE.none(model.theta)
joint, unread, same = right(), right(lane_mask=alone), right(lane_rope=unturned)
print("joint", joint, " independent", unread, " Omega 0", same)
assert joint == 1 and unread < 0.5 and same < 0.5

# %% [markdown]
# ## Silence a lane
#
# No other lane may read lane 4 (index 3). Then lane 3 cannot form its pair's product, and no lane
# can form the whole. Lane 1's pair is mostly right, but not always: the model has never seen a
# missing lane.

# %%
mute = mask.silence(3)
first_pair, second_pair = (right(word=4, lane=lane, lane_mask=mute) for lane in (0, 2))
whole = right(lane_mask=mute)
print("first pair", first_pair, " second pair", second_pair, " the whole", whole)
assert first_pair > 2 * second_pair and second_pair < 0.5 and whole < 0.5

# %% [markdown]
# ## How many lanes?
#
# 1, 2, 4 and 8 lanes write 16, 9, 6 and 5 words. Eight lanes save little more than four: there is
# more to compose. The model has learned all four.

# %%
assert [game.steps(n) for n in (1, 2, 4, 8)] == [16, 9, 6, 5]
assert min(right(n) for n in (1, 2, 8)) >= 0.9

# %% [markdown]
# ## Exercises
#
# **07.1** Two arrangements as one. `then` says which place's content goes where: after `first`,
# place p holds what place `then[p]` held (A is place 1).


# %%
def compose(first, then):
    """Words such as "BACD" and "CABD" -> a word."""
    ...


print(learn.check("07.1", compose))

# %% [markdown]
# **07.2** All that one lane is to write: its own share, then the rounds of composing.


# %%
def lane_words(cups, swaps, m, n):
    """cups "ABCD"; swaps ["1-3", ...]; the lane's index m of n lanes -> a list of words."""
    ...


print(learn.check("07.2", lane_words))

# %% [markdown]
# ## What next?
#
# That was the short way: LaneRoPE, from a rotation to lanes that share work. Play with the same
# model in [the explorer](../explorer/index.md), or see its lanes in a terminal: `tinylane
# generate`. [Page 8](08_laws.md) tests an encoding of your own, [page 9](09_checkpoint.md) goes to
# a real language model.
