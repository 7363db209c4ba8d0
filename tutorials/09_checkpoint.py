# %% [markdown]
# # 9. A real checkpoint, and its lanes: untrained, then trained
#
# Nothing so far was special to small models. `python tutorials/smollm2.py` puts a language model of
# 135M weights, SmolLM2-135M-Instruct, into your cache (269 MB); then this page uses it, with the
# lane adapter that comes with tinylane. `python tutorials/09_checkpoint.py Qwen/Qwen3-0.6B` takes
# that one (1.5 GB); your own folder works too. Without any, the page makes a tiny checkpoint of
# random weights: **its text is nonsense**.

# %%
import json
import sys
from pathlib import Path

import numpy as np
import smollm2  # the script beside this one
from tokenizers import Tokenizer, decoders, models

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, learn, plot
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.load import inspect
from tinylane.files.memory import forecast
from tinylane.files.safetensors import write_tensors
from tinylane.testing import Sample, assert_causality, assert_isolation
from tinylane.testing.checks import bound

SOURCE = sys.argv[1] if len(sys.argv) == 2 else ""  # or write a name here

# %% [markdown]
# ## What a checkpoint is
#
# A folder with sizes, weights, how text becomes numbers, and how a conversation becomes text. This
# makes a tiny one. Most weights are published in bfloat16: the upper half of a float32's bits.


# %%
def tiny(folder):
    sizes = {"model_type": "qwen3", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 64, "eos_token_id": 96, "tie_word_embeddings": True}

    rng, weights = np.random.default_rng(0), {}
    for name, shape in parse_config(sizes).tensors().items():
        w = rng.normal(float("norm" in name), 0.3, shape).astype(np.float32)
        weights[name] = ((w.view(np.uint32) >> 16).astype(np.uint16), "BF16")

    words = Tokenizer(models.BPE({chr(32 + i): i for i in range(95)}, []))  # one for every letter
    words.decoder = decoders.Fuse()
    words.add_special_tokens(["<|user|>", "<|end|>"])
    chat = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"

    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "tokenizer.json").write_text(words.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat}))
    return folder


real = smollm2.default_folder()
source = SOURCE or (real if smollm2.is_ready(real) else tiny(Path("runs/tiny-checkpoint")))
print("this page's model:", Path(source).name)

# %% [markdown]
# ## What would be loaded
#
# `inspect` (`tinylane inspect` in a shell) refuses mathematics that is not implemented. Then read a
# weight by hand: eight bytes give the length of the header, which says where a tensor's bytes are.

# %%
report = inspect(source)
for key in ("sizes", "dtype", "rope"):
    print(f"{key:8}{report[key]['value']}")

model = tinylane.load(source)
name = "model.layers.0.self_attn.q_proj.weight"
for path in Path(report["model"]["value"]).glob("*.safetensors"):  # large ones have several
    blob = np.memmap(path, np.uint8, mode="r")
    begin = 8 + int(blob[:8].view(np.uint64)[0])
    header = json.loads(blob[8:begin].tobytes())
    if header.get(name, {}).get("dtype") == "BF16":
        start, end = header[name]["data_offsets"]
        bits = blob[begin + start : begin + end].view(np.uint16).astype(np.uint32) << 16
        by_hand = bits.view(np.float32).reshape(header[name]["shape"])  # (out, in) in files
        assert np.array_equal(by_hand[:4, :4].T, model.params[name][:4, :4].tolist())

# %% [markdown]
# ## Four answers to one question
#
# A checkpoint was not trained to read other lanes, so its lanes do not, unless you ask for it. Each
# lane has its own random numbers, so lane 1 writes what it would write alone.

# %%
prompt = model.tokenizer.prompt_ids("How many primes are there below 50?")
print(model.tokenizer.decode(prompt, skip_special=False))  # what the chat template makes of it
settings = {"max_tokens": 16, "seed": 1, "sampler": tinylane.Sampler(temperature=0.6, top_p=0.95)}
result = tinylane.generate(model, prompt, lanes=4, **settings)
for lane in result.lanes:
    print(f"lane {lane.index + 1}: {lane.text!r}")
alone = tinylane.generate(model, prompt, lanes=1, **settings)
assert model.dtype != "float32" or alone.lanes[0].tokens == result.lanes[0].tokens  # near-ties!

# %% [markdown]
# ## What if they read each other, untrained?
#
# Run what they have written again, in one pass, with all lanes visible. How much do the predictions
# change? We measure it in nats (Kullback-Leibler divergence; 0 if nothing changed). Two things
# could do harm: what a lane *reads*, and where the *prompt* stands. So each start of Omega is run
# twice, with lanes that read each other (joint) and with lanes that do not (unread). What is left
# without reading is the prompt's.

# %%
N, T, P = 4, min(len(lane.tokens) for lane in result.lanes), len(prompt)
tokens = np.array(prompt + [lane.tokens[t] for t in range(T) for lane in result.lanes])
positions = np.concatenate([np.arange(P), np.repeat(P + np.arange(T), N)])
lanes = np.concatenate([np.full(P, SHARED), np.tile(np.arange(N), T)])
joint, unread = LaneMask.joint(N), LaneMask.independent(N)


def log_probabilities(rope, mask):
    """(T * N, vocab) of what follows each row of the lanes."""
    logits = np.asarray(model(tokens, positions, lanes, rope, mask), dtype=np.float64)[P:]
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


no_turn = LaneRoPE.none(model.theta)
usual = log_probabilities(no_turn, unread)


def nats(rope, mask):
    return (np.exp(usual) * (usual - log_probabilities(rope, mask))).sum(axis=-1).mean()


