"""`--ops`: the plain and the fast operations write the same text, and commands say which ran."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_cli import TEXT, generate

import tinylane
from tinylane.core import decoder, rope

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures
BACKENDS = ["numpy"] + ["mlx"] * (importlib.util.find_spec("mlx") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_and_fast_operations_write_the_same_text(
    ask: Any, game: str, plain: str, backend: str
) -> None:
    for model, more in ((game, ("--seed", 3)), (plain, (*TEXT, "--lanes", 3, "--seed", 3))):
        runs = [
            generate(ask, model, "--backend", backend, "--ops", ops, *more)
            for ops in ("plain", "fast", "auto")
        ]
        texts = [[lane["tokens"] for lane in run["lanes"]] for run in runs]
        assert texts[0] == texts[1] == texts[2] and any(texts[0])


READ = [
    *(decoder.linear, decoder.linears, decoder.embed, decoder.rms_norm, decoder.gated),
    *(decoder.scores, decoder.attention_weights, decoder.attention, rope.rotate),
    *(decoder.self_attention, decoder.feed_forward, decoder.block, decoder.forward),
    decoder.draw,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", READ, ids=lambda function: function.__name__)
def test_the_code_that_is_read_is_the_code_that_runs(
    ask: Any, monkeypatch: pytest.MonkeyPatch, function: Any, backend: str
) -> None:
    """With one of the decoder's functions broken, the command that everybody runs first fails."""

    def broken(*args: Any, **named: Any) -> Any:
        raise ArithmeticError("broken on purpose")

    ops = "auto"
    if backend == "mlx":
        import mlx.core as mx

        if mx.default_device().type == mx.DeviceType.gpu:
            ops = "plain"  # there auto chooses the fast ones
    monkeypatch.setattr(function, "__code__", broken.__code__)
    with pytest.raises(ArithmeticError, match="broken on purpose"):
        ask("generate", "--seed", 7, "--backend", backend, "--ops", ops)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inspect_says_which_operations_run(ask: Any, game: str, backend: str) -> None:
    for ops in ("plain", "fast", "auto"):
        code, out, _ = ask("inspect", game, "--backend", backend, "--ops", ops, "--json")
        said = json.loads(out)["ops"]["value"]
        assert code == 0 and said == tinylane.load(game, backend, ops=ops).ops_name
        assert ops in (said, "auto")
    assert "\nops            fast" in ask("inspect", game, "--ops", "fast")[1]


def test_every_command_that_loads_a_model_takes_it(ask: Any, game: str, tmp_path: Path) -> None:
    """A run written by the plain operations is the fast ones' run too, up to rounding."""
    file, fast = tmp_path / "run.json", ("--backend", "numpy", "--ops", "fast")
    plain_ops = ("--backend", "numpy", "--ops", "plain")
    assert ask("generate", "--model", game, "--save", file, *plain_ops)[0] == 0
    assert ask("replay", file, *fast)[1].rstrip().endswith("agrees")
    assert ask("view", file, "--quiet", *fast)[0] == 0
    assert ask("verify", game, "--samples", 1, "--quiet", *fast)[0] == 0
    few = ("shell-game", "--model", game, "--count", 2, "--lanes", 2, "--quiet", "--json")
    scores = [
        json.loads(ask("eval", *few, "--mode", "joint", *ops)[1])["scores"][0]["majority"]
        for ops in (plain_ops, fast)
    ]
    assert scores[0] == scores[1]
    for name, ops in (("plain", plain_ops), ("fast", fast)):
        assert ask("collect", *few, "--out", tmp_path / name, *ops)[0] == 0
    written = [
        [json.loads(line)["lanes"] for line in (tmp_path / name / "results.jsonl").open()]
        for name in ("plain", "fast")
    ]
    assert written[0] == written[1]


def test_bench_says_which_operations_it_timed(ask: Any) -> None:
    words = ("--shape", "tiny", "--prompt-tokens", 6, "-m", 4, "--repeats", 1, "--read-mib", 1)
    words = (*words, "--backend", "numpy", "--threads", 1, "--quiet", "--ops", "fast")
    code, out, _ = ask("bench", *words)
    assert code == 0 and "\noperations: fast (tinylane numpy); " in out


def test_an_unknown_name_is_one_line(ask: Any, game: str) -> None:
    code, out, err = ask("generate", "--model", game, "--ops", "quick")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--ops" in err
