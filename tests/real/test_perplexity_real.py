"""`tinylane perplexity` on a real model: what transformers computes, window by window."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import helpers_real
import pytest

from tinylane.commands.cli import main

smollm2 = helpers_real.smollm2  # fixture
pytestmark = pytest.mark.real

TEXT = "The tide comes and goes twice a day. München, 漢字, naïve 🦜, Ελλάδα, русский текст.\n" * 6
WINDOW, STRIDE = 64, 32


def test_bits_are_those_of_transformers(smollm2: Path, tmp_path: Path, capsys: Any) -> None:
    """A sliding window over a text whose characters are several tokens; the first is given."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ["perplexity", str(smollm2), "--data", str(tmp_path / "text.txt"), "--backend", "numpy"]
    words += ["--dtype", "float32", "--window", str(WINDOW), "--stride", str(STRIDE), "--json"]
    assert main(words) == 0
    (found,) = json.loads(capsys.readouterr().out)["measured"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    ids, bits = tokenizer(TEXT, add_special_tokens=False).input_ids, 0.0
    assert len(ids) > 4 * WINDOW
    for start in range(1, len(ids), STRIDE):
        seen = ids[max(0, start - WINDOW + STRIDE) : start + STRIDE]
        new = min(STRIDE, len(ids) - start)
        with torch.no_grad():
            chances = torch.log_softmax(model(torch.tensor([seen])).logits[0].double(), -1)
        rows = torch.arange(len(seen) - new - 1, len(seen) - 1)
        bits -= float(chances[rows, torch.tensor(seen[-new:])].sum()) / math.log(2)
    assert found["tokens"] == len(ids) - 1
    assert found["bits_per_token"] == pytest.approx(bits / found["tokens"], abs=1e-5)
    given = len(tokenizer.decode(ids[:1]).encode())
    assert found["bytes"] == len(TEXT.encode()) - given
    assert found["bits_per_byte"]["value"] == pytest.approx(bits / found["bytes"], abs=1e-5)
