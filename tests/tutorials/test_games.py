"""Tables 4 and 5: what tells lanes apart, greedy texts of a batch, runs that go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import mlx.core as mx

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.evaluate.tasks.frontier import Frontier
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.train.from_scratch import Trainer, nll
from tinylane.view.figure_style import alt
from tutorials.study.__main__ import main
from tutorials.study.figures import cells as cells_figure
from tutorials.study.figures import live as live_figure
from tutorials.study.games import APART, LIVE, TABLES, CellRecipe, CellTrainer, FrontierRecipe
from tutorials.study.games_score import counted, scored, written
from tutorials.study.steps import steps
from tutorials.study.tables import by_answer, tables

SIZES: dict[str, Any] = {
    "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32,
    "steps": 4, "warmup": 2, "rows": 256, "stage": 1,
}  # fmt: skip
GAME = {"swaps": 4, "lanes": (1, 2), "shares": (0.5, 0.5)}
TINY = CellRecipe(**SIZES, **GAME, omega="none", learn_omega=False)
GRAPHS = FrontierRecipe(**SIZES, nodes=6, edges=7, lanes=(1, 2), shares=(0.5, 0.5))
MINI = [f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in SIZES.items()]


def louder(trainer: CellTrainer, factor: float = 20.0) -> CellTrainer:
    """Weights so large that the model writes all sorts of things."""
    for k, w in trainer.state["weights"].items():
        trainer.state["weights"][k] = w * factor if w.ndim == 2 else w
    return trainer


def logits(trainer: Trainer, n: int = 2, changed: dict[str, Any] | None = None) -> np.ndarray:
    drawn = trainer.game.draw(3, np.random.default_rng(0))
    tokens, _ = trainer.game.rows(drawn, n)
    weights = {**trainer.state["weights"], **(changed or {})}
    return np.array(trainer.logits(weights, trainer.state["omega"], mx.array(tokens), n))


@pytest.mark.parametrize("field", ["lane_embed", "lane_kv"])
def test_embeddings_of_zero_change_nothing_and_others_tell_lanes_apart(field: str) -> None:
    trainer = CellTrainer(dataclasses.replace(TINY, **{field: True}))
    names = [name for name in trainer.state["weights"] if name.startswith(field)]
    assert len(names) == (1 if field == "lane_embed" else TINY.layers)
    tables = {name: trainer.state["weights"][name] for name in names}
    zero = {name: mx.zeros_like(table) for name, table in tables.items()}
    plain = CellTrainer(TINY)
    assert np.abs(logits(trainer, changed=zero) - logits(plain)).max() < 1e-6
    assert np.abs(logits(trainer) - logits(plain)).max() > 1e-5
    # Lane 1's row changes what lane 1 computes and, read by it, lane 0; with one lane nothing.
    second = {name: table + mx.array([[0.0], [1.0]]) for name, table in tables.items()}
    assert np.abs(logits(trainer, 1, second) - logits(trainer, 1)).max() == 0
    assert np.abs(logits(trainer, 2, second) - logits(trainer, 2)).max() > 1e-4


@pytest.mark.parametrize("field", ["lane_embed", "lane_kv"])
def test_gradients_of_embeddings_against_finite_differences(field: str) -> None:
    trainer = louder(CellTrainer(dataclasses.replace(TINY, **{field: True})), 5.0)
    tokens, follows = trainer.game.rows(trainer.game.draw(4, np.random.default_rng(1)), 2)
    names = [name for name in trainer.state["weights"] if name.startswith(field)]

    def loss(table: mx.array, name: str) -> mx.array:
        weights = {**trainer.state["weights"], name: table}
        each = trainer.logits(weights, trainer.state["omega"], mx.array(tokens), 2)
        return nll(each, mx.array(follows))

    for name in names:
        table = trainer.state["weights"][name]
        found = np.array(mx.grad(lambda t: loss(t, name))(table))  # noqa: B023
        step = np.random.default_rng(2).normal(size=table.shape).astype(np.float32)
        high, low = (loss(table + e * mx.array(step), name).item() for e in (1e-2, -1e-2))
        expected = (high - low) / 2e-2
        assert abs((found * step).sum() - expected) < 2e-2 * max(abs(expected), 1e-2), name
        assert np.abs(found).max() > 1e-6


def test_the_view_order_is_that_of_hogwild() -> None:
    trainer = CellTrainer(dataclasses.replace(TINY, view_order=True))
    weights = trainer.state["weights"]
    params = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].T}
    model = Model(trainer.config, params, backend="mlx")
    tokens, _ = trainer.game.rows(trainer.game.draw(3, np.random.default_rng(0)), 2)
    ours, P = logits(trainer), trainer.game.prompt_rows
    places = trainer.game.coordinates(2)
    for b in range(3):
        theirs = np.asarray(model(tokens[b], *places, Hogwild(), LaneMask.joint(2)))
        assert np.abs(theirs[P:] - ours[b]).max() < 1e-4
    assert np.abs(ours - logits(CellTrainer(TINY))).max() > 1e-5


def test_a_late_lane_writes_its_own_again_before_it_composes() -> None:
    """With lag 1 the partner's word is seen a step later; what was written then is the same."""
    game, late = ShellGame(3, 16, (1, 2, 4)), ShellGame(3, 16, (1, 2, 4), lag=1)
    moves = game.draw(5, np.random.default_rng(0))
    for n, again in ((1, 0), (2, 1), (4, 2)):
        plain, delayed = game.write(moves, n), late.write(moves, n)
        assert late.steps(n) == game.steps(n) + again == delayed.shape[2]
        share = 16 // n
        assert np.array_equal(delayed[:, :, :share], plain[:, :, :share])
        assert np.array_equal(delayed[:, :, -1], plain[:, :, -1])
        if again:
            assert np.array_equal(delayed[:, :, share], plain[:, :, share - 1])  # written again
            assert np.array_equal(delayed[:, :, share + 1], plain[:, :, share])


