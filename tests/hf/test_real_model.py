"""`tinylane.hf` on SmolLM2: tinylane's own tokens, and the code of its page as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import helpers_real

import tinylane
import tinylane.hf as hf

smollm2 = helpers_real.smollm2  # fixture
pytestmark = pytest.mark.real
PAGE = Path(__file__).parents[2] / "tutorials" / "site" / "how-to" / "transformers.md"
PROMPT = "Name four animals that live in the sea, and say one thing about each."


@pytest.fixture(scope="module")
def both(smollm2: Path) -> tuple[hf.HFModel, tinylane.Model]:
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    return hf.lanes(model, tokenizer), tinylane.load(smollm2, backend="numpy", dtype="float32")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("method", ["independent", "joint", "group_think", "hogwild"])
def test_the_tokens_are_those_of_tinylane(both: Any, method: str, temperature: float) -> None:
    """Prompt by the chat template, three lanes of 16 tokens, the same seed."""
    wrapped, ours = both
    settings: dict[str, Any] = {"omega": "ntk"} if method == "joint" else {}
    common: dict[str, Any] = {"lanes": 3, "seed": 3, "max_tokens": 16}
    common["sampler"] = tinylane.Sampler(temperature=temperature, top_k=50)
    rope, mask = tinylane.mode(method, ours, 3, slot=16, **settings)
    expected = tinylane.generate(ours, PROMPT, lane_rope=rope, lane_mask=mask, **common)
    got = hf.generate(wrapped, None, PROMPT, method=method, **settings, **common)
    assert [lane.tokens for lane in got.lanes] == [lane.tokens for lane in expected.lanes]
    assert got.texts == expected.texts
    assert got.prompt == expected.prompt


def test_the_code_of_the_page_runs(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        code = block.replace('folder = "SmolLM2-135M-Instruct"', f"folder = {str(smollm2)!r}")
        exec(compile(code, str(PAGE), "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert len(said[:3]) == 3 and all(line.startswith("[") for line in said[:3])
    assert said[3:] == ["[3, 3]", "tensor(True)"]
