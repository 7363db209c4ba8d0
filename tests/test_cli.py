"""The command line: what it says, where, and how it ends. A random model: answers are rubbish."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinylane.adapter import save_adapter

import tinylane
from tinylane.cli import main, parser
from tinylane.commands import common
from tinylane.commands.report import describe_mask, describe_sampler, work
from tinylane.config import ModelConfig, RopeConfig
from tinylane.decoding import Decoding
from tinylane.lanes import LaneMask, LaneRoPE
from tinylane.rope import frequencies
from tinylane.sampling import Sampler
from tinylane.tasks.evaluate import Score, evaluate, game_of
from tinylane.tasks.shell_game import END, ShellGame
from tinylane.tensorfile import write_tensors
from tinylane.train.init import random_params

GAME = ShellGame(cups=3, swaps=4, lanes=(1, 2, 4))
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": len(GAME.vocabulary),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": GAME.ids[END],
    "torch_dtype": "float32",
}


def config() -> ModelConfig:
    return ModelConfig(
        family="qwen3",
        vocab=len(GAME.vocabulary),
        width=16,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        mlp_width=24,
        context=64,
        norm_eps=1e-6,
        rope=RopeConfig(base=10000.0),
        tied=True,
        qk_norm=True,
        eos_ids=(GAME.ids[END],),
    )


def write_checkpoint(
    folder: Path, *, adapter: bool = True, generation: dict | None = None, template: str = ""
) -> Path:
    """A folder as the trainer exports it, with random weights."""
    folder.mkdir(parents=True)
    params = random_params(config(), 0, std=0.5)
    params.pop("lm_head.weight")
    tensors = {
        name: np.ascontiguousarray(w if w.ndim == 1 or "embed" in name else w.T)
        for name, w in params.items()
    }
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps(generation or {}))
    (folder / "tokenizer.json").write_text(GAME.tokenizer_json())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    if template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if adapter:
        theta, _ = frequencies(config().rope, 8)
        save_adapter(
            folder / "adapter",
            config(),
            {"lane_rope.omega": LaneRoPE.group_think(theta, 9.0).omega},
            {
                "prompt_lane": "own",
                "visibility": "joint",
                "lag": 0,
                "lanes": [1, 2, 4],
                "task": {"name": "shell-game", "cups": 3, "swaps": 4, "lanes": [1, 2, 4]},
            },
        )
    return folder


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the shell game."""
    return str(write_checkpoint(tmp_path_factory.mktemp("cli") / "game"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that knows nothing of lanes and samples by default."""
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    folder = tmp_path_factory.mktemp("cli") / "plain"
    return str(write_checkpoint(folder, adapter=False, generation=generation))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def generate(ask: Any, model: str, *more: object) -> dict:
    code, out, _ = ask("generate", "--model", model, "--json", *more)
    assert code == 0
    return json.loads(out)


TEXT = ("--prompt", "cups ABC", "--max-tokens", 5)


# Starting.


def subprocess_run(*argv: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tinylane", *argv], capture_output=True, text=True, **kwargs
    )


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; from tinylane.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'mlx', 'rich', 'jinja2', 'tokenizers', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert subprocess_run("--version").stdout.strip() == f"tinylane {tinylane.__version__}"


def test_generate_without_a_terminal_loads_neither_rich_nor_mlx_nor_jinja(game: str) -> None:
    code = (
        "import sys; from tinylane.cli import main\n"
        f"main(['generate', '--model', {game!r}, '--backend', 'numpy'])\n"
        "heavy = {'mlx', 'rich', 'jinja2', 'huggingface_hub', 'hypothesis', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_only_commands_that_exist_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for name in ("generate", "eval", "inspect", "replay", "train"):
        assert re.search(rf"^    {name} ", out, re.MULTILINE)
    for name in ("bench", "verify", "view"):
        assert not re.search(rf"^    {name}\b", out, re.MULTILINE)


def test_flags_are_those_of_mlx_lm_where_it_has_them() -> None:
    args = parser().parse_args(
        [
            "generate",
            "--model",
            "m",
            "--adapter-path",
            "a",
            "--prompt",
            "p",
            "--max-tokens",
            "1",
            "--temp",
            "0.5",
            "--top-p",
            "0.9",
            "--top-k",
            "3",
            "--min-p",
            "0.1",
            "--seed",
            "7",
            "--system-prompt",
            "s",
            "--prefill-response",
            "f",
            "--ignore-chat-template",
        ]
    )
    assert (args.temp, args.top_k, args.raw, args.prefill_response) == (0.5, 3, True, "f")


def test_the_recipe_s_fields_are_flags_of_train() -> None:
    pytest.importorskip("mlx.core")
    words = "train shell-game --out o --cups 3 --lanes 1 2 --shares 0.5 0.5 --no-learn-omega"
    args = parser(words.split()).parse_args(words.split())
    assert (args.cups, args.lanes, args.shares, args.learn_omega) == (3, [1, 2], [0.5, 0.5], False)


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
    assert re.match(rf"vote: .*; the truth: {truth}; (correct|wrong)$", lines[5])
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
    expected = [f"lane {x['lane']} | {x['text']}" for x in document["lanes"] if x["text"]]
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
    assert f"likeliest: lane {document['best']}" in out


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
    assert describe_mask(LaneMask.joint(3, 2), 3) == "each reads all others, 2 steps late"
    assert describe_mask(LaneMask.independent(3), 3) == "independent"
    assert describe_mask(LaneMask.star(3), 3) == "2 of 6 pairs read each other"


# What it says about models that do not know lanes.


def notes(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("tinylane: note:")]


def test_an_untrained_model_runs_independently_and_says_so_once(ask: Any, plain: str) -> None:
    _, _, err = ask("generate", "--model", plain, "--lanes", 3, *TEXT)
    assert len(notes(err)) == 1 and "not trained to listen to other lanes" in err
    assert "independent" in err and "--visibility joint" in err
    document = generate(ask, plain, "--lanes", 3, *TEXT)
    assert document["settings"]["visibility"] == np.eye(3).tolist()


def test_joint_lanes_of_an_untrained_model_say_what_to_expect_once(ask: Any, plain: str) -> None:
    _, _, err = ask("generate", "--model", plain, "--lanes", 3, "--visibility", "joint", *TEXT)
    assert len(notes(err)) == 1 and "not trained" in err and "expect degraded" in err


def test_a_trained_model_and_a_lone_lane_need_no_note(ask: Any, plain: str, game: str) -> None:
    assert notes(ask("generate", "--model", plain, *TEXT)[2]) == []
    assert notes(ask("generate", "--model", game)[2]) == []


def test_greedy_independent_lanes_are_said_to_be_identical(ask: Any, plain: str) -> None:
    same = ["generate", "--model", plain, "--lanes", 2, "--temp", 0, *TEXT]
    assert any("identical" in line for line in notes(ask(*same)[2]))
    assert not any("identical" in line for line in notes(ask(*same, "--temp", 0.5)[2]))
    told = ask(*same, "--lane-prompt", "1/4", "2/4")[2]
    assert not any("identical" in line for line in notes(told))
    assert any("no effect" in line for line in notes(ask(*same, "--top-p", 0.5)[2]))


# Errors: one line, exit 2, nothing on stdout.

BAD: dict[str, list[object]] = {
    "no lanes": ["--lanes", 0],
    "10,000 lanes": ["--lanes", 10000],
    "lanes that are no number": ["--lanes", "many"],
    "non-square visibility": ["--visibility", "[[1, 0]]"],
    "ragged visibility": ["--visibility", "[[1, 0], [1]]"],
    "visibility of words": ["--visibility", '[["a"]]'],
    "visibility that is no JSON": ["--visibility", "[["],
    "visibility nested without end": ["--visibility", "[" * 100000],
    "visibility for fewer lanes": ["--visibility", "[[1]]", "--lanes", 2],
    "unknown visibility": ["--visibility", "all"],
    "missing visibility file": ["--visibility", "@/no/such.json"],
    "negative lag": ["--lag", -1],
    "negative temperature": ["--temp", -0.5],
    "infinite temperature": ["--temp", "inf"],
    "top-p over 1": ["--top-p", 1.5],
    "negative top-k": ["--top-k", -1],
    "omega of the wrong length": ["--omega", "@OMEGA"],
    "unknown omega": ["--omega", "big"],
    "omega of no adapter": ["--omega", "learned"],
    "slot without omega": ["--slot", 3],
    "infinite slot": ["--omega", "ntk", "--slot", "inf"],
    "no tokens": ["--max-tokens", 0],
    "empty prompt": ["--prompt", ""],
    "prompt longer than the context": ["--prompt", "cups " * 70],
    "negative seed": ["--seed", -1],
    "an unknown flag": ["--frobnicate"],
    "a missing folder": ["--model", "/no/such/folder"],
    "an empty folder": ["--model", "EMPTY"],
    "an adapter that is none": ["--adapter-path", "EMPTY"],
    "bias that is none": ["--logit-bias", "x"],
    "bias of no token": ["--logit-bias", "99999:1"],
    "template settings that are no JSON": ["--chat-template-config", "{"],
    "template settings that are no object": ["--chat-template-config", "3"],
    "template settings without a template": ["--chat-template-config", '{"a": 1}'],
    "a system prompt without a template": ["--system-prompt", "be brief"],
    "an answer pattern that is none": ["--answer-pattern", "("],
    "an empty stop string": ["--stop", ""],
    "more lane prompts than lanes": ["--lanes", 1, "--lane-prompt", "swap", "swap"],
    "nowhere to save": ["--save", "/no/such/folder/run.json"],
    "a folder to save to": ["--save", "EMPTY"],
    "a dtype the backend lacks": ["--backend", "numpy", "--dtype", "bfloat16"],
    "a backend that is none": ["--backend", "torch"],
    "two outputs": ["--json", "--plain"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(ask: Any, plain: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "omega.json").write_text("[1, 2, 3]")
    places = {"EMPTY": str(tmp_path / "empty"), "@OMEGA": f"@{tmp_path}/omega.json"}
    flags = [places.get(str(word), word) for word in BAD[name]]
    code, out, err = ask("generate", "--model", plain, "--quiet", *TEXT, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("tinylane: error: ") and len(err) < 400


def test_flags_are_checked_before_a_model_is_loaded(ask: Any) -> None:
    for flags in (["--lanes", 0], ["--temp", -1], ["--visibility", "x"], ["--save", "/no/x"]):
        assert "/no/such" not in ask("generate", "--model", "/no/such", *flags)[2]


def test_a_shell_game_of_other_lanes_or_swaps_is_one_line(ask: Any, game: str) -> None:
    for flags in (["--lanes", 3], ["--prompt", "1-9"], ["--prompt", "x"], ["--prompt", "1-2 " * 9]):
        code, out, err = ask("generate", "--model", game, *flags)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_a_damaged_task_is_one_line(ask: Any, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    file = folder / "adapter" / "adapter_config.json"
    for task in ({"cups": "4", "swaps": 4}, {"cups": 4}, {"cups": 4, "swaps": 4, "lanes": 1}):
        settings = json.loads(file.read_text()) | {"task": {"name": "shell-game", **task}}
        file.write_text(json.dumps(settings))
        code, _, err = ask("generate", "--model", folder)
        assert (code, err.count("\n")) == (2, 1), err


def test_a_model_without_a_task_needs_a_prompt(ask: Any, plain: str) -> None:
    code, _, err = ask("generate", "--model", plain)
    assert (code, err.count("\n")) == (2, 1) and "--prompt" in err


def test_no_command_and_unknown_commands_are_one_line(ask: Any) -> None:
    for argv in ([], ["bench"], ["verify"], ["view"], ["train"], ["eval", "chess"]):
        code, out, err = ask(*argv)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_control_characters_of_an_argument_do_not_reach_the_terminal(ask: Any) -> None:
    code, _, err = ask("generate", "--model", "\x1b[31mred\nline", *TEXT)
    assert code == 2 and "\x1b" not in err and err.count("\n") == 1


def test_warnings_are_one_line(ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        warnings.warn("weights hold\nNaN", stacklevel=2)
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr(common, "load", load)
    code, _, err = ask("generate", "--model", plain, *TEXT)
    assert code == 2
    assert err.splitlines() == [
        "tinylane: warning: weights hold NaN",
        "tinylane: error: out.json: No space left on device",
    ]


def test_a_reader_that_goes_away_is_no_error(game: str) -> None:
    command = f"{sys.executable} -m tinylane generate --model {game} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{" and done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(plain: str) -> None:
    command = f"{sys.executable} -m tinylane generate --model {plain} --prompt cups --quiet"
    done = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "tinylane: error: No space left on device\n"


def test_a_terminal_without_unicode_shows_escapes(plain: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess_run("generate", "--model", plain, "--prompt", "é", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["prompt"]) == (0, "é")
    done = subprocess_run("generate", "--model", "/nö", "--prompt", "é", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# Ctrl-C.


def interrupt_at(monkeypatch: pytest.MonkeyPatch, at: int, times: int = 1) -> None:
    """Send this process SIGINT at the beginning of a step."""
    original = Decoding.step

    def step(self: Decoding) -> Any:
        if self.steps == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return original(self)

    monkeypatch.setattr(Decoding, "step", step)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_what_there_is_and_marks_the_lanes(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    whole = generate(ask, plain, "--lanes", 2, "--seed", 3, "--logit-bias", "1:-inf", *TEXT)
    interrupt_at(monkeypatch, 2, times)
    argv = ["--lanes", "2", "--seed", "3", "--logit-bias", "1:-inf", *TEXT]
    code, out, _ = ask("generate", "--model", plain, "--json", *argv)
    document = json.loads(out)
    assert code == 130 and document["interrupted"]
    done = 3 if times == 1 else 2  # the first Ctrl-C lets the step finish
    for lane, there in zip(document["lanes"], whole["lanes"], strict=True):
        assert lane["finish_reason"] == "interrupted"
        assert lane["tokens"] == there["tokens"][:done]
        assert len(lane["logprobs"]) == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_shell_game_does_not_vote(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1)
    code, out, _ = ask("generate", "--model", game, "--logit-bias", f"{GAME.ids[END]}:-inf")
    assert code == 130 and "vote: no lane gave an answer" in out
    assert out.count("(interrupted)") == 4


def test_ctrl_c_while_loading_is_one_line(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "load", load)
    code, out, err = ask("generate", "--model", plain, *TEXT)
    assert (code, out, err) == (130, "", "tinylane: error: interrupted\n")


# The other commands.


def test_inspect_says_what_was_chosen_and_from_which_file(ask: Any, game: str) -> None:
    code, out, _ = ask("inspect", game, "--lanes", 4, "--prompt-tokens", 10, "--max-tokens", 20)
    assert code == 0 and "qwen3" in out and "[config.json]" in out and "4 lanes of 20" in out
    code, out, _ = ask("inspect", game, "--json")
    assert code == 0 and json.loads(out)["family"]["value"] == "qwen3"
    code, out, err = ask("inspect", "/no/such")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_eval_counts_what_generate_answers(ask: Any, game: str) -> None:
    code, out, err = ask("eval", "shell-game", "--model", game, "--count", 12, "--json")
    assert code == 0 and "12 of 12" in err
    document = json.loads(out)
    got = [(s["lanes"], s["visibility"]) for s in document["scores"]]
    assert got == [
        (1, "independent"),
        (2, "joint"),
        (2, "independent"),
        (4, "joint"),
        (4, "independent"),
    ]
    model = tinylane.load(game, backend="numpy")
    score = evaluate(model, GAME, 2, "joint", count=12)
    assert score.right == document["scores"][1]["right"]
    assert list(score.interval) == document["scores"][1]["interval_95"]
    _, out, err = ask("eval", "shell-game", "--model", game, "--count", 3, "--lanes", 2, "--quiet")
    assert len(out.splitlines()) == 4 and err == ""


def test_eval_scores_a_right_lane_as_right(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the truth put in every lane's mouth, all are right; with it in one of four, that one."""
    from tinylane import decoding

    model = tinylane.load(game, backend="numpy")
    original, told = decoding.generate, [0, 1, 2, 3]

    def generate(model: Any, prompt: str, **settings: Any) -> Any:
        result = original(model, prompt, **settings)
        for lane in result.lanes:
            lane.text = "ABC XXX"
            if lane.index in told:
                lane.text = "XXX " + GAME.answer(GAME.parse(prompt))
        return result

    monkeypatch.setattr(decoding, "generate", generate)
    score = evaluate(model, GAME, 4, "joint", count=5)
    assert (score.right, score.per_lane) == (5, (5, 5, 5, 5))
    told[:] = [2]
    score = evaluate(model, GAME, 4, "joint", count=5)
    assert (score.right, score.per_lane) == (0, (0, 0, 5, 0))


def test_the_interval_is_wilson_s() -> None:
    score = Score(4, "joint", 1000, 990, (990,), 7, 7000, 1.0)
    assert score.interval == pytest.approx((0.98168, 0.99457), abs=1e-4)
    assert Score(4, "joint", 10, 10, (10,), 7, 70, 1.0).interval[1] == pytest.approx(1)


def test_eval_of_a_model_without_the_task_is_one_line(ask: Any, plain: str) -> None:
    code, out, err = ask("eval", "shell-game", "--model", plain)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert game_of(tinylane.load(plain, backend="numpy")) is None


def test_train_goes_on_where_it_stopped_and_exports(ask: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    out = tmp_path / "run"
    recipe = [
        "--cups",
        "2",
        "--swaps",
        "2",
        "--lanes",
        "1",
        "2",
        "--shares",
        "0.5",
        "0.5",
        "--width",
        "16",
        "--layers",
        "1",
        "--heads",
        "1",
        "--kv-heads",
        "1",
        "--head-dim",
        "8",
        "--mlp-width",
        "16",
        "--steps",
        "4",
        "--rows",
        "64",
        "--warmup",
        "1",
    ]
    argv = ["train", "shell-game", "--out", out, *recipe, "--every", 1, "--check-every", 2]
    code, text, err = ask(*argv, "--stop-at", 2)
    assert code == 0 and "stopped at step 2 of 4" in text
    assert re.search(r"step 2 of 4, \d+ s; loss .*; exact ", err)
    code, text, err = ask(*argv, "--quiet")
    assert code == 0 and text.startswith("trained: ") and err == ""
    code, text, _ = ask("generate", "--model", out, "--backend", "numpy", "--lanes", 2)
    assert code == 0 and "vote: " in text
    code, _, err = ask(*argv, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1) and "another recipe" in err


def test_training_without_mlx_says_what_installs_it(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "tinylane.train.shell_game", raising=False)
    code, _, err = ask("train", "shell-game", "--out", "x")
    assert (code, err.count("\n")) == (2, 1) and 'pip install "tinylane[mlx]"' in err
