"""Frontier: what lanes write is a true breadth-first search, judged exactly, drawn, trainable."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.evaluate.tasks import frontier as module
from tinylane.evaluate.tasks.frontier import END, NO_WAY, Frontier, Graph, explore
from tinylane.evaluate.tasks.frontier_task import (
    _task,
    in_words,
    last_answer,
    moves_of,
    question,
    score,
)
from tinylane.evaluate.tasks.task import Problem
from tutorials.study.steps import best_split

GAME = Frontier()


def floyd(game: Frontier, graph: Graph) -> np.ndarray:
    """All distances by Floyd and Warshall's algorithm: nothing of a search."""
    far = np.full((game.nodes, game.nodes), np.inf)
    np.fill_diagonal(far, 0)
    for a, b in graph.edges:
        far[a, b] = far[b, a] = 1
    for k in range(game.nodes):
        far = np.minimum(far, far[:, k, None] + far[None, k, :])
    return far


def games() -> st.SearchStrategy[Frontier]:
    sizes = st.tuples(st.integers(6, 14), st.floats(0.9, 2.0))
    made = lambda s: Frontier(s[0], int(s[0] * s[1]), 5, (1, 2, 3, 4))
    return sizes.map(made)


@given(games(), st.integers(0, 2**32), st.sampled_from([1, 2, 3, 4]))
def test_the_lanes_search_breadth_first_and_end_on_the_true_distance(
    game: Frontier, seed: int, n: int
) -> None:
    (graph,) = game.draw(1, np.random.default_rng(seed))
    far = floyd(game, graph)[graph.start]
    truth = NO_WAY if np.isinf(far[graph.goal]) else str(int(far[graph.goal]))
    assert game.answer(graph) == truth
    lanes = game.write(graph, n)
    assert len({len(words) for words in lanes}) == 1  # in step
    assert len(lanes[0]) <= game.steps(n)
    assert {last_answer(" ".join(words)) for words in lanes} == {truth}
    known, explored = graph.beside([graph.start]), {graph.start}
    for step in range(len(lanes[0]) - 1):
        now = [words[step] for words in lanes if words[step] != "-"]
        assert now and graph.goal not in known
        nodes = [game.names.index(word.rstrip("0123456789")) for word in now]
        assert len(set(nodes)) == len(nodes) and not set(nodes) & explored  # each node once
        assert set(nodes) <= known  # and only one that was found before this step
        assert [int(word.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for word in now] == list(far[nodes])
        explored |= set(nodes)
        known |= graph.beside(nodes)
    assert graph.goal in known or (truth == NO_WAY and known <= explored)
    asked = Problem("0", game.prompt(graph), truth)
    said = score(game, asked, [" ".join(words) for words in lanes], [True] * n)
    assert said.shares == {"shortest right": 1.0}
    numbers = {"explored": len(explored) - 1, "again": 0, "wrong moves": 0, "words": len(lanes[0])}
    assert said.numbers == numbers


@given(games(), st.integers(0, 2**32), st.sampled_from([2, 3, 4]))
def test_without_reading_the_shortest_of_the_lanes_answers_is_right(
    game: Frontier, seed: int, n: int
) -> None:
    """Each lane of a fork searches alone from its own neighbours of the start."""
    (graph,) = game.draw(1, np.random.default_rng(seed))
    alone = Frontier(game.nodes, game.edges, game.depth, game.lanes, "fork")
    texts = [" ".join(words) for words in alone.write(graph, n)]
    assert max(len(text.split()) for text in texts) <= alone.steps(n)
    asked = Problem("0", game.prompt(graph), game.answer(graph))
    said = score(alone, asked, texts, [True] * n)
    assert said.shares == {"shortest right": 1.0} and said.numbers["wrong moves"] == 0
    joint = game.write(graph, n)
    fixed = max(len(text.split()) for text in texts)
    assert best_split(graph, n, game.depth) <= fixed
    if len(graph.beside([graph.start])) == 1:  # nothing to split
        assert best_split(graph, n, game.depth) == fixed
    assert len(joint[0]) <= len(game.write(graph, 1)[0])


@given(games(), st.integers(0, 2**32), st.sampled_from([1, 2, 3]))
def test_the_best_split_is_the_best_of_all_owners(game: Frontier, seed: int, n: int) -> None:
    """Against every assignment of the start's neighbours to lanes."""
    (graph,) = game.draw(1, np.random.default_rng(seed))
    roots = sorted(graph.beside([graph.start]))
    length = lambda owners, m: len(
        explore(graph, [r for r, o in zip(roots, owners, strict=True) if o == m], 1, 5)[0]
    )
    every = itertools.product(range(n), repeat=len(roots))
    least = min(max(length(owners, m) for m in range(n)) for owners in every)
    assert best_split(graph, n, 5) == 1 + least


def test_one_way_is_found_by_hand() -> None:
    """edges A-B A-C B-D C-D D-E from A to E: two lanes take B and C, then D, then they know."""
    game = Frontier(5, 5, lanes=(1, 2))
    graph = game.parse("edges A-B A-C B-D C-D D-E from A to E :")
    assert game.write(graph, 2) == [["B1", "D2", "=3"], ["C1", "-", "=3"]]
    assert game.write(graph, 1) == [["B1", "C1", "D2", "=3"]]
    fork = Frontier(5, 5, lanes=(1, 2), schedule="fork")
    assert fork.write(graph, 2) == [["B1", "D2", "=3"], ["C1", "D2", "=3"]]
    assert best_split(graph, 2, 6) == 3
    none = game.parse("edges A-B B-C A-C from A to E :")
    assert game.write(none, 2) == [["B1", "no-way"], ["C1", "no-way"]]
    assert game.write(game.parse("edges A-E from A to E :"), 2) == [["=1"], ["=1"]]


def test_moves_that_are_wrong_or_made_again_are_counted() -> None:
    game = Frontier(5, 5, lanes=(1, 2))
    asked = Problem("0", "edges A-B A-C B-D C-D D-E from A to E :", "3")
    says = lambda *texts: score(game, asked, texts, [True] * len(texts))
    assert says("B1 D2 =3", "B1 D2 =3").numbers["again"] == 2
    assert says("D2 B1 =3", "C1 - =3").numbers["wrong moves"] == 1  # D was not known yet
    assert says("B2 D2 =3", "C1 - =3").numbers["wrong moves"] == 1  # B is 1 from A
    assert says("B1 D2 =3", "C1 - =4").shares["shortest right"] == 1
    assert says("B1 D2 =2", "C1 - =3").shares["shortest right"] == 0
    assert says("B1", "no-way").shares["shortest right"] == 0
    assert says("", "").numbers["words"] == 0
    assert last_answer("B1 =3 D2") is None and last_answer("no-way") == NO_WAY


def test_rows_are_what_the_tokenizer_makes_and_no_row_counts_after_the_end() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for game in (GAME, Frontier(30, 36, schedule="fork")):
        tokenizer = tokenizers.Tokenizer.from_str(game.tokenizer_json())
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: B023
        assert len(game.vocabulary) == len(set(game.vocabulary))
        for n in game.lanes:
            graphs = game.draw(3, np.random.default_rng(n))
            tokens, follows = game.rows(graphs, n)
            positions, lanes = game.coordinates(n)
            P, L = game.prompt_rows, 1 + game.steps(n)
            assert tokens.shape == (3, P + n * L) and follows.shape == (3, n * L)
            assert len(positions) == len(lanes) == P + n * L
            assert tokens[1, :P].tolist() == encode(game.prompt(graphs[1]))
            assert positions[:P].tolist() == list(range(P)) and set(lanes[:P]) == {SHARED}
            for m, words in enumerate(game.write(graphs[1], n)):
                row, after = tokens[1, lanes == m], follows[1, m * L : (m + 1) * L]
                assert encode(" ".join([f"{m + 1}/{n}", *words])) == row[: len(words) + 1].tolist()
                assert after[: len(words)].tolist() == row[1 : len(words) + 1].tolist()
                assert after[len(words)] == game.ids[END] and set(after[len(words) + 1 :]) <= {-1}


def test_problems_are_seeded_and_of_all_kinds() -> None:
    problems = _task(GAME, True).problems(300, 1)
    assert problems == _task(GAME, True).problems(300, 1) != _task(GAME, True).problems(300, 2)
    truths = [problem.truth for problem in problems]
    assert {"2", "3", "4", NO_WAY} <= set(truths) and 0.1 < truths.count(NO_WAY) / 300 < 0.4
    for problem in problems[:20]:
        assert GAME.prompt(GAME.parse(str(problem.prompt))) == problem.prompt
    asked = question(GAME, GAME.draw(1, np.random.default_rng(0))[0])
    assert "shortest way" in asked and "edges from" not in asked
    assert in_words("so \\boxed{no way}.", True) == NO_WAY and in_words("\\boxed{3}", True) == "3"
    assert in_words("I do not know", True) is None


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"nodes": 3}, "4 to 100 nodes"),
        ({"edges": 99}, "3 to 66 edges"),
        ({"depth": 1}, "a depth of 2"),
        ({"schedule": "all"}, "joint or fork"),
    ],
)
def test_impossible_games_are_refused(sizes: dict[str, Any], says: str) -> None:
    with pytest.raises(TinylaneError, match=says):
        Frontier(**sizes)


