"""Naming: the lists are sound, items are dealt once, and what lanes wrote is counted exactly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import helpers_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.evaluate import likelihood, tasks
from tinylane.evaluate.tasks import naming
from tinylane.evaluate.tasks.task import Options, Problem
from tinylane.methods.prompt import encode_lane_prompt, encode_prompt

model = helpers_eval.model  # fixture


def drawn(count: int, seed: int, lanes: list[int], **options: Any) -> list[dict[str, Any]]:
    task = tasks.make("naming", Options(**options))
    assert task.transcripts is not None
    return list(task.transcripts(count, seed, lanes))


def test_the_lists_are_many_and_no_item_is_there_twice() -> None:
    groups = naming.groups()
    assert len(groups["trained"]) >= 60 and len(groups["held-back"]) >= 8
    assert not set(groups["trained"]) & set(groups["held-back"])
    for kind, items in naming.lists().items():
        assert 20 <= len(items) <= 80, kind
        spelled = Counter(s for item in items for s in {naming.spelling(x) for x in item})
        assert max(spelled.values()) == 1 and "" not in spelled, (kind, spelled.most_common(1))
        # A name with a comma would be two items in a lane's text.
        assert all(naming.written(f" {x}, y") == [x, "y"] for item in items for x in item), kind


def test_no_kind_that_is_held_back_is_mostly_one_of_those_that_are_trained() -> None:
    """Else "never trained" would mean little: at most a quarter of its items are in one of them."""
    groups = naming.groups()
    names = lambda items: {naming.spelling(x) for item in items for x in item}
    for held, items in groups["held-back"].items():
        for kind, others in groups["trained"].items():
            shared = names(items) & names(others)
            assert len(shared) <= len(items) / 4, (held, kind, shared)


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8]))
def test_no_lane_repeats_another_and_all_is_of_the_kind(seed: int, n: int) -> None:
    (row,) = drawn(1, seed, [n])
    kind = row["prompt"].removeprefix("Name different ")
    assert kind in naming.groups()["trained"]
    items = [item for text in row["lanes"] for item in text.removeprefix(" ").split(", ")]
    usual = {item[0] for item in naming.lists()[kind]}
    assert len(set(items)) == len(items) == min(len(usual), naming.TOTAL)
    assert set(items) <= usual
    said = naming.score(Problem("0", row["prompt"], kind), row["lanes"], [True] * n)
    assert said.numbers == {"distinct right": len(items), "repeats": 0, "not in list": 0}


def test_a_lane_takes_the_next_item_when_it_has_written_least() -> None:
    texts = naming.deal(["aaaaaaaa", "b", "c", "d"], 2)
    assert texts == [" aaaaaaaa", " b, c, d"]
    many = naming.deal([f"x{k}" for k in range(99)], 2)
    assert [len(text.split(",")) for text in many] == [naming.TOTAL // 2] * 2


@pytest.mark.parametrize(
    ("texts", "finished", "numbers"),
    [
        ([" apple, pear"], [True], (2, 0, 0)),
        ([" apple, pear", " Apples; plums\n3. a fig"], [True, True], (4, 1, 0)),
        ([" apple, apple", " apple"], [True, True], (1, 2, 0)),
        ([" hammer, and apples."], [True], (1, 0, 1)),
        ([" strawber", " blueberries, che"], [False, False], (1, 0, 0)),  # cut off: not counted
        ([" strawber", " blueberries, che"], [True, True], (1, 0, 2)),
        ([" kiwi", " kiwi fruit, Kiwifruit"], [True, True], (1, 2, 0)),  # one item, three names
        (["", ", ,"], [True, False], (0, 0, 0)),
        ([" passion-fruit, Açaí"], [True], (2, 0, 0)),
    ],
)
def test_what_lanes_wrote_is_counted(
    texts: list[str], finished: list[bool], numbers: tuple[int, int, int]
) -> None:
    problem = Problem("0", "Name different fruits", "fruits")
    counted = naming.score(problem, texts, finished).numbers
    assert tuple(counted.values()) == numbers


def test_problems_are_kinds_that_training_leaves_out() -> None:
    task = tasks.make("naming", Options())
    problems = task.problems(None, 3)
    assert sorted(p.truth for p in problems) == sorted(naming.groups()["held-back"])
    assert problems == task.problems(None, 3) != task.problems(None, 4)
    assert len({p.id for p in task.problems(25, 3)}) == 25
    prompts = {p.prompt for p in problems}
    assert not prompts & {row["prompt"] for row in drawn(500, 3, [1])}
    assert {row["prompt"] for row in drawn(9, 3, [1], kinds=["fruits"])} <= {
        "Name different fruits"
    }
    for wrong in ("fruit", "held_back"):
        with pytest.raises(TinylaneError, match="of 94 kinds"):
            tasks.make("naming", Options(kinds=[wrong]))
    with pytest.raises(TinylaneError, match="--order favourite needs --model"):
        drawn(1, 0, [1], order="favourite")


def alone(model: Any, prompt: list[int], text: list[int]) -> np.ndarray:
    """One text in one lane's place after the prompt, as a plain sequence."""
    tokens = np.array([*prompt, *text])
    logits = np.asarray(model(tokens, np.arange(len(tokens)), np.full(len(tokens), SHARED)))
    x = logits.astype(np.float64)
    rows = x[len(prompt) - 1 : -1]
    top = rows.max(axis=1, keepdims=True)
    norm = (np.log(np.exp(rows - top).sum(axis=1, keepdims=True)) + top)[:, 0]
    return rows[np.arange(len(text)), text] - norm


