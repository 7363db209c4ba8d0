"""The baselines beside joint lanes: fork-join, shares by initial letter; likelihood alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers_eval
import numpy as np
import pytest

import tinylane
from tinylane.checkpoints.adapter import save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import NEVER, SHARED, LaneMask
from tinylane.evaluate import runner, tasks
from tinylane.evaluate.tasks import naming
from tinylane.evaluate.tasks.task import Options

model = helpers_eval.model  # fixture


def solved(loaded: Any, mode: str, tokens: int = 16, **more: Any) -> dict[str, Any]:
    task = tasks.make("sums", Options(numbers=[8]))
    cell = runner.Cell(mode, 4, tokens)
    c = runner.Conditions(sampler=tinylane.Sampler(1.0), template={"raw": True}, **more)
    return runner.solve(loaded, task, task.problems(1, 0)[0], 0, cell, c)


def tokens(row: dict[str, Any]) -> list[list[int]]:
    return [lane["tokens"] for lane in row["lane"]]


def test_a_fork_join_mask_is_independent_and_then_joint() -> None:
    joint, alone = LaneMask.joint(3), LaneMask.independent(3)
    since = np.full((3, 3), 7)
    mask = replace(joint, since=since, until=np.full_like(since, NEVER))
    i = np.array([0, 1, *[5, 6, 7, 8] * 3])
    m = np.array([SHARED, SHARED, *np.repeat([0, 1, 2], 4)])
    seen = mask.visible(i, m, i, m)
    early = i < 7
    assert np.array_equal(seen[early], alone.visible(i, m, i, m)[early])
    assert np.array_equal(seen[~early], joint.visible(i, m, i, m)[~early])


def test_fork_join_draws_k_tokens_alone(model: str) -> None:
    """The first K tokens are those of independent lanes, to the token; the rest are not all."""
    loaded = tinylane.load(model, backend="numpy", dtype="float64")
    apart, together = tokens(solved(loaded, "independent")), tokens(solved(loaded, "joint"))
    assert [t[:9] for t in apart] != [t[:9] for t in together]  # the control
    for k in (1, 6, 12):
        forked = tokens(solved(loaded, f"fork_join:{k}"))
        assert [t[:k] for t in forked] == [t[:k] for t in apart]
        assert forked != apart
    assert tokens(solved(loaded, "fork_join:16")) == apart
    own = tokens(solved(loaded, "fork_join"))  # the task says: `12+34=046` is a lane's own part
    assert own == tokens(solved(loaded, "fork_join:9"))


def test_likelihood_alone_is_that_of_independent_lanes(model: str) -> None:
    """For independent lanes it is the mean of their own log-probabilities; for others it is not."""
    loaded = tinylane.load(model, backend="numpy", dtype="float64")
    for mode in ("independent", "joint"):
        row = solved(loaded, mode, likelihood=True)
        own = np.concatenate([lane["logprobs"] for lane in row["lane"]]).mean()
        off = abs(row["scores"]["numbers"][runner.ALONE] - own)
        assert (off < 1e-5) == (mode == "independent"), (mode, off)


def test_letters_share_the_alphabet_and_the_work() -> None:
    items = [item[0] for kind in naming.lists().values() for item in kind]
    for n in (1, 2, 4, 8):
        owned = [naming.letters_of(n, m) for m in range(n)]
        letters = "".join(owned)
        assert sorted(letters) == sorted(set(letters)) and set(naming.LETTERS) <= set(letters)
        shares = [sum(naming.spelling(x)[0].upper() in own for x in items) for own in owned]
        if n <= 4:
            assert min(shares) > 0.6 * len(items) / n, (n, shares)
    assert naming.letter_tags(2)[0].startswith("1/2, A to ")
    task = tasks.make("naming", Options(share="letters"))
    assert task.transcripts is not None
    for row in task.transcripts(50, 0, [4]):
        for m, text in enumerate(row["lanes"]):
            for item in naming.written(text):
                assert naming.spelling(item)[0].upper() in naming.letters_of(4, m)
    assert task.lane_prompts(4) == naming.letter_tags(4)
    with pytest.raises(TinylaneError, match="expected letters"):
        tasks.make("naming", Options(share="halves"))


def test_the_commands(model: str, tmp_path: Path, capsys: Any) -> None:
    words = ["eval", "sums", "--numbers", "8", "--model", model, "--raw", "--count", "2", "--quiet"]
    words += ["--max-tokens", "6", "--mode", "fork_join", "fork_join:3", "--likelihood"]
    out = tmp_path / "e"
    assert main([*words, "--lanes", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "fork_join:3" in said and "logprob alone" in said
    assert main(["report", str(out)]) == 0 and "logprob alone" in (out / "report.md").read_text()
    for mode in ("fork_join:x", "fork_join:", "joint:", "independent:"):
        assert main([*words, "--mode", mode]) == 2
        assert f"mode '{mode}'; expected independent" in capsys.readouterr().err


def test_likelihood_of_texts_with_and_without_an_adapter(
    model: str, tmp_path: Path, capsys: Any
) -> None:
    config = read_config(Path(model))
    omega = {"lane_rope.omega": np.ones(config.head_dim // 2)}
    save_adapter(tmp_path / "omega", config, omega, {"visibility": "joint"})
    bias = {"model.layers.0.self_attn.q_proj.bias": np.full(config.heads * config.head_dim, 0.5)}
    save_adapter(tmp_path / "bias", config, bias)
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"question": q}) + "\n" for q in ("ab cd", "efg", "hi, jk")))
    words = ["likelihood", "--model", model, "--data", str(data), "--json", "--quiet"]
    documents = {}
    for name in ("omega", "bias"):
        assert main([*words, "--adapter-path", str(tmp_path / name)]) == 0
        documents[name] = json.loads(capsys.readouterr().out)
    assert documents["omega"]["texts"] == 3 and documents["omega"]["tokens"] == 4 + 2 + 5
    # Law 6: Omega alone changes nothing for one lane; a bias does.
    assert abs(documents["omega"]["change"]["value"]) < 1e-6
    assert abs(documents["bias"]["change"]["value"]) > 1e-3
    loaded = tinylane.load(model, backend="numpy")
    ids = np.array(loaded.tokenizer.encode("efg"))
    logits = np.asarray(loaded(ids, np.arange(3), np.full(3, SHARED)), dtype=np.float64)
    top = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    data.write_text(json.dumps({"question": "efg"}) + "\n")
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    expected = (top[0, ids[1]] + top[1, ids[2]]) / 2
    assert abs(found["logprob"]["the model"]["value"] - expected) < 1e-5
    assert abs(found["perplexity"]["the model"] - np.exp(-expected)) < 1e-4
    assert main([*words[:-2], "--count", "1"]) == 0
    assert "log-probability of a token" in capsys.readouterr().out
    assert main([*words, "--count", "9"]) == 2
    assert "1 texts; expected 9" in capsys.readouterr().err
