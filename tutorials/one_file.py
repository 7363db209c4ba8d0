"""The whole idea in one file: lanes that read each other while they write. NumPy, nothing else.

    python tutorials/one_file.py ["cups ABCD, swap ...: where?"] [1, 2, 4 or 8 lanes]

A small trained model plays a shell game: where is each cup after these swaps? Each of four lanes
takes a quarter of the swaps. Then each combines its result with those that the others have written.
Every token has a coordinate: its position on a clock that all lanes share, and its lane.

    T rows (tokens) of a pass   S rows so far   H heads   K key heads   D head size   C width
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

SHARED = -1  # the lane of the prompt, which every lane reads
FOLDER = Path(__file__).resolve().parent.parent / "weights" / "shell-game"
PROMPT = "cups ABCD, swap 1-2 3-4 2-3 1-4 1-3 2-4 1-2 3-4 2-3 1-4 1-2 2-4 1-3 3-4 2-3 1-2: where?"


# 1. Files. A .safetensors file is a header of JSON, its length in front, and then the numbers.


def read_tensors(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    params = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            dtype = {"F32": np.float32, "F64": np.float64}[entry["dtype"]]
            numbers = np.frombuffer(data[start + first : start + last], dtype)
            params[name] = numbers.reshape(entry["shape"])
    return params


config = json.loads((FOLDER / "config.json").read_text())
vocabulary = json.loads((FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
words = {token: word for word, token in vocabulary.items()}
params = read_tensors(FOLDER / "model.safetensors")
omega = read_tensors(FOLDER / "adapter" / "adapters.safetensors")["lane_rope.omega"]  # (D/2,)


# 2. Where a token stands. A head's D numbers are D/2 points in planes. Position i turns plane d by
# i * theta[d] (RoPE), lane m by m * omega[d] more (LaneRoPE). So the product of a query and a key
# depends on how far apart they are, in position and in lane.

D = config["head_dim"]
theta = config["rope_theta"] ** (-np.arange(0, D, 2) / D)


def rotate(x, angles):  # x (heads, T, D), angles (T, D/2)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    left, right = x[..., : D // 2], x[..., D // 2 :]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


# 3. Who sees whom: the prompt, its own lane, and the other lanes, up to its own position.


def visible(positions, lanes, key_positions, key_lanes):  # -> (T, S)
    reads = (key_lanes == SHARED) | (lanes[:, None] != SHARED)  # the prompt reads no lane
    return reads & (key_positions <= positions[:, None])


# 4. The decoder, and its cache: keys and values of every row so far, the prompt once, then what the
# lanes wrote, in order of arrival. A row that is cached never changes.


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight


def linear(name, x):
    return x @ params[name + ".weight"].T


def attention(layer, x, positions, lanes, cache):
    name = f"model.layers.{layer}.self_attn."
    query, key, value = (  # (heads, T, D)
        linear(name + part, x).reshape(len(x), -1, D).swapaxes(0, 1)
        for part in ("q_proj", "k_proj", "v_proj")
    )
    query = rms_norm(query, params[name + "q_norm.weight"])
    key = rms_norm(key, params[name + "k_norm.weight"])
    by_position = positions[:, None] * theta
    by_both = by_position + np.maximum(lanes, 0)[:, None] * omega
    keys, values = rotate(key, by_both), value
    if layer in cache:
        keys, values = (np.hstack(pair) for pair in zip(cache[layer], (keys, values), strict=True))
    cache[layer] = keys, values  # (K, S, D)
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    keys, values = np.repeat(keys, group, axis=0), np.repeat(values, group, axis=0)  # (H, S, D)
    # Every lane takes the prompt as its own: for prompt keys, a query is turned by position alone.
    turned = [rotate(query, angles) @ keys.swapaxes(1, 2) for angles in (by_position, by_both)]
    scores = np.where(cache["lanes"] == SHARED, *turned)
    seen = visible(positions, lanes, cache["positions"], cache["lanes"])
    scores = np.where(seen, scores / np.sqrt(D), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ values).swapaxes(0, 1).reshape(len(x), -1)
    return linear(name + "o_proj", mixed)


def forward(tokens, positions, lanes, cache):  # -> logits (T, V)
    tokens, positions, lanes = np.array(tokens), np.array(positions), np.array(lanes)
    cache["positions"] = np.append(cache["positions"], positions)
    cache["lanes"] = np.append(cache["lanes"], lanes)
    x = params["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        normed = rms_norm(x, params[name + "input_layernorm.weight"])
        x = x + attention(layer, normed, positions, lanes, cache)
        normed = rms_norm(x, params[name + "post_attention_layernorm.weight"])
        gate, up = linear(name + "mlp.gate_proj", normed), linear(name + "mlp.up_proj", normed)
        x = x + linear(name + "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
    return rms_norm(x, params["model.norm.weight"]) @ params["model.embed_tokens.weight"].T


# 5. Joint decoding: each step is one pass, which gives every live lane its next token.


def generate(prompt, lanes, max_tokens=30):  # -> the words of each lane
    cache = {"positions": np.zeros(0, int), "lanes": np.zeros(0, int)}
    tokens = [vocabulary.get(word, 0) for word in re.findall(r"[,:?]|[^\s,:?]+", prompt)]
    P = len(tokens)
    forward(tokens, range(P), [SHARED] * P, cache)
    fed = {m: vocabulary[f"{m + 1}/{lanes}"] for m in range(lanes)}  # each begins with its tag
    texts = [[] for _ in range(lanes)]
    for position in range(P, P + max_tokens):
        if not fed:
            break
        logits = forward(list(fed.values()), [position] * len(fed), list(fed), cache)
        drawn = dict(zip(fed, logits.argmax(axis=-1).tolist(), strict=True))
        fed = {m: token for m, token in drawn.items() if words[token] != "<end>"}
        for m, token in fed.items():
            texts[m].append(words[token])
    return texts


if __name__ == "__main__":
    prompt, count = (sys.argv[1:2] or [PROMPT])[0], (sys.argv[2:3] or ["4"])[0]
    if f"1/{count}" not in vocabulary:
        sys.exit(f"{count} lanes; expected 1, 2, 4 or 8")
    print(prompt)
    for m, text in enumerate(generate(prompt, int(count))):
        print(f"lane {m + 1}: {' '.join(text)}")