starts = {
    "no turn": no_turn,
    "NTK, slot 32": LaneRoPE.ntk(model.theta, 32, N),
    "Group Think, slot 32": LaneRoPE.group_think(model.theta, 32),
    "the same, prompt at lane 1": LaneRoPE.group_think(model.theta, 32, prompt_lane=0),
}
print(f"{'nats':28}  joint  unread")
for label, rope in starts.items():
    harm = nats(rope, joint), nats(rope, unread)
    print(f"{label:28}{harm[0]:7.2f}{harm[1]:8.2f}")
    if rope.prompt_lane == "own":
        assert abs(harm[1]) < 1e-3  # law 7: unread, no Omega matters
    else:
        assert harm[1] > 0.01  # the prompt is somewhere else

# %% [markdown]
# Lanes that are not turned take the other lanes' words for their own. A turn by a small slot makes
# most of that harm go away, in either form. The last line is Group Think as published: nearly all
# of its harm is there without any reading. It comes from the prompt, which stands further and
# further behind the later lanes. With the prompt as a part of every lane it is gone.
#
# What reading does depends on how far lanes are put from each other:

# %%
slots = [32, 128, 512, 2048]
kinds = {"Group Think": LaneRoPE.group_think, "NTK": lambda theta, s: LaneRoPE.ntk(theta, s, N)}
curves = {
    label: [nats(kind(model.theta, slot), joint) for slot in slots] for label, kind in kinds.items()
}
curves["no turn"] = [nats(no_turn, joint)] * len(slots)
figure = plot.lines(curves, np.log2(slots), "log2 of the slot", "nats", "Untrained lanes that read")
see = (
    "On SmolLM2: little harm up to slot 128 (7 on this axis), then more with every step; the NTK-"
    "aware start stands it longer. The level line is lanes that are not turned."
)
plot.show(figure, "09-harm", caption=see)
assert all(value > 0 for values in curves.values() for value in values)

# %% [markdown]
# Those were sixteen tokens of four lanes. Page 11 has what untrained lanes write when they answer
# questions of GSM8K, with 200 tokens each.
#
# ## Lanes that were trained
#
# `weights/smollm2-lanes` is an adapter for this model: small updates and an Omega, trained on
# transcripts in which lanes share the work. Here four lanes add numbers: each adds its own share
# first, then they combine what they read from one another. How often it is right is in the
# adapter's README; it is a small model, and it makes mistakes.

# %%
adapter = Path(smollm2.__file__).parents[1] / "weights" / "smollm2-lanes"
fits = adapter.is_dir() and Path(source) == real  # else nothing is loaded: the model as it was
tuned = tinylane.load(source, adapter=adapter) if fits else model
question = "Add these numbers: 56 21 51 07 30 52 20 07 43 46 53 13 33 11 51 21"
tags = [f"{m + 1}/{N}:" for m in range(N)]
given = {"lane_prompts": tags, "max_tokens": 48, "sampler": tinylane.Sampler(temperature=0)}
print(question if fits else f"{question} (without the adapter)")
added = tinylane.generate(tuned, question, lanes=N, lane_mask=joint, **given)
for tag, lane in zip(tags, added.lanes, strict=True):
    print(f"  {tag} {lane.text!r}")
assert len(added.lanes) == N and tuned.trained_for_lanes == fits

# %% [markdown]
# ## How much memory?
#
# Eight lanes keep the prompt's keys and values once, not eight times, and the weights once.

# %%
c, item = model.config, 4 if model.dtype == "float32" else 2
saved = 7 * 512 * 2 * c.layers * c.kv_heads * c.head_dim * item
eight, one = (forecast(c, model.dtype, lanes=n, prompt_tokens=512) for n in (8, 1))
assert 8 * one.total - eight.total == 7 * one.weights + saved
print(
    f"saved with a prompt of 512 tokens: {saved / 2**20:.0f} MiB, and seven copies of the weights"
)

# %% [markdown]
# ## Do the laws hold here?
#
# Here are two laws that allow no difference at all, on the rows above: another token changes
# nothing earlier (causality, page 8), and nothing in lanes that do not read it (isolation, page 5).
# `tinylane verify` checks all twenty-five laws on a checkpoint at its real size; that takes some
# minutes for this one.

# %%
chain = LaneMask(np.tri(N, dtype=bool))  # each lane reads those before it
sample = Sample(tokens, positions, lanes, chain, LaneRoPE.ntk(model.theta, 32, N), c.vocab)
f = bound(model, sample)
print(assert_causality(f, sample, row=len(tokens) - 2 * N))
print(assert_isolation(f, sample, lane=N - 1))
assert assert_causality(f, sample, row=P).worst == 0

# %% [markdown]
# ## Exercises
#
# **09.1** Read one tensor of a file, by its name, whether it is in F32 or in BF16.


# %%
def read_tensor(path, name):
    """A .safetensors file -> a float32 array in the file's own shape."""
    ...


print(learn.check("09.1", read_tensor))

# %% [markdown]
# **09.2** How many bytes do keys and values take, after a prompt and some tokens of every lane? It
# is checked with real caches.


# %%
def cache_bytes(layers, kv_heads, head_dim, prompt, lanes, steps, item):
    """prompt: tokens; steps: tokens of each lane; item: bytes of a number -> bytes."""
    ...


print(learn.check("09.2", cache_bytes))

# %% [markdown]
# ## What next?
#
# Your own model: [how to load one](../how-to/load.md), and [how to train
# lanes](../how-to/train.md). [Page 10](10_cooperate.md) trains small ones in seconds, to see what
# can be learned at all.