def test_graphs_that_cannot_be_drawn_and_prompts_that_are_none_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TRIES", 50)
    with pytest.raises(TinylaneError, match="in 50 tries"):
        Frontier(5, 10).draw(1, np.random.default_rng(0))  # all nodes are neighbours
    for text in ("", "edges from A to B :", "edges A-Z from A to B :", "edges A-B from A to :"):
        with pytest.raises(TinylaneError, match="expected `edges"):
            GAME.parse(text)
    with pytest.raises(TinylaneError, match="3 lanes"):
        GAME.lane_prompts(3)


def test_a_search_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinylane.view.figure_style import alt, save

    game = Frontier(5, 5, lanes=(1, 2))
    task = _task(game, True)
    assert task.draw is not None
    asked = Problem("0", "edges A-B A-C B-D C-D D-E from A to E :", "3")
    figure = task.draw(asked, ["B1 D2 =3", "C1 - =3"])
    said = "step 1: lane 1 B; step 1: lane 2 C; step 2: lane 1 D"
    assert said in alt(figure) and "from A to E" in alt(figure)
    assert save(figure, tmp_path / "f.svg").stat().st_size > 1000
    assert moves_of(game, ["B1 x D2", "Z9"]) == [(0, 0, 1, 1), (2, 0, 3, 2)]


