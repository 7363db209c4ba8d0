"""The study: its games, its batched decoding, its commands (stopped, killed, misused), its data."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import tinylane
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tutorials.study import record
from tutorials.study.__main__ import main
from tutorials.study.base import BaseRecipe, alone
from tutorials.study.cells import CELLS, StudyRecipe
from tutorials.study.finetune import corrupted
from tutorials.study.fold import FoldedGame, SharesGame, head
from tutorials.study.score import batched, greedy, prompts, score
from tutorials.study.score_one import evaluate
from tutorials.study.scratch import compare
from tutorials.study.starts import company, omegas, together
from tutorials.study.trainer import StudyTrainer

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[2] / "tutorials" / "study"
MINI = ["swaps=4", "lanes=1,2", "shares=0.5,0.5", "width=16", "layers=2", "heads=2"]
MINI += ["kv_heads=1", "head_dim=8", "mlp_width=32", "warmup=2", "rows=128", "stage=2"]
TINY = StudyRecipe(
    swaps=4,
    lanes=(1, 2),
    shares=(0.5, 0.5),
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp_width=32,
    steps=6,
    warmup=2,
    rows=128,
    stage=2,
)
QUIET = lambda line: None


def random_model(tmp_path: Path, recipe: StudyRecipe, louder: float = 30.0) -> Model:
    """A model that writes all sorts of things: random weights, large enough to disagree."""
    game, config = recipe.game, recipe.config
    (tmp_path / "tokenizer.json").write_text(game.tokenizer_json())
    params = random_params(config, seed=3)
    params = {k: w * louder if w.ndim == 2 else w for k, w in params.items()}
    out = params["model.embed_tokens.weight"].T.copy()
    out[:, game.ids[END]] *= 2.0  # so that some lanes end early
    params["lm_head.weight"] = out
    tokenizer = Tokenizer.from_folder(tmp_path, config_eos=config.eos_ids, vocab=config.vocab)
    rope = LaneRoPE(np.linspace(0.3, 2.0, config.head_dim // 2))
    return Model(config, params, tokenizer=tokenizer, lane_rope=rope, visibility="joint")


# The games.


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_folded_lane_writes_the_whole_list_in_the_tokens_of_a_shared_one(n: int) -> None:
    """Guards the baseline's fairness: as many tokens, each swap in one of them, the true answer."""
    shared, folded = ShellGame(3), FoldedGame(3)
    moves = folded.draw(20, np.random.default_rng(n), stay=0.2)
    assert folded.steps(n) == shared.steps(n)
    assert sum(folded.counts(n)) == 16 and min(folded.counts(n)) >= 1
    written = folded.write(moves, n)
    assert written.shape == (20, n, shared.steps(n))
    for problem, lanes in zip(moves, written, strict=True):
        assert {shared.arrangements[a] for a in lanes[:, -1]} == {shared.answer(problem)}
        done = np.cumsum(folded.counts(n))
        for k, a in zip(done, lanes[0], strict=True):  # each token: so many swaps, done one by one
            stay = np.full(16 - k, len(shared.moves) - 1)
            assert shared.arrangements[a] == shared.answer(np.concatenate([problem[:k], stay]))


def test_a_share_is_the_beginning_of_what_a_lane_of_the_shared_game_writes() -> None:
    shared, shares = ShellGame(3, 16, (1, 2, 4)), SharesGame(3, 16, (1, 2, 4))
    moves = shared.draw(8, np.random.default_rng(0))
    assert np.array_equal(shares.write(moves, 4), shared.write(moves, 4)[:, :, :4])
    tokens, follows = shares.rows(moves, 4)
    whole, after = shared.rows(moves, 4)
    for b in range(8):  # lane b % 4 of the shared run, which goes on where this one ends
        at = 23 + (b % 4) * 7
        assert np.array_equal(tokens[b], np.concatenate([whole[b, :23], whole[b, at : at + 5]]))
        assert np.array_equal(follows[b, :4], after[b, at - 23 : at - 19])
        assert follows[b, 4] == shares.ids[END]
    assert np.array_equal(head(shared, moves), whole[:, :23])


def test_a_corrupted_transcript_is_wrong_in_one_lane_from_one_step_on() -> None:
    game, n = ShellGame(3, 16, (1, 4)), 4
    moves = game.draw(30, np.random.default_rng(0))
    right = [[game.arrangements[a] for a in lane] for p in game.write(moves, n) for lane in p]
    wrong = [x.split() for p in corrupted(game, moves, n, np.random.default_rng(1)) for x in p]
    for b in range(30):
        differ = [
            [x != y for x, y in zip(right[4 * b + m], wrong[4 * b + m], strict=True)]
            for m in range(n)
        ]
        assert sum(map(any, differ)) == 1
        lane = next(lane for lane in differ if any(lane))
        assert lane == sorted(lane)  # right, then wrong to the end


