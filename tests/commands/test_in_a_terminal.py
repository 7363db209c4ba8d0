"""What long commands show in a terminal: a bar that moves while they work, tables with rules.

Elsewhere the same commands write plain lines (`test_tune_command`, `test_bench`, `test_verify`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import helpers_cli
import pytest
from helpers_cli import in_a_terminal

from tinylane.commands import common
from tinylane.commands.cli import main
from tinylane.testing import checks

game = helpers_cli.game  # a fixture
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def lines(sent: str) -> list[str]:
    """The lines that a terminal shows, one after the other, without colours."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", sent)) if line.strip()]


def test_tuning_shows_a_bar_with_the_time_left_below_its_lines(tmp_path: Path) -> None:
    """Guards the lines too: a bar drawn over them would leave none to read afterwards."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    from helpers_tune import KTO, GAME, command, write_jsonl  # noqa: I001, imports MLX
    from helpers_cli import write_checkpoint

    one = {"prompt": "cups ABC", "lanes": [GAME.arrangements[1]]}
    data = write_jsonl(tmp_path / "d.jsonl", [one | {"label": True}, one | {"label": False}] * 3)
    base = write_checkpoint(tmp_path / "game")
    sent = in_a_terminal(*command("kto", base, data, tmp_path / "out", *KTO))
    shown = lines(sent)
    assert any(re.match(r"training .*12/12", line) for line in shown)
    assert any(re.match(r"step 12 of 12, loss \d", line) for line in shown)
    assert any(" left" in line for line in shown if line.startswith("training"))
    assert shown[-1].startswith("tuned: ")
    quiet = in_a_terminal(*command("kto", base, data, tmp_path / "quiet", *KTO, "--quiet"))
    assert not any(line.startswith(("training", "step")) for line in lines(quiet))


def test_training_from_scratch_shows_a_bar(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", exc_type=ImportError)
    sizes = "--swaps 4 --lanes 1 2 --shares 0.5 0.5 --width 16 --layers 2 --heads 2 --kv-heads 1"
    sizes += " --head-dim 8 --mlp-width 32 --steps 4 --warmup 2 --rows 128 --every 2"
    sent = in_a_terminal("train", "shell-game", "--out", str(tmp_path), *sizes.split())
    shown = lines(sent)
    assert any(re.match(r"training .*4/4", line) for line in shown)
    assert any(re.match(r"step 4 of 4, \d+ s; loss 1 lanes", line) for line in shown)
    assert shown[-1].startswith("trained: ")


def test_view_says_how_far_the_replay_is(game: str, tmp_path: Path) -> None:
    saved = str(tmp_path / "run.json")
    in_a_terminal("generate", "--model", game, "--lanes", "2", "--plain", "--save", saved)
    sent = in_a_terminal("view", saved, "--influence")
    assert re.search(r"attention: \d+ of \d+ rows", sent) and "silence: 1 of 2 lanes" in sent
    assert not any("attention: " in line or "silence: " in line for line in lines(sent)[-2:])


def test_verify_names_the_law_at_work_and_ends_with_a_table(game: str) -> None:
    """The last name is wiped: it would stand in the table's first line."""
    shown = lines(in_a_terminal("verify", game, "--backend", "numpy", "--samples", "1"))
    at_work = shown[: next(k for k, line in enumerate(shown) if "│" in line or "┃" in line)]
    for law in checks.LAWS:
        assert any(line == law for line in at_work), law
    rows = [line for line in shown if "│" in line]
    assert sum("holds" in row for row in rows) == len(checks.LAWS)


def test_bench_shows_tables_with_ratios_and_profiles() -> None:
    words = "--shape tiny --prompt-tokens 6 -m 4 --repeats 1 --read-mib 1 --backend numpy"
    words += " --threads 1 --lanes 2 --mode independent --against llama3.np --profile"
    shown = lines(in_a_terminal(*words.split(), columns=200, program=("tutorials/bench",)))
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in shown if line[0] == "│"]
    of = lambda count: [row for row in rows if len(row) == count]  # each table has its own width
    (ratio,) = of(8)
    assert ratio[:4] == ["tinylane numpy", "llama3.np", "2", "6"] and ratio[-1] == "4 of 4"
    (profile,) = of(14)
    assert profile[:4] == ["tinylane numpy", "independent", "2", "6"]
    assert all(float(cell) >= 0 for cell in profile[4:12]) and float(profile[12]) > 0
    results = [row for row in rows if row[1] == "independent" and len(row) not in (5, 14)]
    assert [row[0] for row in results] == ["tinylane numpy", "llama3.np"]
    assert "-" in results[1]  # of a peer it is not known how much it reads


def test_what_may_take_long_has_words_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are shown after two seconds; here they are noted at once."""
    said: list[str] = []

    @contextmanager
    def told(text: str, *more: object, **settings: object) -> Iterator[None]:
        said.append(text)
        yield

    monkeypatch.setattr(common, "told_if_slow", told)
    saved = str(tmp_path / "run.json")
    for command, last in (
        (["generate", "--seed", "7", "--save", saved], "reading the prompt"),
        (["generate", "--method", "gambit", "--seed", "7"], "reading the prompt"),
        (["replay", saved], "computing the log-probabilities again"),
        (
            ["generate", "--beams", "2", "--seed", "7"],
            "searching: every beam goes on token by token",
        ),
    ):
        said.clear()
        assert main(command) == 0
        assert said == ["loading the model", last]
    capsys.readouterr()
