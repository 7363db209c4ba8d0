"""Can this model of transformers have lanes? What its config says, and law 11 on the model itself.

Law 11: with Omega = slot * theta and the prompt at lane 0, a token of lane m at position i stands
at i + m * slot. So the lanes' attention must give what the model's own gives at those positions,
under the same mask. It fails for a rotation of another layout, of a part of the head, or left out
in some layers, since the lane's turn would then be another one than the position's.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE

# In standard deviations of the logits. float32: measured 4e-7 to 9e-6 on 13 architectures; a wrong
# layout gives 0.01 and more. transformers makes its tables of angles in float32, so a float64 model
# has the same error.
TOLERANCE, IN_16_BITS = 1e-4, 0.1
SLOT = 5


def check_model(model: Any) -> np.ndarray:
    """The frequencies theta (D/2,), float64, of a model whose config promises what lanes need.

    Raises TinylaneError, with the reason, for one that cannot have lanes.
    """
    name = type(model).__name__
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise TinylaneError(f"the model is {show(name)}; expected one of transformers")
    config = model.config.get_text_config()
    tables = {
        key: value
        for key, value in model.named_buffers()
        if key.endswith("inv_freq") and "original" not in key
    }
    values = list(tables.values())
    if not values:
        raise TinylaneError(f"{name} has no rotation of positions (no inv_freq); no lanes")
    if any(v.shape != values[0].shape or not torch.equal(v, values[0]) for v in values[1:]):
        raise TinylaneError(f"{name} has two tables of frequencies ({', '.join(tables)}); no lanes")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    theta = values[0].detach().cpu().double().numpy()
    if 2 * len(theta) != head:
        raise TinylaneError(
            f"{name} turns {2 * len(theta)} of its head's {head} channels (a partial rotation); "
            "lanes need all of them"
        )
    turning = getattr(config, "no_rope_layers", None) or []  # 1 for a layer that turns
    skipped = [layer for layer, turns in enumerate(turning) if not turns]
    if skipped:
        raise TinylaneError(f"{name} has layers without rotation ({show(skipped, 40)}); no lanes")
    scaling = getattr(config, "rope_parameters", None) or {}
    kind = scaling.get("rope_type") if isinstance(scaling, dict) else None
    if kind in ("dynamic", "longrope"):
        raise TinylaneError(
            f"{name}: frequencies of kind {kind} change with the length of the text; no lanes"
        )
    return theta


def window(config: Any) -> int:
    """How many positions every layer sees: the least window of attention, if layers have one."""
    size = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if size is None or not getattr(config, "use_sliding_window", True):
        return sys.maxsize
    return int(size) if kinds is None or "sliding_attention" in kinds else sys.maxsize


def check_law(model: Any) -> float:
    """Law 11 on a few random tokens: the error, in standard deviations of the logits.

    Raises TinylaneError if the lanes' attention does not give what the model's own does.
    """
    prompt, length, n = 3, 3, 3
    rng = np.random.default_rng(0)
    rows = prompt + n * length
    tokens = rng.integers(0, model.config.vocab, rows)
    positions = np.concatenate([np.arange(prompt), prompt + np.repeat(np.arange(length), n)])
    lanes = np.concatenate([np.full(prompt, SHARED), np.tile(np.arange(n), length)])
    mask, rope = LaneMask.joint(n), LaneRoPE.group_think(model.theta, SLOT, 0)
    virtual = positions + SLOT * np.maximum(lanes, 0)
    training = model.source.training
    model.source.eval()
    try:
        got = model(tokens, positions, lanes, rope, mask).astype(np.float64)
        seen = mask.visible(positions, lanes, positions, lanes)
        expected = plain(model.source, tokens, virtual, seen)
    finally:
        model.source.train(training)
    error = float(np.abs(got - expected).max() / max(expected.std(), 1e-30))
    limit = IN_16_BITS if model.source.dtype.itemsize < 4 else TOLERANCE
    if not error <= limit:
        raise TinylaneError(
            f"{type(model.source).__name__} does not keep law 11: logits differ by {error:.2g} "
            f"standard deviations, limit {limit:g}. Its rotation is not the half-split one of "
            "all channels in all layers, or its attention does more; no lanes"
        )
    return error


def check_cache(model: Any) -> None:
    """Raise TinylaneError, with its name, for a cache of transformers that does not keep all rows.

    Two passes with it must give what one pass without it gives. Quantized caches keep rounded
    keys and values: theirs are only looked at for whether they are numbers.
    """
    positions, lanes = np.array([0, 1, 2, 3, 3, 4, 4]), np.array([SHARED] * 3 + [0, 1, 0, 1])
    tokens = np.arange(len(lanes)) % model.config.vocab
    mask, rope = LaneMask.joint(2), LaneRoPE.group_think(model.theta, SLOT)
    rows = [(tokens[part], positions[part], lanes[part]) for part in (slice(5), slice(5, None))]
    name = getattr(model.new_past, "__name__", "the cache")
    training = model.source.training
    model.source.eval()
    try:
        cache = model.new_cache(rope, mask)
        name = type(cache.past).__name__
        got = [model(*some, rope, mask, cache=cache).astype(np.float64) for some in rows]
        sliding = any(getattr(layer, "is_sliding", False) for layer in cache.past.layers)
        exact = all(getattr(layer, "is_croppable", True) for layer in cache.past.layers)
    except Exception as error:  # of whatever class transformers or a library raises
        raise TinylaneError(f"{name} cannot hold lanes: {show(str(error), 120)}") from error
    finally:
        model.source.train(training)
    if sliding:
        raise TinylaneError(
            f"{name} forgets rows behind a window, and lanes need all; give one without a window, "
            "such as DynamicCache() without a config"
        )
    expected = model(tokens, positions, lanes, rope, mask).astype(np.float64)
    apart = np.abs(np.concatenate(got) - expected).max() / max(expected.std(), 1e-30)
    limit = np.inf if not exact else IN_16_BITS if model.source.dtype.itemsize < 4 else TOLERANCE
    if not apart <= limit:
        raise TinylaneError(
            f"{name} does not keep the rows that it is given: logits differ by {apart:.2g} "
            f"standard deviations, limit {limit:g}"
        )


def plain(model: Any, tokens: np.ndarray, positions: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Logits (T, V) of the model's own eager attention at these positions, under a mask (T, T)."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    hidden = torch.zeros(seen.shape, dtype=model.dtype)
    hidden = hidden.masked_fill(~torch.from_numpy(seen), torch.finfo(model.dtype).min)
    batch = lambda x: x[None].to(model.device)
    try:
        with torch.no_grad():
            logits = model(
                input_ids=batch(torch.from_numpy(tokens)),
                position_ids=batch(torch.from_numpy(positions)),
                attention_mask=batch(hidden[None]),
                use_cache=False,
            ).logits
    finally:
        model.set_attn_implementation(before)
    return logits[0].cpu().double().numpy()
