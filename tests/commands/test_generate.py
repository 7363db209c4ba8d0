"""`tinylane generate`: what it shows, and where. A random model: its answers are rubbish."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_cli import GAME, TEXT, config, generate, in_a_terminal, write_checkpoint

import tinylane
from tinylane.commands import common
from tinylane.commands.generate_output import describe_mask, describe_sampler, work
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.rope import frequencies
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.methods.decoding import Decoding

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures


# The shell game.


def test_a_shell_game_shows_the_problem_every_lane_the_vote_and_the_truth(
    ask: Any, game: str
) -> None:
    code, out, err = ask("generate", "--model", game, "--seed", 5)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == GAME.prompt(GAME.draw(1, np.random.default_rng(5))[0])
    assert [line.split(" | ")[0] for line in lines[1:5]] == [f"lane {m}/4" for m in (1, 2, 3, 4)]
    truth = GAME.answer(GAME.draw(1, np.random.default_rng(5))[0])
    assert re.match(rf"vote: .*; the truth: {truth}(; correct|; wrong)?$", lines[5])
    assert "seed 5" in err and "tokens/s" in err and "peak memory" in err
    assert "4 lanes, each reads all others" in err


def test_a_new_seed_is_shown_and_repeats_the_run(ask: Any, game: str) -> None:
    _, first, err = ask("generate", "--model", game)
    seed = re.search(r"seed (\d+)", err)
    assert seed is not None
    assert ask("generate", "--model", game, "--seed", seed[1])[1] == first
    assert re.search(r"seed (\d+)", ask("generate", "--model", game)[2])[1] != seed[1]


def test_the_user_s_swaps_are_played(ask: Any, game: str) -> None:
    document = generate(ask, game, "--prompt", "1-2, 3-2")
    assert document["prompt"] == "cups ABC, swap 1-2 2-3 -- --: where?"
    assert document["task"]["truth"] == "BCA"
    assert document["task"]["correct"] == (document["vote"]["answer"] == "BCA")


def test_the_embedded_model_is_used_without_model(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "embedded", lambda: Path(game))
    assert ask("generate", "--seed", 1)[1] == ask("generate", "--seed", 1, "--model", game)[1]


def test_a_missing_embedded_model_is_one_line(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "__file__", str(tmp_path / "tinylane" / "commands" / "common.py"))
    code, out, err = ask("generate")
    assert (code, out, err.count("\n")) == (2, "", 1) and "tinylane train" in err


def test_what_each_word_of_a_lane_is_for() -> None:
    moves = ShellGame(4, 8).parse("1-2 2-3 3-4 1-4 1-3 2-4 1-2 --")
    big = ShellGame(4, 8)
    assert work(big, moves, 4, 2) == ["1-3", "2-4", "lanes 3-4", "all lanes"]
    assert work(big, moves, 8, 5) == ["2-4", "lanes 5-6", "lanes 5-8", "all lanes"]
    assert work(big, moves, 1, 0) == ["1-2", "2-3", "3-4", "1-4", "1-3", "2-4", "1-2", "--"]


# Text.


def test_one_lane_is_its_text_and_nothing_else_on_stdout(ask: Any, plain: str) -> None:
    code, out, err = ask("generate", "--model", plain, "--seed", 3, *TEXT)
    same = generate(ask, plain, "--seed", 3, *TEXT)
    assert code == 0 and out == same["lanes"][0]["text"] + "\n"
    assert "sampling: temperature 0.6, top_p 0.95 (generation_config.json); seed 3" in err


def test_several_lanes_are_lines_behind_labels(ask: Any, plain: str) -> None:
    _, out, _ = ask("generate", "--model", plain, "--lanes", 3, "--seed", 3, *TEXT)
    document = generate(ask, plain, "--lanes", 3, "--seed", 3, *TEXT)
    expected = [f"lane {x['lane'] + 1} | {x['text']}" for x in document["lanes"] if x["text"]]
    assert sorted(out.splitlines()) == sorted(expected)


def test_quiet_says_nothing_on_stderr(ask: Any, plain: str) -> None:
    assert ask("generate", "--model", plain, "--lanes", 2, "--quiet", *TEXT)[2] == ""


def test_the_prompt_can_come_from_standard_input(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("cups ABC\n"))
    assert generate(ask, plain, "--prompt", "-")["prompt"] == "cups ABC"


def test_json_holds_what_the_library_gives(ask: Any, plain: str) -> None:
    document = generate(ask, plain, "--lanes", 2, "--seed", 9, "--temp", 0.7, *TEXT)
    model = tinylane.load(plain, backend="numpy")
    sampler = Sampler(temperature=0.7, top_p=0.95)
    same = tinylane.generate(model, "cups ABC", lanes=2, seed=9, sampler=sampler, max_tokens=5)
    for lane, there in zip(same.lanes, document["lanes"], strict=True):
        assert (there["tokens"], there["text"]) == (lane.tokens, lane.text)
        assert there["logprobs"] == pytest.approx(lane.logprobs)
    assert document["settings"]["sampler"]["temperature"] == 0.7
    assert document["identity"] == model.identity
    assert document["prompt_tokens"] == len(same.prompt)


def test_json_has_no_infinities(ask: Any, plain: str) -> None:
    document = generate(ask, plain, "--logit-bias", "3:-inf", "4:-2", *TEXT)
    assert document["settings"]["sampler"]["logit_bias"] == {"3": "-inf", "4": -2.0}


def test_flags_win_over_generation_config_and_both_are_shown() -> None:
    defaults = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    say = lambda given, defaults: describe_sampler(
        Sampler(**{**Sampler.from_config(defaults).__dict__, **given}), given, defaults
    )
    assert say({}, defaults) == "temperature 0.6, top_p 0.95 (generation_config.json)"
    assert say({"temperature": 0.3}, defaults) == (
        "temperature 0.3 (flags); top_p 0.95 (generation_config.json)"
    )
    assert say({"temperature": 0.0}, defaults) == "greedy (flags)"
    assert say({}, {"do_sample": False, "temperature": 0.0}) == "greedy (the default)"
    assert (
        say({"logit_bias": {1: 2.0}}, None)
        == "greedy (the default); logit_bias of 1 tokens (flags)"
    )


def test_answers_are_voted_on_when_asked_or_marked(ask: Any, plain: str) -> None:
    pattern = "[ABC]{3}"
    document = generate(ask, plain, "--lanes", 4, "--answer-pattern", pattern, *TEXT)
    assert document["vote"] is not None
    assert generate(ask, plain, "--lanes", 4, *TEXT)["vote"] is None
    assert generate(ask, plain, "--lanes", 4, "--vote", *TEXT)["vote"] is not None
    _, out, _ = ask("generate", "--model", plain, "--lanes", 4, "--answer-pattern", pattern, *TEXT)
    assert re.search(r"^lane 3: answer (\w+) \(\w+\)$", out, re.MULTILINE)
    assert re.search(r"^vote: ", out, re.MULTILINE)


def test_best_of_names_the_likeliest_lane(ask: Any, plain: str) -> None:
    document = generate(ask, plain, "--lanes", 4, "--best-of", "--seed", 1, *TEXT)
    means = [np.mean(lane["logprobs"]) for lane in document["lanes"]]
    assert document["best"] == int(np.argmax(means))
    _, out, _ = ask("generate", "--model", plain, "--lanes", 4, "--best-of", "--seed", 1, *TEXT)
    assert f"likeliest: lane {document['best'] + 1}" in out


def test_model_text_cannot_steer_the_terminal(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Decoding.step

    def step(self: Decoding) -> Any:
        found = original(self)
        object.__setattr__(found, "texts", ["\x1b[2J\u202e" for _ in found.texts])
        for lane in self.lanes:
            lane.text = "\x1b[2J\u202e"
        return found

    monkeypatch.setattr(Decoding, "step", step)
    for more in ([], ["--lanes", 2], ["--json"], ["--answer-pattern", ".+"]):
        _, out, err = ask("generate", "--model", plain, *TEXT, *more)
        assert "\x1b" not in out + err and "\u202e" not in out + err


# Lanes and rotations.


def settings(ask: Any, model: str, *more: object) -> dict:
    return generate(ask, model, "--raw", *TEXT, *more)["settings"]


def test_visibility_takes_names_matrices_and_files(ask: Any, game: str, tmp_path: Path) -> None:
    star = [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    (tmp_path / "v.json").write_text(json.dumps(star))
    assert settings(ask, game, "--lanes", 3, "--visibility", "star")["visibility"] == star
    assert settings(ask, game, "--visibility", json.dumps(star))["visibility"] == star
    assert settings(ask, game, "--visibility", f"@{tmp_path}/v.json")["visibility"] == star
    assert settings(ask, game, "--lanes", 3)["visibility"] == np.ones((3, 3)).tolist()
    late = settings(ask, game, "--lanes", 3, "--lag", 2)
    assert late["lag"] == 2 and late["visibility"] == np.ones((3, 3)).tolist()


def test_omega_takes_every_start_and_a_file(ask: Any, game: str, tmp_path: Path) -> None:
    theta, _ = frequencies(config().rope, 8)
    own = np.linspace(0, 1, 4)
    (tmp_path / "o.json").write_text(json.dumps(own.tolist()))
    ask_for = lambda *more: settings(ask, game, "--lanes", 2, "--seed", 0, *more)
    assert np.allclose(ask_for()["omega"], 9 * theta, rtol=1e-6)  # the adapter's
    assert ask_for("--omega", "learned") == ask_for()
    assert ask_for("--omega", "none")["omega"] == [0.0] * 4
    group = ask_for("--omega", "group_think", "--prompt-lane", 0)
    assert np.allclose(group["omega"], 5 * theta) and group["prompt_lane"] == 0  # 5 = max_tokens
    ntk = ask_for("--omega", "ntk", "--slot", 3, "--omega-scale", 7)
    assert np.allclose(ntk["omega"], LaneRoPE.ntk(theta, 3, 7).omega)
    assert np.allclose(ask_for("--omega", f"@{tmp_path}/o.json")["omega"], own)
    assert ask_for("--prompt-lane", 0)["omega"] == ask_for()["omega"]


def test_lane_prompts_say_how_many_lanes(ask: Any, plain: str) -> None:
    document = generate(ask, plain, "--lane-prompt", "1/4", "2/4", "--lane-prompt", "swap", *TEXT)
    assert [lane["prompt"] for lane in document["lanes"]] == [
        [GAME.ids[word]] for word in ("1/4", "2/4", "swap")
    ]


def test_who_reads_whom_in_words() -> None:
    assert describe_mask(LaneMask.joint(3), 3) == "each reads all others"
    assert describe_mask(LaneMask.joint(3, 1), 3) == "each reads all others, 1 step late"
    assert describe_mask(LaneMask.joint(3, 2), 3) == "each reads all others, 2 steps late"
    assert describe_mask(LaneMask.independent(3), 3) == "independent"
    assert describe_mask(LaneMask.star(3), 3) == "2 of 6 pairs read each other"


# Chat and terminal.


def test_chat_flags_reach_the_template(ask: Any, plain: str, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(plain, folder)
    file = folder / "tokenizer_config.json"
    words = "{{ 'ABC ' if shout }}{% for m in messages %}{{ m.content }} {% endfor %}"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": words}))
    flags = ["--prompt", "cups", "--system-prompt", "swap", "--prefill-response", "where"]
    flags += ["--chat-template-config", '{"shout": true}', "--save", tmp_path / "run.json"]
    assert generate(ask, str(folder), *flags, "-m", 1)["prompt_tokens"] == 4
    expected = [GAME.ids[word] for word in ("ABC", "swap", "cups", "where")]
    assert json.loads((tmp_path / "run.json").read_text())["prompt"]["ids"] == expected
    raw = generate(ask, str(folder), "--prompt", "cups", "--raw", "-m", 1)
    assert raw["prompt_tokens"] == 1


def test_in_a_terminal_lanes_stand_side_by_side_and_plain_lines_do_not(game: str) -> None:
    live = in_a_terminal("generate", "--model", game, "--seed", "2", "--pace", "0.01")
    last = live[live.rindex("╭") :]
    assert "\x1b[1;94mlane 1/4" in last and "\x1b[1;32mlane 3/4" in last
    assert last.count("answer") >= 4 and "vote: " in last and "tokens/s" in last
    plain = in_a_terminal("generate", "--model", game, "--seed", "2", "--plain")
    assert "\x1b" not in plain and "lane 4/4 | " in plain


def test_in_a_terminal_it_is_said_what_each_lane_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model inside, step 5: each lane reads its partner's last word, which has a mark."""
    live = in_a_terminal("generate", "--seed", "7", "--pace", "0.06")
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame) for frame in live.split("╭")[1:]]
    fifth = next(frame for frame in frames if "lanes 1-2" in frame)
    feet = re.findall(r"reads lane (\d)", fifth)
    assert feet == ["2", "1", "4", "3"]
    rows = [line for line in fifth.splitlines() if ">" in line]
    assert len(rows) == 1 and re.findall(r">(\w+)", rows[0]) == ["ACDB", "CDAB", "BADC", "CBDA"]
    assert ">" not in frames[-1] and "reads lane" not in frames[-1]  # what stays


