# %% [markdown]
# # 11. The study: is it the mask, or the encoding?
#
# One paper introduced lanes that read each other (the mask) and lanes that are turned (the
# encoding). A reviewer asked which of the two helps. tinylane's study trains a small decoder from
# scratch for each combination, with three seeds each, and lets it play the shell game: three cups,
# sixteen swaps. This page reads the results (`tutorials/study`), with care.

# %%
import json
from pathlib import Path

import numpy as np

from tinylane import learn, plot
from tinylane.evaluate.tasks.shell_game import ShellGame

folder = next(path for path in map(Path, ("tutorials/study", "study")) if path.is_dir())
table = json.loads((folder / "scratch.json").read_text())
cells, N = table["cells"], table["lanes"]
game = ShellGame(table["recipe"]["cups"], table["recipe"]["swaps"])

# %% [markdown]
# ## What would luck give?
#
# There are six arrangements of three cups. Is a guess right in 1 of 6 cases? No. Every swap makes
# an odd arrangement of an even one, and an even one of an odd one. After sixteen swaps the
# arrangement is even: only three are possible.

# %%
one_swap = np.mean([np.eye(6)[game.compose[:, s]] for s in game.move_numbers[:-1]], axis=0)
odds = np.linalg.matrix_power(one_swap, game.swaps)[0]  # from where nothing has moved
chance = odds.max()
print(f"chance: {chance:.1%}")
assert (odds > 0).sum() == 3 and np.isclose(chance, 1 / 3, atol=1e-3)

# %% [markdown]
# ## How sure is a share?
#
# A model is right on k of n problems. On other problems k/n would be a little different. Wilson's
# interval has the values for which k would not be surprising, at 95%.


# %%
def wilson(k, n, z=1.959964):
    middle, spread = k + z * z / 2, z * np.sqrt(k * (n - k) / n + z * z / 4)
    return (middle - spread) / (n + z * z), (middle + spread) / (n + z * z)


scores = [x for cell in cells.values() for run in cell["seeds"] for x in run["scores"].values()]
for score in scores:
    low, high = wilson(score["right"], score["count"])
    assert np.allclose([low, high], score["interval"], atol=1e-4)

# %% [markdown]
# That is one model on many problems. Another training, with other random weights, may end
# elsewhere: that is what seeds show.
#
# ## What came out
#
# Every training is one point. No mean is drawn: of 100%, 35% and 100% the mean is 78%, and no
# training had that.


# %%
def by_seed(name, n):
    """The share of right answers of each seed, in the order of the seeds."""
    return [run["scores"][str(n)]["accuracy"] for run in cells[name]["seeds"]]


names = {"neither": "independent", "mask only": "joint-none", "mask, NTK": "joint-ntk"}
names |= {"mask, Group Think": "joint-group_think", "mask, learned": "joint-learned"}
print(f"{'':20}" + "".join(f"{f'{n} lanes':23}" for n in N))
for label, name in names.items():
    shares = (" ".join(f"{x:5.1%}" for x in by_seed(name, n)) for n in N)
    print(f"{label:20}" + "".join(f"{each:23}" for each in shares))

points = {x: {f"{n} lanes": by_seed(name, n) for n in N[1:]} for x, name in names.items()}
figure = learn.seeds(points, chance, "The shell game, from scratch")
see = (
    "Three points a row are three seeds. The upper two rows stand at chance (dotted), all seeds. "
    "In the lower rows all is well with 2 lanes; with 4 and 8 one seed, always the orange square, "
    "is left behind."
)
plot.show(figure, "11-seeds", caption=see)

turned = [label for label in names if label not in ("neither", "mask only")]
for name in cells:
    if name in names.values():
        assert min(by_seed(name, 1)[:2]) > 0.95  # a lone lane has learned the game
for n in N[1:]:
    guesses = by_seed("independent", n) + by_seed("joint-none", n)
    assert max(guesses) < chance + 0.1
    assert all(sorted(by_seed(names[label], n))[-2] > 0.95 for label in turned)

# %% [markdown]
# Lanes that read each other without being turned are not better than lanes that cannot read: both
# guess, in every seed (page 10 shows why: nothing says which tag and which word belong together).
# With a rotation they learn it, in two seeds of three. So **here both are needed**: the mask lets
# lanes read, the encoding makes what they read useful.
#
# ## The seed that was left behind
#
# In the second seed the training had not finished, with any rotation. From the first seed alone one
# would have reported 100% everywhere. With twice the steps the turned lanes learn it too; the mask
# alone still guesses. (Other cells did not get more steps: a cell that guesses may still learn
# later.) A later recipe, for up to four lanes, has half the rows in a step and 4,000 steps: with
# it turned lanes learn the game in all of five seeds.

# %%
longer = json.loads((folder / "scratch-4000.json").read_text())
for name, cell in longer["cells"].items():
    for run in cell["seeds"]:
        each = [run["scores"][str(n)]["accuracy"] for n in N]
        print(f"{name}, seed {run['seed']}, twice the steps:", *(f"{x:.1%}" for x in each))
        assert max(each[1:]) < chance + 0.1 if name == "joint-none" else min(each) > 0.95

(five,) = json.loads((folder / "apart-4000.json").read_text())["cells"].values()
four = [run["scores"]["4"]["accuracy"] for run in five["seeds"]]
print("another recipe, up to four lanes, five seeds:", *(f"{x:.1%}" for x in four))
assert len(four) == 5 and min(four) > 0.95

