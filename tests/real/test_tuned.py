"""From transcripts of the real model to a merged checkpoint that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import helpers_real
import numpy as np
import pytest
from helpers_real import ROWS, on, recorded, run
from record_parity import distance

import tinylane

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("tuned")]  # they share what is made once
pytest.importorskip("mlx.core", exc_type=ImportError)
smollm2 = helpers_real.smollm2  # fixture
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome"}  # which the model knows


@pytest.fixture(scope="module")
def tuned(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `collected`, the `adapter` after three steps, and the `merged` checkpoint."""
    folder = tmp_path_factory.mktemp("tuned")
    data = folder / "questions.jsonl"
    rows = [{"question": f"What is the capital of {x}?", "answer": CAPITALS[x]} for x in CAPITALS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("collect", "jsonl", "--data", data, "--compare", "exact", "--answer-pattern",
        f"({'|'.join(CAPITALS.values())})", "--model", smollm2, *on("numpy"), "--mode",
        "independent", "--lanes", 2, "--temp", 0.3, "--max-tokens", 12, "--seed", 3, "--out",
        folder / "collected", "--quiet")  # fmt: skip
    run("train", "sft", "--model", smollm2, "--data", folder / "collected" / "results.jsonl",
        "--out", folder / "adapter", "--steps", 3, "--batch-size", 1, "--lora-rank", 8,
        "--dtype", "float32", "--every", 1, "--quiet", backend="mlx")  # fmt: skip
    run("fuse", "--model", smollm2, "--adapter-path", folder / "adapter", "--dtype", "float32",
        "--save-path", folder / "merged")  # fmt: skip
    return folder


def test_collected_transcripts_say_what_lanes_drew(tuned: Path) -> None:
    lines = [json.loads(x) for x in (tuned / "collected" / "results.jsonl").open(encoding="utf-8")]
    assert len(lines) == 3
    for line in lines:
        assert len(line["lanes"]) == 2 and isinstance(line["label"], bool)
    assert any(line["label"] for line in lines)  # only these are learnt


def test_three_steps_change_omega_biases_and_updates(smollm2: Path, tuned: Path) -> None:
    plain = tinylane.load(smollm2, "numpy", "float32")
    model = tinylane.load(smollm2, "numpy", "float32", adapter=tuned / "adapter")
    assert model.visibility == "joint" and model.lane_rope is not None
    ids = recorded()["prompts"]["code"]["ids"]
    places = np.arange(len(ids)), np.zeros(len(ids), dtype=int)
    assert distance(np.asarray(model(ids, *places)), np.asarray(plain(ids, *places))) > 1e-3
    said = json.loads(
        run("generate", "--model", smollm2, "--adapter-path", tuned / "adapter", *on("numpy"),
            "--prompt", "What is a tide?", "--lanes", 4, "--max-tokens", 8, "--json")
    )  # fmt: skip
    assert len(said["lanes"]) == 4 and said["settings"]["omega"] is not None


def test_the_merged_checkpoint_computes_the_same_in_transformers(
    smollm2: Path, tuned: Path
) -> None:
    """Adapter in tinylane, merged in tinylane, merged in transformers: equal logits of a lane."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tuned / "merged", dtype=torch.float32, attn_implementation="eager"
    )
    ids = recorded()["prompts"]["code"]["ids"]
    places = np.arange(len(ids)), np.zeros(len(ids), dtype=int)
    with torch.no_grad():
        expected = merged(torch.tensor([ids]), logits_to_keep=ROWS).logits[0].numpy()
    for folder, adapter in ((smollm2, tuned / "adapter"), (tuned / "merged", None)):
        model = tinylane.load(folder, "numpy", "float32", adapter=adapter)
        got = np.asarray(model(ids, *places))[-ROWS:]
        assert distance(got, expected) < 1e-4
    words = transformers.AutoTokenizer.from_pretrained(tuned / "merged")
    assert words("What is a tide?").input_ids == tinylane.load(
        tuned / "merged", "numpy", "float32"
    ).tokenizer.encode("What is a tide?")