def test_padding_is_explained(ask: Any, game: str) -> None:
    told = "-- moves nothing: lists of swaps are filled up to 4"
    assert told in ask("generate", "--model", game, "--prompt", "1-2 2-3")[2]
    assert told not in ask("generate", "--model", game, "--prompt", "1-2 2-3 1-2 1-3")[2]


def test_lanes_that_would_be_the_same_text_get_a_temperature(ask: Any, tmp_path: Path) -> None:
    """Of a checkpoint whose files name none; a flag, one lane, or lanes that differ are left."""
    folder = str(write_checkpoint(tmp_path / "m", adapter=False))
    four = lambda *flags: ask("generate", "--model", folder, "--seed", 1, *TEXT, *flags)
    code, out, err = four("--lanes", 4, "-m", 12)
    assert code == 0 and "temperature 0.7 (so that lanes differ; --temp 0 is greedy)" in err
    texts = [line.split(" | ")[1] for line in out.splitlines()]
    assert len(set(texts)) == 4
    for flags in (["--lanes", 4, "--temp", 0], ["--lanes", 1], ["--lane-prompt", "1/4", "2/4"]):
        assert "greedy" in four(*flags)[2].split("; seed")[0].replace("is greedy", "")


def test_flags_of_mlx_lm_that_change_no_token(ask: Any, game: str) -> None:
    """--prefill-step-size and --verbose; what they refuse is one line."""
    words = ["generate", "--model", game, "--seed", "3", "--backend", "numpy"]
    code, out, err = ask(*words)
    assert code == 0 and "sampling:" in err
    assert ask(*words, "--prefill-step-size", "3")[1] == out
    assert ask(*words, "--verbose", "False") == (0, out, "")
    assert "sampling:" in ask(*words, "--verbose", "T")[2]
    for more, says in (
        (["--verbose", "no"], "'no': expected True, T, False or F"),
        (["--prefill-step-size", "0"], "--prefill-step-size is 0; expected 1 or more"),
    ):
        code, _, err = ask(*words, *more)
        assert code == 2 and says in err and err.count("\n") == 1


def test_a_pass_of_the_prompt_has_as_many_rows_as_was_asked(
    monkeypatch: pytest.MonkeyPatch, ask: Any, game: str
) -> None:
    rows: list[int] = []
    plain_call = tinylane.Model.__call__

    def call(self: Any, tokens: Any, *more: Any, **named: Any) -> Any:
        rows.append(len(tokens))
        return plain_call(self, tokens, *more, **named)

    monkeypatch.setattr(tinylane.Model, "__call__", call)
    assert ask("generate", "--model", game, "--lanes", "1", "--prefill-step-size", "4")[0] == 0
    assert rows[0] == 4 and max(rows) <= 4
