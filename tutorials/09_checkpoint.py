# %% [markdown]
# # 9. A real checkpoint, and what its lanes do untrained
#
# Nothing so far was special to small models. `python tutorials/smollm2.py` puts a language model of
# 135M weights, SmolLM2-135M-Instruct, into your cache (269 MB); then this page uses it. `python
# tutorials/09_checkpoint.py Qwen/Qwen3-0.6B` takes that one (1.5 GB); your own folder works too.
# Without any, the page makes a tiny checkpoint of random weights: **its text is nonsense**.

# %%
import json
import sys
from pathlib import Path

import numpy as np
import smollm2  # the script beside this one
from tokenizers import Tokenizer, decoders, models

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, plot
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.plan import inspect
from tinylane.files.memory import forecast
from tinylane.files.safetensors import write_tensors
from tinylane.testing.verification import samples_for, verify

SOURCE = sys.argv[1] if len(sys.argv) == 2 else ""  # or write a name here

# %% [markdown]
# ## What a checkpoint is
#
# A folder with sizes, weights, how text becomes numbers, and how a conversation becomes text. This
# makes a tiny one. Most weights are published in bfloat16: the upper half of a float32's bits.


# %%
def tiny(folder):
    raw = {"model_type": "qwen3", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96}
    raw |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    raw |= {"head_dim": 64, "eos_token_id": 96, "tie_word_embeddings": True}
    rng, weights = np.random.default_rng(0), {}
    for name, shape in parse_config(raw).tensors().items():
        w = rng.normal(float("norm" in name), 0.3, shape).astype(np.float32)
        weights[name] = ((w.view(np.uint32) >> 16).astype(np.uint16), "BF16")
    words = Tokenizer(models.BPE({chr(32 + i): i for i in range(95)}, []))  # one for every letter
    words.decoder = decoders.Fuse()
    words.add_special_tokens(["<|user|>", "<|end|>"])
    chat = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps(raw))
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
print(*(f"{key:12}{report[key]['value']}" for key in ("sizes", "dtype", "rope")), sep="\n")
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
# lane has its own random numbers, so lane 0 writes what it would write alone.

# %%
prompt = model.tokenizer.prompt_ids("How many primes are there below 50?")
print(model.tokenizer.decode(prompt, skip_special=False))
settings = {"max_tokens": 24, "seed": 1, "sampler": tinylane.Sampler(temperature=0.6, top_p=0.95)}
result = tinylane.generate(model, prompt, lanes=4, **settings)
alone = tinylane.generate(model, prompt, lanes=1, **settings)
assert model.dtype != "float32" or alone.lanes[0].tokens == result.lanes[0].tokens  # near-ties!
plot.show(plot.lanes(result, model.tokenizer, "Four independent answers"), "09-answers")

# %% [markdown]
# ## What if they read each other, untrained?
#
# Run what they have written again, in one pass, with all lanes visible. How much do the predictions
# change? We measure it in nats (Kullback-Leibler divergence; 0 if nothing changed), for three
# starts of Omega. On a real checkpoint this is harm that training must undo. Then read the text.

# %%
N, T, P = 4, min(len(lane.tokens) for lane in result.lanes), len(prompt)
tokens = np.array(prompt + [lane.tokens[t] for t in range(T) for lane in result.lanes])
positions = np.concatenate([np.arange(P), np.repeat(P + np.arange(T), N)])
lanes = np.concatenate([np.full(P, SHARED), np.tile(np.arange(N), T)])


def predictions(rope, mask):
    """log-probabilities (T, N, vocab) of what follows each row of the lanes."""
    logits = np.asarray(model(tokens, positions, lanes, rope, mask), dtype=np.float64)[P:]
    logits = logits.reshape(T, N, -1) - logits.max()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


moved = lambda rope, mask: (np.exp(unread) * (unread - predictions(rope, mask))).sum(-1).mean(1)
none, ntk = LaneRoPE.none(model.theta), LaneRoPE.ntk(model.theta, slot=32, scale=N)
starts = {"none": none, "NTK": ntk, "Group Think": LaneRoPE.group_think(model.theta, 32, 0)}
unread = predictions(none, apart := LaneMask.independent(N))
harm = {name: moved(rope, LaneMask.joint(N)) for name, rope in starts.items()}
assert all(nats.mean() > 0 for nats in harm.values())
assert np.abs(moved(ntk, apart)).max() < 0.1 * harm["NTK"].mean()  # unread, no Omega matters
plot.show(plot.lines(harm, np.arange(T), "step", "nats", "What untrained reading does"), "09-harm")
settings |= {"lane_rope": ntk, "lane_mask": LaneMask.joint(N)}
print(*tinylane.generate(model, prompt, lanes=N, **settings).texts, sep="\n---\n")

# %% [markdown]
# ## Exercises
# **1.** How much memory do eight lanes save by keeping the prompt's keys and values once?
#
# **2.** Do the laws hold on this checkpoint? (`tinylane verify` checks that.)

# %% [markdown]
# ### Solution 1

# %%
c, item = model.config, 4 if model.dtype == "float32" else 2
saved = 7 * 512 * 2 * c.layers * c.kv_heads * c.head_dim * item
eight, one = (forecast(c, model.dtype, lanes=n, prompt_tokens=512) for n in (8, 1))
assert 8 * one.total - eight.total == 7 * one.weights + saved  # and seven copies of the weights

# %% [markdown]
# ### Solution 2

# %%
laws = verify(model, samples_for(model, 2, 1, prompt=prompt)).findings
print(*(f"{law.number:2} {law.law:14} {law.verdict}" for law in laws), sep="\n")
assert len(laws) > 8 and all(law.holds for law in laws)