@pytest.mark.parametrize("recipe", [TINY, GRAPHS], ids=["shell-game", "frontier"])
def test_greedy_texts_of_a_batch_are_those_of_generate(recipe: CellRecipe, tmp_path: Path) -> None:
    """Until a lane ends; after that the trainer's rows are empty, and `generate` has none."""
    trainer = louder(CellTrainer(dataclasses.replace(recipe, omega="ntk", slot=5.0)))
    Trainer.export(trainer, tmp_path)
    model = tinylane.load(tmp_path, backend="mlx", dtype="float32")
    game = trainer.game
    drawn = game.draw(6, np.random.default_rng(3))
    compared = 0
    for n in recipe.lanes:
        texts = written(trainer, drawn, n)
        for one, lanes in zip(drawn, texts, strict=True):
            result = tinylane.generate(
                model, game.prompt(one), lanes=n, lane_prompts=game.lane_prompts(n),
                max_tokens=game.steps(n), sampler=tinylane.Sampler(0.0),
                lane_rope=LaneRoPE(np.asarray(trainer.state["omega"])),
            )  # fmt: skip
            first = min(len(lane.tokens) for lane in result.lanes)
            for text, lane in zip(lanes, result.lanes, strict=True):
                mine = text.split()
                k = min(first, len(mine))
                assert mine[:k] == [game.vocabulary[t] for t in lane.tokens[:k]]
                compared += k
    assert compared > 20


