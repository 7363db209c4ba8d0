"""Five prompts at real size: tokens and logits of both backends are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_real
import numpy as np
import pytest
from helpers_real import BACKENDS, PROMPTS, ROWS, TOKENS, answers, random_ids, recorded
from record_parity import distance

from tinylane.checkpoints.tokenizer import Tokenizer

smollm2 = helpers_real.smollm2  # fixture
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("recorded")]  # they share what is made once
BOUND, BOUND_OF_RANDOM = 1e-4, 2e-3  # of the logits' standard deviation


@pytest.fixture(scope="module", params=BACKENDS)
def found(
    request: Any, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """What one backend computes, in float32."""
    if request.param == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
    return answers(smollm2, request.param, tmp_path_factory.mktemp("real") / "answers.npz")


def test_prompts_have_the_ids_of_transformers(smollm2: Path) -> None:
    words = Tokenizer.from_folder(smollm2)
    data = recorded()["prompts"]
    assert list(data) == list(PROMPTS) and len(data["2,000 tokens"]["ids"]) >= 2000
    for name, messages in PROMPTS.items():
        assert words.prompt_ids(messages) == data[name]["ids"], name


def test_greedy_tokens_are_those_of_transformers(found: dict[str, np.ndarray]) -> None:
    for name, entry in recorded()["prompts"].items():
        assert len(entry["tokens"]) == TOKENS or entry["tokens"][-1] == 2
        assert found[f"tokens of {name}"].tolist() == entry["tokens"], name


def test_logits_are_those_of_transformers(found: dict[str, np.ndarray], smollm2: Path) -> None:
    """Live, in float32, of the last rows of each prompt and of random ids."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=torch.float32, attn_implementation="eager"
    )
    prompts = {name: entry["ids"] for name, entry in recorded()["prompts"].items()}
    for name, ids in (prompts | {"random ids": random_ids()}).items():
        with torch.no_grad():
            expected = model(torch.tensor([ids]), logits_to_keep=ROWS).logits[0].numpy()
        error = distance(found[f"logits of {name}"], expected)
        assert error < (BOUND if name in prompts else BOUND_OF_RANDOM), f"{name}: {error:.1e}"