def test_it_is_trained_from_scratch_and_asked_by_every_command(tmp_path: Path, capsys: Any) -> None:
    """A tiny model: the trainer's rows, the adapter's task, eval, generate, a figure."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    from tinylane.commands.cli import main

    out = tmp_path / "m"
    words = ["train", "frontier", "--out", str(out), "--steps", "4", "--rows", "256", "--quiet"]
    words += ["--nodes", "6", "--edges", "7", "--width", "16", "--layers", "2", "--heads", "2"]
    words += ["--kv-heads", "1", "--head-dim", "8", "--mlp-width", "16", "--warmup", "1"]
    assert main(words) == 0
    model = tinylane.load(out)
    assert model.task is not None and model.task["nodes"] == 6 and model.visibility == "joint"
    capsys.readouterr()
    svg = tmp_path / "g.svg"
    asked = ["eval", "frontier", "--model", str(out), "--count", "3", "--quiet"]
    asked += ["--lanes", "1", "4"]
    assert main([*asked, "--draw", str(svg)]) == 0
    said = capsys.readouterr().out
    assert "shortest right" in said and "wrong moves" in said and "<svg" in svg.read_text()
    assert main([*asked, "--nodes", "7"]) == 2
    assert "was trained on 6 nodes" in capsys.readouterr().err
    assert main(["eval", "sums", "--model", str(out), "--draw", str(svg)]) == 2
    assert "sums draws no figure" in capsys.readouterr().err
    prompt = "edges A-B B-C from A to C :"
    words = ["generate", "--model", str(out), "--prompt", prompt, "--lanes", "4", "--max-tokens"]
    assert main([*words, "3", "--seed", "1", "--plain"]) == 0


def test_loss_is_on_rows_that_something_follows() -> None:
    mx = pytest.importorskip("mlx.core", exc_type=ImportError)
    from tinylane.train.from_scratch import nll

    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    follows = np.array([[1, -1, 4], [0, 2, -1]])
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    each = [-np.log(p[b, r, follows[b, r]]) for b, r in itertools.product(range(2), range(3))
            if follows[b, r] >= 0]  # fmt: skip
    assert abs(nll(mx.array(logits), mx.array(follows)).item() - np.mean(each)) < 1e-6