def test_texts_in_one_pass_are_as_likely_as_each_alone(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tinylane.load(model, backend="numpy", dtype="float64")
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 200, 5).tolist()
    texts = [rng.integers(0, 200, length).tolist() for length in (1, 7, 3, 1, 12, 2)]
    for rows in (likelihood.ROWS, 8, 1):  # in one pass, in several, and a text a pass
        monkeypatch.setattr(likelihood, "ROWS", rows)
        found = likelihood.logprobs(loaded, prompt, texts)
        assert [len(each) for each in found] == [len(text) for text in texts]
        for each, text in zip(found, texts, strict=True):
            assert np.abs(each - alone(loaded, prompt, text)).max() < 1e-9
    for bad in ([], [[]]):
        with pytest.raises(TinylaneError, match="empty prompt or text"):
            likelihood.logprobs(loaded, prompt if bad else [], bad or texts)


def test_favourites_come_as_the_model_would_draw_them(model: str, tmp_path: Path) -> None:
    """The first item of many transcripts has the model's own probabilities (of the items)."""
    loaded = tinylane.load(model, backend="numpy", dtype="float64")
    kind = "grains"
    prompt = encode_prompt(loaded, "Name different grains", None)
    prompt = [*prompt, *encode_lane_prompt(loaded, "1/1:")]
    items = [item[0] for item in naming.lists()[kind]]
    each = [alone(loaded, prompt, encode_lane_prompt(loaded, f" {x},")).sum() for x in items]
    assert np.allclose(naming.favourites(loaded, kind), each, atol=1e-9)
    expected = np.exp(each - max(each))
    expected /= expected.sum()
    task = tasks.make("naming", Options(kinds=[kind], order="favourite"), loaded)
    assert task.transcripts is not None
    firsts = Counter(
        row["lanes"][0].split(",")[0].strip() for row in task.transcripts(2000, 1, [1])
    )
    share = np.array([firsts[x] / 2000 for x in items])
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / 2000)  # four standard errors


def test_the_commands_count_and_write(model: str, tmp_path: Path, capsys: Any) -> None:
    from tinylane.commands.cli import main

    out = tmp_path / "run"
    words = ["eval", "naming", "--kinds", "grains", "fruits", "--model", model, "--max-tokens", "6"]
    assert main([*words, "--lanes", "2", "--out", str(out), "--quiet"]) == 0
    head = capsys.readouterr().out.splitlines()[1]
    assert "distinct right" in head and "repeats" in head and "majority" not in head
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    names = {"distinct right", "repeats", "not in list"}
    assert len(rows) == 4 and set(rows[0]["scores"]["numbers"]) == names
    assert main(["report", str(out)]) == 0
    assert "distinct right" in (out / "report.md").read_text()
    capsys.readouterr()
    words = ["transcripts", "naming", "--count", "3", "--out", str(tmp_path / "t.jsonl")]
    assert main([*words, "--order", "favourite"]) == 2
    assert "--model and --order favourite: expected both or neither" in capsys.readouterr().err
    assert main([*words, "--order", "favourite", "--model", model, "--kinds", "grains"]) == 0
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 3