# Decoding of many problems at once.


@pytest.mark.parametrize("visibility", ["joint", "independent"])
@pytest.mark.parametrize("n", [1, 2])
def test_batched_greedy_decoding_writes_what_generate_writes(
    tmp_path: Path, visibility: str, n: int
) -> None:
    """Guards the study's scores: text for text the decoder's, also of lanes that end early."""
    model, game = random_model(tmp_path, TINY), TINY.game
    moves = game.draw(40, np.random.default_rng(0))
    mask = LaneMask.named(visibility, n)
    ours = greedy(model, game, moves, n, mask)
    early = 0
    for problem, lanes in zip(moves, ours, strict=True):
        result = tinylane.generate(
            model,
            game.prompt(problem),
            lanes=n,
            lane_prompts=game.lane_prompts(n),
            lane_mask=mask,
            max_tokens=game.steps(n) + 1,
            sampler=Sampler(temperature=0.0),
        )
        assert [x.text.split() for x in lanes] == [text.split() for text in result.texts]
        for mine, theirs in zip(lanes, result.lanes, strict=True):
            assert np.allclose(mine.logprobs, theirs.logprobs, atol=1e-4)
        early += any(len(lane.tokens) <= game.steps(n) for lane in result.lanes)
    assert 0 < early < 40, "both ways of decoding are to be tried"


def test_one_pass_over_the_right_text_is_not_greedy_decoding(tmp_path: Path) -> None:
    """The control of the test above: without the iteration the texts differ."""
    model, game, n = random_model(tmp_path, TINY), TINY.game, 2
    moves = game.draw(40, np.random.default_rng(0))
    fed = prompts(game, moves, n)
    lanes = fed[:, game.swaps + 7 :].reshape(40, n, -1)
    lanes[:, :, 1:] = game.write(moves, n) + game.ids[game.arrangements[0]]
    once = batched(model, game, n, LaneMask.joint(n))(fed).argmax(axis=-1).reshape(40, n, -1)
    words = [[game.vocabulary[t] for t in lane if t > 1] for p in once for lane in p]
    ours = greedy(model, game, moves, n, LaneMask.joint(n))
    right = [lane.text.split() for lanes in ours for lane in lanes]
    assert words != right


def test_scores_are_those_of_eval(tmp_path: Path) -> None:
    model = random_model(tmp_path, TINY)
    for visibility in ("joint", "independent"):
        ours = score(model, TINY.game, 2, visibility, count=60, seed=5)
        theirs = evaluate(model, TINY.game, 2, visibility, count=60, seed=5)
        assert (ours.right, ours.per_lane, ours.tokens) == (
            theirs.right,
            theirs.per_lane,
            theirs.tokens,
        )
    assert theirs.right + sum(theirs.per_lane) > 0, "some answers are right by chance"


# Training.


def test_numbers_of_lanes_join_by_stages() -> None:
    trainer = StudyTrainer(dataclasses.replace(TINY, lanes=(1, 2, 4), shares=(0.2, 0.3, 0.5)))
    assert np.allclose(trainer.chances(0), [1, 0, 0])
    assert np.allclose(trainer.chances(2), np.array([0.2, 0.6, 0]) / 0.8)
    assert np.allclose(trainer.chances(99), np.array([0.2, 0.3, 1.0]) / 1.5)
    flat = StudyTrainer(dataclasses.replace(TINY, stage=0))
    assert np.allclose(flat.chances(0), [0.5, 0.5])


def test_all_cells_see_the_same_problems() -> None:
    """Guards "the same steps and data"; the fold's runs are shorter, so a step has more of them."""
    batches = []
    for name in ("joint-none", "joint-learned", "independent"):
        trainer = StudyTrainer(CELLS[name].recipe(TINY, 4))
        batches.append([trainer.batch(step) for step in range(6)])
    for other in batches[1:]:
        for (n, tokens, follows), (m, t, f) in zip(batches[0], other, strict=True):
            assert n == m and np.array_equal(tokens, t) and np.array_equal(follows, f)
    fold = StudyTrainer(CELLS["fold"].recipe(TINY, 4))
    for step in range(6):
        n, tokens, _ = fold.batch(step)
        assert n == batches[0][step][0] and tokens.size <= TINY.rows


