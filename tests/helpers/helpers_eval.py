"""A small random checkpoint that takes any text, and a small data set, for the tests of eval.

python tests/helpers/helpers_eval.py FOLDER     writes the checkpoint
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers_checkpoint import small, weights, write_checkpoint
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tinylane.evaluate.results import AnswerRow, read
from tinylane.files.run_dir import read_run

SHARED = Path(__file__).parents[2] / "../shared/data/gsm8k_test.jsonl"
END = "</s>"
WORDS = ("\n#### ", "\\boxed{", "}", " is ", ". ", "= ", "12", "18", "3", "\n")


def tokenizer() -> str:
    """Bytes, and a few words that answers are made of."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: k for k, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    core.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return core.to_str()


def checkpoint(folder: Path, seed: int = 0, context: int = 2048) -> Path:
    """A Qwen3 of random weights. Its head prefers the words of WORDS, so that it gives answers."""
    end = 256
    raw = small(vocab_size=257 + len(WORDS), eos_token_id=end, max_position_embeddings=context)
    raw |= {"tie_word_embeddings": False}
    tensors = weights(raw, seed)
    for name in tensors:
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            tensors[name] *= 4  # otherwise every distribution is flat
    write_checkpoint(folder, raw, tensors, generation={"do_sample": True, "temperature": 1.0})
    (folder / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# Towards the words above, and a little towards the end: random text that gives answers.
BIAS = ["256:2.5", *(f"{k}:6" for k in range(257, 257 + len(WORDS)))]


QUESTIONS = [
    ("A farmer has 3 hens. Each lays 4 eggs. How many eggs?", "3 * 4 = <<3*4=12>>12\n#### 12"),
    ("A bag holds 18 apples and nothing else. How many apples?", "#### 18"),
    ("What is 1,000 plus 500?", "1000 + 500 = 1500\n#### 1,500"),
    ("How much is half of six?", "6 / 2 = 3\n#### 3"),
    ("Take 12 from 30.", "30 - 12 = 18\n#### 18"),
    ("Three dozen, a third of it.", "36 / 3 = 12\n#### 12"),
]


def gsm8k(folder: Path, count: int = 6) -> Path:
    """A data file in GSM8K's own form: the real test split where it is, else a small one."""
    if SHARED.is_file():
        lines = SHARED.read_text(encoding="utf-8").splitlines()[:count]
    else:
        lines = [json.dumps({"question": q, "answer": a}) for q, a in QUESTIONS[:count]]
    path = folder / "gsm8k.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(
    answers: Sequence[Sequence[tuple[int, int | None]]],
    correct: Sequence[bool],
    lengths: Sequence[int],
    *,
    problem: str = "0",
    mode: str = "joint",
    logprobs: Sequence[Sequence[float]] | None = None,
    reason: str = "stop",
) -> AnswerRow:
    """A result by hand, as it is read back from a file. answers: per lane (step, group)."""
    lanes = [
        {
            "tokens": list(range(100 * m, 100 * m + length)),
            "logprobs": list(logprobs[m]) if logprobs is not None else [-1.0] * length,
            "answers": [list(change) for change in answers[m]],
            "finish_reason": reason,
        }
        for m, length in enumerate(lengths)
    ]
    steps = max(lengths)
    record = {
        "problem": problem,
        "mode": mode,
        "lanes": len(lanes),
        "steps": steps,
        "seconds": steps / 10,
        "clock": [(k + 1) / 10 for k in range(steps)],
        "groups": [
            {"answer": str(k), "correct": c, "readable": True} for k, c in enumerate(correct)
        ],
        "lane": lanes,
    }
    return read(json.loads(json.dumps(record)), "by hand")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoint(tmp_path_factory.mktemp("eval") / "m"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(gsm8k(tmp_path_factory.mktemp("eval"), 6))


def flags(model: str, data: str, *more: object) -> list[str]:
    base = ["eval", "gsm8k", "--data", data, "--model", model, "--backend", "numpy"]
    base += [
        "--template",
        "{question}",
        "--compare",
        "exact",
        "--max-tokens",
        "12",
        "--logit-bias",
        *BIAS,
    ]
    return [*base, *(str(word) for word in more)]


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of a run, without measured times."""
    rows = [row for _, row in read_run(folder)[1]]
    for row in rows:
        for name in ("seconds", "prefill_seconds", "clock"):
            row.pop(name)
    return rows


if __name__ == "__main__":
    print(f"--model {checkpoint(Path(sys.argv[1]))} --logit-bias {' '.join(BIAS)}")
