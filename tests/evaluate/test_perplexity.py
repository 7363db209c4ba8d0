"""Perplexity of a text: one token at a time, in lanes, windows and bytes; and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_eval import checkpoint
from helpers_lanes import model_of

import tinylane
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import perplexity
from tinylane.evaluate.perplexity import Window, logprobs, windows

F64 = model_of("numpy", "float64")
WEIGHTS = Path(__file__).parents[2] / "weights" / "shell-game"
IDS = np.random.default_rng(0).integers(0, F64.config.vocab, 40).tolist()


def alone(context: list[int], asked: list[int]) -> list[float]:
    """A fresh pass for each token."""
    found = []
    for token in asked:
        logits = np.asarray(F64(context, range(len(context)), [tinylane.SHARED] * len(context)))[-1]
        found.append(logits[token] - math.log(math.fsum(math.exp(x) for x in logits.tolist())))
        context = [*context, token]
    return found


def test_every_token_but_the_first_is_asked_for_once() -> None:
    for size, stride in ((8, 3), (8, 7), (2, 1), (64, 5)):
        parts = list(windows(IDS, size, stride))
        assert [t for part in parts for t in part.asked] == IDS[1:]
        assert max(len(part.context) + len(part.asked) for part in parts) <= size
        assert all(part.context for part in parts)


def test_one_lane_is_the_model_itself() -> None:
    for window in windows(IDS, 12, 5):
        got = logprobs(F64, window)
        np.testing.assert_allclose(got, alone(window.context, window.asked), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [2, 3])
def test_lanes_are_what_the_decoding_of_plain_lanes_says(n: int) -> None:
    """The tokens that it draws, and the log-probabilities it drew them with."""

    def schedule(d: tinylane.Decoding) -> None:
        if d.steps == 1:
            for _ in range(1, n):
                d.join([3], max_tokens=5)

    banned = dict.fromkeys(F64.config.eos_ids, -math.inf)
    result = tinylane.generate(
        F64, IDS[:6], max_tokens=5, schedule=schedule, lane_mask=tinylane.LaneMask.joint(n),
        lane_rope=tinylane.LaneRoPE.group_think(F64.theta, 5, prompt_lane=0),
        sampler=tinylane.Sampler(logit_bias=banned),
    )  # fmt: skip
    asked = [t for lane in result.lanes for t in lane.tokens]
    assert len(asked) == 5 * n
    expected = [p for lane in result.lanes for p in lane.logprobs]
    got = logprobs(F64, Window(IDS[:6], asked), n, [3])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    assert abs(got - logprobs(F64, Window(IDS[:6], asked))).max() > 1e-3  # the control


def test_a_stretch_that_is_shorter_and_lanes_that_are_too_many() -> None:
    assert len(logprobs(F64, Window(IDS[:6], IDS[6:13]), 3, [3])) == 7
    assert len(logprobs(F64, Window(IDS[:6], IDS[6:8]), 5, [3])) == 2
    with pytest.raises(TinylaneError, match="lanes need a start token"):
        logprobs(F64, Window(IDS[:6], IDS[6:8]), 2)


def test_a_text_in_bits_per_token_and_per_byte(tmp_path: Path, capsys: Any) -> None:
    text = "Äß 漢字 🙂 and plain words, again and again. " * 5
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    model = checkpoint(tmp_path / "model")
    words = ["perplexity", str(model), "--data", str(path), "--window", "20", "--stride", "6"]
    assert main([*words, "--lanes", "1", "2", "--json", "--backend", "numpy"]) == 0
    one, two = json.loads(capsys.readouterr().out)["measured"]
    loaded = tinylane.load(model, "numpy")
    ids, ends = perplexity.tokenized(loaded, text)
    assert ends[-1] == len(text.encode()) and (np.diff(ends) >= 0).all()
    assert one["tokens"] == len(ids) - 1 and one["bytes"] == len(text.encode()) - ends[0]
    bits = -sum(logprobs(loaded, w).sum() for w in windows(ids, 20, 6)) / math.log(2)
    assert one["bits_per_token"] == pytest.approx(bits / one["tokens"])
    value, (low, high) = one["bits_per_byte"]["value"], one["bits_per_byte"]["interval_95"]
    assert value == pytest.approx(bits / one["bytes"]) and low < value < high
    assert one["perplexity"] == pytest.approx(2 ** one["bits_per_token"])
    assert two["lanes"] == 2 and two["bits_per_token"] != one["bits_per_token"]
    assert main(words) == 0 and "bits per byte (95%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        (["--window", "1"], b"a text", "--window is 1; expected a whole number from 2 to"),
        (["--stride", "20", "--window", "20"], b"a text", "--stride is 20; expected"),
        ([], b"", "text.txt: is empty; expected a text"),
        ([], b"a", "text.txt: the text has 1 token for this model; expected 2 or more"),
        (["--lanes", "2", "--lane-start", ""], b"a text", "--lane-start is empty; expected a text"),
        ([], b"\xff", "not UTF-8 text (byte 0)"),
        (["--lanes", "0"], b"a text", "--lanes is 0"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str], data: bytes, says: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "text.txt").write_bytes(data)
    model = checkpoint(tmp_path / "model")
    assert main(["perplexity", str(model), "--data", str(tmp_path / "text.txt"), *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_start_that_the_vocabulary_does_not_have_is_told_by_its_flag(
    tmp_path: Path, capsys: Any
) -> None:
    """The model inside has words of its game alone: no newline."""
    (tmp_path / "text.txt").write_text("3-4 2-3 2-4")
    words = ["perplexity", str(WEIGHTS), "--data", str(tmp_path / "text.txt"), "--lanes", "1", "2"]
    assert main([*words, "--backend", "numpy"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--lane-start '\\n': this model's vocabulary has no token for it; give another" in error
    assert main([*words, "--backend", "numpy", "--lane-start", "1-2", "--quiet"]) == 0