def test_scores_and_steps_without_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that writes the truth is right everywhere, in the steps that are counted."""
    import tutorials.study.games_score as module

    for recipe in (TINY, GRAPHS, dataclasses.replace(GRAPHS, schedule="fork")):
        trainer = CellTrainer(recipe)
        game = trainer.game

        def truth(trainer: Any, drawn: Any, n: int) -> list[list[str]]:
            ids, P = game.rows(drawn, n)[1], n  # noqa: B023
            words = lambda row: [game.vocabulary[t] for t in row if t > 1]  # noqa: B023
            return [[" ".join(words(lane)) for lane in one] for one in ids.reshape(len(ids), P, -1)]

        monkeypatch.setattr(module, "written", truth)
        for n in recipe.lanes:
            found = scored(trainer, n, 20)
            assert found["right"] == 20 and found["count"] == 20
            if recipe.game_name == "frontier":
                table = counted(game, 20)[str(n)]
                assert found["steps"] == table[recipe.schedule] and found["wrong moves"] == 0
                by_step = np.diff([0, *found["by_step"]])  # all of them right, each at its step
                mean = by_step @ np.arange(1, len(by_step) + 1) / 20
                assert by_step.sum() == 20 and mean == pytest.approx(found["steps"])
                assert [sum(k) for k in zip(*found["by_answer"].values(), strict=True)] == [20, 20]
                assert table["best split"] <= table["fork"]
                assert n > 1 or table["joint"] == table["fork"] == table["best split"]
            else:
                assert found["steps"] == game.steps(n)


@pytest.mark.parametrize("table", ["apart", "frontier"])
def test_a_table_is_trained_in_parts_and_published(table: str, tmp_path: Path) -> None:
    game = ["nodes=6", "edges=7"] if table == "frontier" else ["swaps=4"]
    game += ["lanes=1,2", "shares=0.5,0.5"]
    words = [table, "--seeds", "0", "--count", "4", "--set", *MINI, *game]
    cells = ["--cells", *[c.name for c in TABLES[table][0][:2]]]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, *cells, "--out", str(whole)]) == 0
    assert main([*words, *cells, "--out", str(parts), "--stop-at", "2"]) == 0
    first = TABLES[table][0][0].name
    assert not (parts / f"{first}-0" / "result.json").exists()
    assert main([*words, *cells, "--out", str(parts), "--minutes", "0.0001"]) == 0
    while not (parts / f"{TABLES[table][0][1].name}-0" / "result.json").exists():
        assert main([*words, *cells, "--out", str(parts), "--minutes", "0.0001"]) == 0
    a, b = (json.loads((folder / f"{table}.json").read_text()) for folder in (whole, parts))
    assert set(a["cells"]) == set(b["cells"]) == {c.name for c in TABLES[table][0][:2]}
    for name, cell in a["cells"].items():
        mine, theirs = cell["seeds"][0], b["cells"][name]["seeds"][0]
        assert mine["parameters"] == theirs["parameters"] > 1000
        for n, score in mine["scores"].items():
            assert score == theirs["scores"][n]
    assert ("steps_without_mistakes" in a) == (table == "frontier")
    said, first = alt(cells_figure(a)), a["cells"][first]
    right = first["seeds"][0]["scores"]["2"]["accuracy"]
    assert f"{first['says']}, 2 lanes: {right:.0%}" in said
    if table == "frontier":
        assert f"{first['says']}, 2 lanes: {right:.0%}" in alt(live_figure(a))
        each = first["seeds"][0]["scores"]["2"]["by_answer"]
        shown = " | ".join(f"{k} of {n}" for k, n in each.values())
        assert f"| {first['says']} | 2 | {shown} |" in by_answer(a)
    shown = tables(whole).splitlines()
    assert TABLES[table][0][0].says in shown[2] and "steps" in shown[2]
    assert any("best split" in line for line in shown) == (table == "frontier")
    assert main([*words, "--cells", "nothing", "--out", str(whole)]) == 2
    assert main([table, "--out", str(tmp_path / "x"), "--set", "lanes=1,2"]) == 2


def test_steps_are_counted_without_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "--count", "20", "--set", "nodes=8", "edges=10", "lanes=1,2,4"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == steps(Frontier(8, 10, lanes=(1, 2, 4)), 20)
    rows = [[float(x) for x in line.split("|")[1:-1]] for line in shown.splitlines()[2:]]
    assert [row[0] for row in rows] == [1, 2, 4]
    assert rows[0][1] >= rows[1][1] >= rows[2][1]  # more lanes that read take no more steps
    assert all(row[3] <= row[2] for row in rows)  # no fixed split beats the best one


def test_every_cell_can_take_a_step() -> None:
    for cells, base in ((APART, TINY), (LIVE, GRAPHS)):
        for cell in cells:
            trainer = CellTrainer(cell.recipe(base, 3))
            losses = [trainer.advance()[1] for _ in range(2)]
            assert np.isfinite(losses).all(), cell.name
            n = trainer.game.lanes[-1]
            assert 0 <= trainer.exact(n, 4) <= 1
    with pytest.raises(TinylaneError, match="expected some of joint"):
        from tutorials.study.games import chosen

        chosen("frontier", ["tags"])
