"""Records what transformers' logits processors make of a few logits, in tests/data/sampling.npz.

    python tests/record/record_sampling.py        (needs torch and transformers: the extra `parity`)

The processors and their order are those of `GenerationMixin._get_logits_processor`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parents[1] / "data" / "sampling.npz"

CASES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"logit_bias": {"3": 2.5, "40": -4.0, "0": -50.0}},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},  # Qwen3
    {"temperature": 0.6, "top_p": 0.95},  # DeepSeek-R1-Distill-Qwen
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},  # Qwen2.5
    {"temperature": 1.5, "top_p": 0.7, "top_k": 30, "min_p": 0.2, "repetition_penalty": 1.2},
    {"temperature": 1.5, "top_p": 0.6, "logit_bias": {"7": 3.0, "8": 3.1}, "min_p": 0.3},
]
HISTORY = [[1, 2, 3, 2, 9], [0, 5, 61, 61, 30], [63, 63, 63, 63, 63], [7, 8, 9, 10, 11]]


def inputs() -> np.ndarray:
    """(4, 64) float32 logits: flat, typical, peaked, all negative."""
    rng = np.random.default_rng(20)
    logits = rng.standard_normal((4, 64)) * np.array([[0.5], [3.0], [8.0], [2.0]])
    logits[3] -= 20.0
    return logits.astype(np.float32)


def expected(case: dict[str, Any], logits: np.ndarray, history: list[list[int]]) -> np.ndarray:
    """The distribution transformers samples from; processed in the logits' dtype."""
    import torch
    from transformers.generation import logits_process as lp

    processors: list[Any] = []
    if case.get("logit_bias"):
        bias = {(int(token),): float(value) for token, value in case["logit_bias"].items()}
        processors.append(lp.SequenceBiasLogitsProcessor(bias))
    if case.get("repetition_penalty", 1.0) != 1:
        processors.append(lp.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    if case.get("temperature", 1.0) != 1:
        processors.append(lp.TemperatureLogitsWarper(case["temperature"]))
    if case.get("top_k", 0) != 0:
        processors.append(lp.TopKLogitsWarper(case["top_k"]))
    if case.get("top_p", 1.0) < 1:
        processors.append(lp.TopPLogitsWarper(case["top_p"]))
    if case.get("min_p", 0.0) > 0:
        processors.append(lp.MinPLogitsWarper(case["min_p"]))
    scores, ids = torch.from_numpy(logits), torch.tensor(history)
    for processor in processors:
        scores = processor(ids, scores)
    return scores.double().softmax(-1).numpy()


def record() -> dict[str, np.ndarray]:
    logits = inputs()
    tables = [expected(case, logits, HISTORY) for case in CASES]
    return {
        "logits": logits,
        "history": np.array(HISTORY),
        "cases": np.array([json.dumps(case) for case in CASES]),
        "probabilities": np.stack(tables).astype(np.float32),
    }


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    partial = FILE.with_suffix(".partial.npz")
    np.savez_compressed(partial, **record())
    os.replace(partial, FILE)
    print(f"{FILE.name}: {len(CASES)} cases, {FILE.stat().st_size} bytes")