def test_independent_cells_are_one_cell() -> None:
    """Law 7 in training: Omega changes no logit where lanes do not meet; where they do, it does."""
    found = compare(TINY, 0, 3, QUIET)["cells"]
    assert [row["logits_gap_same_weights"] < 1e-5 for row in found] == [True] * 4
    assert found[0]["loss_gap_largest"] == 0.0 and found[1]["loss_gap_first_step"] < 1e-5
    import mlx.core as mx

    none, some = (StudyTrainer(CELLS[name].recipe(TINY, 0)) for name in ("joint-none", "joint-ntk"))
    tokens = mx.array(none.game.rows(none.game.draw(4, np.random.default_rng(0)), 2)[0])
    weights = {k: w * 12 if w.ndim == 2 else w for k, w in none.state["weights"].items()}
    a, b = (t.logits(weights, t.state["omega"], tokens, 2) for t in (none, some))
    assert mx.abs(a - b).max().item() > 1e-3


# Before tuning.


def test_company_of_a_lane_that_is_not_seen_changes_nothing(tmp_path: Path) -> None:
    """Guards table 3's reference row; and joint lanes do change what a random model writes."""
    recipe = BaseRecipe(**{f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)})
    model, game = random_model(tmp_path, recipe), recipe.shared_game
    rows = omegas(model.theta, slots=(8.0,))
    for row in rows.values():
        row["found"] = [company(model, game, row, which, 64)["nll"] for which in (0, 1)]
    lone = rows["independent"]["found"]
    assert lone[0] == lone[1]
    assert all(abs(rows[k]["found"][1] - lone[1]) > 1e-3 for k in rows if k != "independent")
    shares = together(model, recipe.game, rows["independent"], 2, 64)
    assert shares["count"] == 128
    assert alone(model, recipe.game, 1, 64)["count"] == 64


# The commands.


def run(*argv: object) -> int:
    return main([str(a) for a in argv])


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_scratch_stopped_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    cells = ("--cells", "joint-learned", "fold", "--seeds", 0, "--count", 8, "--law7", 0)
    common = (*cells, "--set", *MINI, "steps=6")
    assert run("scratch", "--out", tmp_path / "a", *common) == 0
    assert run("scratch", "--out", tmp_path / "b", *common, "--stop-at", 3) == 0
    assert not (tmp_path / "b" / "joint-learned-0" / "result.json").exists()
    assert run("scratch", "--out", tmp_path / "b", *common) == 0
    for name in ("joint-learned-0", "fold-0"):
        assert weights(tmp_path / "a" / name) == weights(tmp_path / "b" / name)
    table = json.loads((tmp_path / "a" / "scratch.json").read_text())
    assert set(table["cells"]) == {"joint-learned", "fold"}
    part = table["cells"]["joint-learned"]["seeds"][0]
    assert part["scores"]["2"]["count"] == 8 and len(part["omega"]["learned"]) == 4
    before = weights(tmp_path / "a" / "fold-0")
    assert run("scratch", "--out", tmp_path / "a", *common) == 0  # done: nothing is done again
    assert weights(tmp_path / "a" / "fold-0") == before


def test_scratch_killed_at_some_instant_goes_on(tmp_path: Path) -> None:
    """SIGKILL between two saved states: the restart ends with the bits of a run left alone."""
    argv = ["--cells", "joint-none", "--seeds", "0", "--count", "4", "--law7", "0"]
    argv += ["--set", *MINI, "steps=300"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [
        sys.executable,
        str(ROOT / "tutorials" / "study"),
        "scratch",
        "--out",
        str(killed),
        *argv,
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ}
    )
    state = killed / "joint-none-0" / "state.safetensors"
    for _ in range(6000):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists() and process.returncode == -signal.SIGKILL
    assert not (killed / "joint-none-0" / "result.json").exists()
    assert run("scratch", "--out", killed, *argv) == 0
    assert run("scratch", "--out", whole, *argv) == 0
    assert weights(whole / "joint-none-0") == weights(killed / "joint-none-0")
    steps = [json.loads(x)["step"] for x in (killed / "joint-none-0/log.jsonl").open()]
    assert steps == [100, 200, 300]


