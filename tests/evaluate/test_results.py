"""Results of eval: what a record says of shorter runs, answers in groups, and edited records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_eval import BIAS, checkpoint, gsm8k

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler
from tinylane.evaluate import measures, results, tasks
from tinylane.evaluate.runner import Cell, Conditions, solve
from tinylane.evaluate.tasks.task import Options, Problem, Task

# A record says what shorter runs would have ended with.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tinylane.Model:
    return tinylane.load(checkpoint(tmp_path_factory.mktemp("measures") / "m"), backend="numpy")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    data = gsm8k(tmp_path_factory.mktemp("measures"), 3)
    return tasks.make("gsm8k", Options(data=str(data), template="{question}", compare="exact"))


def conditions(seed: int = 0) -> Conditions:
    bias = {int(k): float(v) for k, v in (word.split(":") for word in BIAS)}
    return Conditions(seed=seed, sampler=Sampler(logit_bias=bias))


def answers(found: dict[str, Any]) -> list[tuple[str | None, bool]]:
    return [(lane["answer"], lane["correct"]) for lane in found["lane"]]


def answers_at(found: dict[str, Any], step: int) -> list[tuple[str | None, bool]]:
    groups, _ = results.state(results.read(found, "test"), step)
    said = [found["groups"][g] if g >= 0 else {"answer": None, "correct": False} for g in groups]
    return [(group["answer"], group["correct"]) for group in said]


@pytest.mark.parametrize("mode", ["independent", "joint", "hogwild"])
def test_a_record_read_at_s_is_the_run_of_s_tokens(
    model: tinylane.Model, task: Task, mode: str
) -> None:
    """The definition of accuracy against steps, in every mode. One step off is seen."""
    differ = 0
    for index, problem in enumerate(task.problems(2, 0)):
        whole = solve(model, task, problem, index, Cell(mode, 3, 30), conditions())
        for limit in (1, 2, 3, 5, 8, 13, 21, 29):
            short = solve(model, task, problem, index, Cell(mode, 3, limit), conditions())
            read = results.read(whole, "test")
            assert answers(short) == answers_at(whole, limit)
            ended = results.states(read, np.array([limit]))
            assert short["correct"] == measures.outcome(read, ended)[0, 1]
            (winner,) = results.winners(*ended).tolist()
            assert short["answer"] == (None if winner < 0 else whole["groups"][winner]["answer"])
            assert short["steps"] == measures.step_at(read, "steps", limit)
            differ += answers(short) != answers_at(whole, limit - 1)
    assert differ, "no answer ever changed: the test would see nothing"


def test_a_record_read_at_b_tokens_is_the_run_of_b_tokens(
    model: tinylane.Model, task: Task
) -> None:
    """Equal total tokens means what `total_tokens` means: lanes that end leave room to others."""
    from tinylane.evaluate.runner import problem_seed
    from tinylane.methods.decoding import Decoding

    (problem,) = task.problems(1, 0)
    c = conditions(3)
    whole = solve(model, task, problem, 0, Cell("independent", 4, 24), c)
    read = results.read(whole, "test")
    assert len(set(read.lengths.tolist())) > 1, "lanes of one length would not show it"
    for total in (4, 5, 9, 20, 33, 60, 96):
        decoding = Decoding(
            model, problem.prompt, 4, max_tokens=24, total_tokens=total, sampler=c.sampler,
            lane_mask=tinylane.LaneMask.independent(4), seed=problem_seed(3, 0),
        )  # fmt: skip
        watch = results.Watch(results.Groups(task, problem.truth), 4)
        for step in decoding:
            watch.step(step, 0.0)
        short = results.make(problem, 0, "independent", 3, decoding.result(), watch)
        step = measures.step_at(read, "tokens", total)
        assert short["steps"] == step and short["tokens"] <= total
        assert answers(short) == answers_at(whole, step)


def test_the_vote_of_a_record_is_tinylane_s(model: tinylane.Model, task: Task) -> None:
    from tinylane.evaluate.runner import problem_seed
    from tinylane.methods.decoding import Decoding

    voted = 0
    for index, problem in enumerate(task.problems(3, 0)):
        c = conditions(index)
        found = solve(model, task, problem, index, Cell("independent", 4, 24), c)
        result = Decoding(
            model, problem.prompt, 4, max_tokens=24, sampler=c.sampler,
            lane_mask=tinylane.LaneMask.independent(4), seed=problem_seed(index, index),
        )  # fmt: skip
        for _ in result:
            pass
        ended = {lane.text: lane.finish_reason == "stop" for lane in result.lanes}
        said = tinylane.vote(result.result(), extract=lambda t, e=ended: task.extract(t, e[t]))
        assert found["answer"] == said.text
        voted += said.text is not None
    assert voted


def test_all_cells_draw_the_same_numbers(model: tinylane.Model, task: Task) -> None:
    """Lane m of any number of independent lanes writes the same; another seed writes other text."""
    (problem,) = task.problems(1, 0)
    one, four, other = (
        solve(model, task, problem, 0, Cell("independent", n, 12), conditions(seed))
        for n, seed in ((1, 0), (4, 0), (4, 1))
    )
    assert one["lane"][0]["tokens"] == four["lane"][0]["tokens"]
    assert four["lane"][0]["tokens"] != four["lane"][1]["tokens"]
    assert other["lane"][0]["tokens"] != four["lane"][0]["tokens"]


def test_answers_called_the_same_vote_together() -> None:
    """1/2 and 0.5 are one answer where `right` says so, and two where it does not."""
    values = {"1/2": 0.5, "0.5": 0.5, "2": 2.0}
    task = Task("t", lambda c, s: [], {}, right=lambda a, b: values.get(a) == values.get(b))
    groups = results.Groups(task, "0.5")
    assert [groups.number(a) for a in ("1/2", "2", "0.5", "1/2")] == [0, 1, 0, 0]
    assert [g["correct"] for g in groups.listed] == [True, False]
    apart = results.Groups(Task("t", lambda c, s: [], {}), "0.5")
    assert [apart.number(a) for a in ("1/2", "2", "0.5")] == [0, 1, 2]


def test_a_flood_of_answers_is_compared_as_text() -> None:
    """A model that writes nothing but boxes must not cost a comparison for every pair."""
    asked: list[tuple[str, str]] = []

    def right(a: str, b: str) -> bool:
        asked.append((a, b))
        return a == b

    groups = results.Groups(Task("t", lambda c, s: [], {}, right=right), "900")
    numbers = [groups.number(str(k)) for k in range(1000)]
    assert numbers == list(range(1000)) and groups.listed[900]["correct"]
    assert len(asked) <= results.COMPARED * (results.COMPARED + 3) // 2
    assert not groups.listed[900]["readable"]


def test_an_unfinished_lane_has_only_what_it_has_marked(tmp_path: Path) -> None:
    """The last number of half a calculation is no answer; that of a whole one is."""
    task = Task("t", lambda c, s: [Problem("0", "?", "7")], {})
    assert task.extract("so 3 + 4", False) is None
    assert task.extract("so 3 + 4", True) == "4"
    assert task.extract("so \\boxed{7} and 3", False) == "7"
    assert task.extract("so \\boxed{7", False) is None
    assert task.extract("#### 7\n", False) == "7"


# Edited records.


@pytest.mark.parametrize(
    "change",
    [
        {"lane": []},
        {"lanes": True},
        {"steps": -1},
        {"clock": [0.1]},
        {"clock": ["x", "y"]},
        {"groups": []},
        {"groups": [{}]},
        {"seconds": None},
    ],
)
def test_an_edited_result_is_refused(change: dict[str, Any]) -> None:
    lane = {"tokens": [1, 2], "logprobs": [-1, -1], "answers": [[1, 0]], "finish_reason": "stop"}
    good = {"problem": "0", "mode": "joint", "lanes": 1, "steps": 2, "seconds": 1.0}
    good |= {"clock": [0.1, 0.2], "lane": [lane]}
    good |= {"groups": [{"answer": "1", "correct": True, "readable": True}]}
    assert results.read(good, "here").tokens == 2
    with pytest.raises(TinylaneError, match="here: is not a result"):
        results.read({**good, **change}, "here")
    for bad in ({"tokens": [1.5, 2]}, {"answers": [[2, 0], [1, 0]]}, {"logprobs": [math.inf, 0]}):
        with pytest.raises(TinylaneError, match="here: is not a result"):
            results.read({**good, "lane": [{**lane, **bad}]}, "here")