most = str(N[-1])
curves, runs = {}, cells[names["mask, learned"]]["seeds"]
for run in runs:
    log = [entry for entry in run["curve"] if "exact" in entry]
    curves[f"mask, learned: seed {run['seed']}"] = [entry["exact"][most] for entry in log]
log = [entry for entry in cells["joint-none"]["seeds"][0]["curve"] if "exact" in entry]
curves["mask only: seed 0"] = [entry["exact"][most] for entry in log]
steps = [entry["step"] for entry in log]
figure = plot.lines(curves, steps, "step", "share of games", f"All words of {most} lanes right")
see = (
    "Nothing for a long time, then all at once, in each seed at another time. A training that is "
    "stopped before the jump looks like one that cannot learn."
)
plot.show(figure, "11-learning", caption=see)

# %% [markdown]
# ## What it did not find
#
# The study did *not* find that a learned Omega is better, or worse, than one that stays at its
# start. In its second table, tuning Omega and biases (0.3% of the parameters) was not enough for a
# checkpoint that has never seen another lane, and preferences (KTO) were not better than likelihood
# (SFT); after SFT they added a little. The paper reports both for large models on mathematics.

# %%
tuned = json.loads((folder / "finetune.json").read_text())["cells"]
four = {
    name: [run["scores"]["4"]["accuracy"] for run in cell["seeds"]] for name, cell in tuned.items()
}
for name, shares in four.items():
    print(f"{name:20}", *(f"{x:.1%}" for x in shares), " right, four lanes, by seed")
assert max(four["sft-omega_biases"]) < 0.5 < min(four["sft-full"])
assert four["sft-full"][0] > four["kto-full"][0]

# %% [markdown]
# ## Where reading is needed
#
# In this game everybody knows before the first word who does what. The study has a second one:
# lanes explore a graph, each step each lane a node that no lane has explored yet. Lanes that do not
# read were trained on the very same texts. They foresee what the others must be writing, as long as
# that takes few steps: three edges, not four. [What lanes are good for](../lanes.md) has the rest.

# %%
frontier = json.loads((folder / "frontier.json").read_text())["cells"]
for name in ("joint", "independent"):
    right = frontier[name]["seeds"][0]["scores"]["4"]["by_answer"]
    near, far = (np.sum([right[k] for k in keys], axis=0) for keys in ("23", "456"))
    print(f"{name:12} goal at 2 or 3: {near[0]} of {near[1]}; further: {far[0]} of {far[1]}")
    assert near[0] > 0.95 * near[1] and (far[0] > 0.6 * far[1]) == (name == "joint")

# %% [markdown]
# ## And a real language model?
#
# Untrained, its lanes should not read each other. SmolLM2-135M-Instruct answered questions of
# GSM8K with four lanes. How likely does the same model find each lane's text by itself, and how
# much of it (in sequences of four tokens) stands in another lane, too?

# %%
evals = json.loads((folder / "real.json").read_text())["evals"]
(run,) = [one["untuned"] for one in evals.values() if "untuned" in one]
for mode, one in run["modes"].items():
    likely, shared = (one["writing"][k]["value"] for k in ("log-probability", "in another lane"))
    print(f"{mode:12} {likely:.2f} nats a token; in another lane: {shared:.0%}")
    if mode != "independent":  # each interval of the difference from independent lanes
        assert one["difference"]["log-probability"]["interval_95"][1] < 0
        assert one["difference"]["in another lane"]["interval_95"][0] > 0
print(f"{run['problems']} problems")

# %% [markdown]
# Lanes that read each other untrained write less likely text, and repeat each other. Whether that
# changes how many answers are right cannot be seen: this model has hardly any right. Trained lanes
# of the same model add numbers together; on [What lanes are good for](../lanes.md) is what they
# learned and what they did not.
#
# ## What this does not show
#
# Both games were made to be shared, the models are small, and the seeds few. Lanes that read
# no other lane could be taught a better plan than one they cannot follow: `fold` in the study's
# tables lets every lane do all the swaps, several per word, in as many words.
#
# And one lane alone is always right. What is joint decoding good for, then? It saves steps, not
# tokens. A step of eight lanes costs little more than a step of one, where reading the weights
# takes most of the time.

# %%
total = {n: n * table["steps"][str(n)] for n in N}
print("steps:", table["steps"], " tokens of all lanes:", total)
assert min(total, key=total.get) == 1

# %% [markdown]
# How much may lie between two encodings with 100% each in a seed? Wilson's lower end for n of n is
# not 100%. A difference above it is not visible in so few problems.

# %%
lowest, _ = wilson(500, 500)
print(f"500 of 500: {lowest:.1%} to 100%")
assert 0.9 < lowest < 1

# %% [markdown]
# ## Exercises
#
# **11.1** Wilson's interval. Without looking: it has all p for which k is within 1.96 standard
# deviations, sqrt(n p (1 - p)), of n p.


# %%
def my_wilson(k, n):
    """k right answers in n -> (low, high)."""
    ...


print(learn.check("11.1", my_wilson))

# %% [markdown]
# **11.2** Chance, for any number of cups and swaps: the share of games that the best fixed guess
# wins.


# %%
def my_chance(cups, swaps):
    """Swaps of any two cups, all equally likely -> a number."""
    ...


print(learn.check("11.2", my_chance))

# %% [markdown]
# ## What next?
#
# You have been through all of it. [The study](../study.md) has its tables. [Read the
# code](../reading.md) says which seven files to read, in which order. Or take [an encoding of
# yours](../how-to/encoding.md), train it, and see whether it is better.