def test_finetune_and_starts_share_their_bases_and_go_on(tmp_path: Path) -> None:
    base = ("--seeds", 0, "--count", 8, "--set", *MINI, "steps=4")
    bases, out = tmp_path / "bases", tmp_path / "out"
    assert run("starts", "--out", bases, *base, "--stop-at", 2) == 0
    assert json.loads((bases / "starts.json").read_text())["seeds"] == []
    assert run("starts", "--out", bases, *base, "--publish", tmp_path / "s.json") == 0
    assert len(json.loads((tmp_path / "s.json").read_text())["seeds"]) == 1
    tuning = ("--tuning", "lanes=2", "transcripts=12", "steps=4", "lora_rank=2", "batch_size=4")
    cells = ("--cells", "sft-lora", "sft-full", "kto-omega_biases", "both-lora")
    command = ("finetune", "--out", out, "--bases", bases, *base, *tuning, *cells)
    assert run(*command, "--stop-at", 2) == 0
    assert set(json.loads((out / "finetune.json").read_text())["cells"]) == {"untuned"}
    assert run(*command) == 0
    cells_done = json.loads((out / "finetune.json").read_text())["cells"]
    assert set(cells_done) == {"untuned", *cells[1:]}
    part = cells_done["both-lora"]["seeds"][0]
    assert part["scores"]["2"]["count"] == 8 and part["alone"]["count"] == 8
    labels = [json.loads(x)["label"] for x in (out / "data-0" / "kto.jsonl").open()]
    assert labels.count(True) >= 12 and labels.count(False) >= 6


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["scratch", "--out", "x", "--cells", "joint-nothing"], "cell 'joint-nothing'; expected"),
        (["finetune", "--out", "x", "--cells", "dpo-full"], "cell 'dpo-full'; expected"),
        (["scratch", "--out", "x", "--seeds", "1", "1"], "expected different numbers"),
        (["scratch", "--out", "x", "--count", "0"], "--count is 0; expected 1 or more"),
        (["scratch", "--out", "x", "--stop-at", "0"], "--stop-at is 0"),
        (["scratch", "--out", "x", "--set", "cup=3"], "--set 'cup=3'; expected one of cups"),
        (["scratch", "--out", "x", "--set", "steps=many"], "expected a value like 2000"),
        (["scratch", "--out", "x", "--set", "cups=9"], "9 cups; expected 2 to 5"),
        (["starts"], "required: --out"),
        (["plot", "nowhere"], "nowhere"),
        ([], "required: table"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, argv, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err, err


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path, capsys) -> None:
    argv = ("scratch", "--out", tmp_path, "--cells", "fold", "--seeds", 0, "--law7", 0)
    assert run(*argv, "--stop-at", 1, "--count", 4, "--set", *MINI, "steps=3") == 0
    capsys.readouterr()
    assert run(*argv, "--stop-at", 1, "--count", 4, "--set", *MINI, "steps=4") == 2
    assert "of another configuration (recipe" in capsys.readouterr().err
    assert run("finetune", "--out", tmp_path, "--cells", "sft-full", "--seeds", 0) == 2
    assert "of another configuration" in capsys.readouterr().err


def test_two_processes_never_work_on_one_part(tmp_path: Path) -> None:
    with record.locked(tmp_path / "part") as first, record.locked(tmp_path / "part") as second:
        assert first and not second
    with record.locked(tmp_path / "part") as again:
        assert again


# What is published.


def test_a_table_is_written_as_it_is(tmp_path: Path) -> None:
    table = {"a": [1, -2.5, 1e-7], "b": [[1], [2, 3]], "c": ["1", None], "d": {"e": []}, "f": 5}
    record.publish(table, [tmp_path / "new" / "t.json"])
    text = (tmp_path / "new" / "t.json").read_text()
    assert json.loads(text) == table and '"a": [1, -2.5, 1e-07]' in text


def test_the_tables_in_the_text_are_made_from_the_data() -> None:
    """Guards the results text: no figure in a table is typed."""
    from tutorials.study.tables import tables

    text = (DATA / "README.md").read_text()
    for table in tables(DATA).split("\n\n"):
        assert table in text


def test_pictures_are_drawn_from_the_published_data(tmp_path: Path) -> None:
    for path in DATA.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["plot", str(tmp_path)]) == 0
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {path.name for path in DATA.glob("*.svg")} and len(drawn) == 5
    assert all(text.rstrip().endswith("</svg>") for text in drawn.values())


def parts(table: dict) -> list[tuple[str, dict]]:
    return [(name, part) for name, cell in table["cells"].items() for part in cell["seeds"]]


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_published_scores_are_counts_with_their_wilson_intervals(name: str) -> None:
    """Guards the tables: nothing typed in, shares from counts, intervals from the closed form."""
    table = json.loads((DATA / f"{name}.json").read_text())
    assert len(parts(table)) >= 6
    for _, part in parts(table):
        assert part["revision"] and part["versions"]["mlx"] and part["command"]
        for found in part["scores"].values():
            n, right, z = found["count"], found["right"], 1.959964
            assert n >= 500 and 0 <= right <= n and found["accuracy"] == right / n
            # Wilson's interval solves (p - right/n)^2 = z^2 p (1 - p) / n
            for p, inside in zip(found["interval"], (right > 0, right < n), strict=True):
                if inside:
                    gap = (p - right / n) ** 2 - z * z * p * (1 - p) / n
                    assert abs(gap) < 1e-4
    if name == "scratch":
        assert set(table["cells"]) <= set(CELLS)
        for row in table["law7"]["cells"]:
            assert row["logits_gap_same_weights"] < 1e-3
