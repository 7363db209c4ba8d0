"""`tinylane bench` on a tiny shape, end to end: what it reports, and what it refuses. No time is
asserted: a test machine has its own affairs."""

from __future__ import annotations

import importlib.util
import io
import json
import signal
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest

from tinylane.checkpoints.load import load
from tinylane.commands import bench_machine, bench_measure, common
from tinylane.commands.bench import SHAPES as LISTED
from tinylane.commands.bench_engine import BenchCase, load_engine, random_prompt
from tinylane.commands.bench_profile import PARTS, profile
from tinylane.commands.bench_shapes import SHAPES, shape, write_random
from tinylane.core.errors import TinylaneError
from tinylane.files import memory
from tinylane.files.memory import forecast

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures
TINY = ("--shape", "tiny", "--prompt-tokens", 6, "-m", 4, "--repeats", 1, "--read-mib", 1)
TINY = (*TINY, "--backend", "numpy", "--threads", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny shape."""
    folder = tmp_path_factory.mktemp("bench")
    write_random(shape("tiny"), folder)
    return folder


# What it reports. `test_bench_peers` reads the document of a run with everything on.


def test_plain_columns_say_what_the_document_says(ask: Any) -> None:
    code, out, err = ask("bench", *TINY, "--lanes", 2)
    assert code == 0
    assert out.splitlines()[0].startswith("tiny, random weights, float32: 2 layers")
    assert "tokens/s" in out and "tinylane numpy  joint" in out
    assert all(line.startswith("tinylane: note: ") for line in err.splitlines()) and err


def test_the_document_the_profile_and_the_plot(ask: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "steps.out"  # SVG, whatever the name, but for .png and .pdf
    more = ("--lanes", 2, "--mode", "joint", "--profile", "--json", "--quiet", "--plot", plot)
    code, out, err = ask("bench", *TINY, *more)
    document = json.loads(out)
    assert (code, err) == (0, "") and "ratios" not in document
    (result,), (parts,) = document["results"], document["profiles"]
    assert (result["engine"], result["mode"], result["lanes"]) == ("tinylane numpy", "joint", 2)
    assert result["bandwidth_share"] > 0 and result["tokens_per_second"] > 0
    assert tuple(parts["parts"]) == PARTS and all(part > 0 for part in parts["parts"].values())
    assert "<!-- tinylane numpy, joint -->" in plot.read_text()


def test_sampled_decoding_is_timed_as_it_is_asked_for(ask: Any, tiny: Path) -> None:
    """Greedy without flags. With them another text is decoded, the same in every round."""
    more = ("--lanes", 2, "--mode", "joint")
    assert "3 new tokens, greedy, 1 rounds" in ask("bench", *TINY, *more, "-m", 3)[1]
    words = (*TINY, *more, "--temp", 0.9, "--top-p", 0.8, "--top-k", 5)
    assert "temperature 0.9, top_p 0.8, top_k 5" in ask("bench", *words)[1]
    document = json.loads(ask("bench", *words, "--json")[1])
    assert document["settings"]["sampling"] == {"temperature": 0.9, "top_p": 0.8, "top_k": 5}
    loaded, prompt = load_engine("tinylane numpy", tiny, "float32"), random_prompt(512, 5, 0)
    how = [((0.0, 1.0, 0), 0), ((0.9, 0.8, 5), 0), ((0.9, 0.8, 5), 0), ((0.9, 0.8, 5), 1)]
    texts = [loaded.run(BenchCase(prompt, 1, 9, "independent", "own", *h)).tokens for h in how]
    assert texts[1] == texts[2] and len(set(map(tuple, texts))) == 3


def test_a_checkpoint_keeps_its_adapter_and_context(ask: Any, game: str) -> None:
    words = ("--model", game, "--prompt-tokens", 9, *TINY[4:], "--lanes", 2, "--json", "--quiet")
    code, out, err = ask("bench", *words)
    assert code == 0 and err == ""
    assert json.loads(out)["model"]["random_weights"] is False


# Engines.


def test_shapes_have_the_sizes_of_the_models_they_are_named_after() -> None:
    millions = {name: forecast(c, "float16").weights // 2 / 1e6 for name, c in SHAPES.items()}
    published = {"SmolLM2-135M": 134.5, "Qwen2.5-0.5B": 494.0, "Qwen3-0.6B": 596.0}
    for name, count in {**published, "Llama-3.2-1B": 1235.8}.items():
        assert abs(millions[name] - count) < 0.1, (name, millions[name])
    assert LISTED.split(", ") == list(SHAPES)


def test_a_random_checkpoint_loads_as_its_shape_and_no_two_rows_are_alike(tiny: Path) -> None:
    model = load(tiny, backend="numpy")
    assert model.config == replace(
        shape("tiny"), dtype="bfloat16", source=model.config.source, eos_ids=()
    )
    table = model.params["model.embed_tokens.weight"]
    assert len(np.unique(table[:, :4], axis=0)) == len(table)
    assert abs(table.std() - 0.02) < 1e-3


def test_numpy_has_no_allocator_of_its_own_whose_peak_would_count(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory", lambda which="VmHWM": 7)
    loaded, facts = bench_measure.timed_load(lambda: load_engine("tinylane numpy", tiny, "float32"))
    assert set(facts["versions"]) == {"numpy"} and facts["bytes"] == 7
    done = bench_measure.timed_run(loaded, BenchCase(random_prompt(512, 5, 0), 1, 3))
    assert done["peak"] == common.peak_memory("numpy") == 7 and "bandwidth" not in done


def test_the_peak_of_mlx_is_that_of_its_allocator_where_it_is_larger(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mx = pytest.importorskip("mlx.core")
    monkeypatch.setattr(memory, "memory", lambda which="VmHWM": 7)
    loaded = load_engine("tinylane mlx", tiny, "float32")
    done = bench_measure.timed_run(loaded, BenchCase(random_prompt(512, 5, 0), 1, 3), lambda: 5.0)
    assert done["peak"] == mx.get_peak_memory() > 7 and done["bandwidth"] == 5.0


@pytest.mark.parametrize("early", [False, True], ids=["as on a CPU", "passes built early"])
def test_the_profile_of_mlx_knows_the_time_of_building_the_graph(
    early: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlx")
    monkeypatch.setattr("tinylane.core.pipeline.pays", lambda model: early)
    case = BenchCase(random_prompt(512, 5, 0), 2, 4, "joint")
    measured = profile(load_engine("tinylane mlx", tiny, "float32", ops="fast"), case)
    assert measured["build"] > 0 and measured["python_per_layer"] == measured["build"] / 2
    assert all(measured["parts"][part] > 0 for part in PARTS)


# What it refuses: one line, exit 2, before anything is loaded.


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (("--shape", "tiniest"), "SmolLM2-135M"),
        (("--shape", "tiny", "--model", "x"), "leave out --model"),
        (("--against", "mlx-lm"), "python tutorials/bench"),
        (("--shape", "tiny", "--lanes", 0), "--lanes is 0; expected 1 "),
        (("--shape", "tiny", "-m", 2), "--max-tokens is 2; expected 3 or more"),
        (("--shape", "tiny", "--repeats", 0), "--repeats is 0; expected 1 "),
        (("--shape", "tiny", "--temp", -1), "temperature -1.0: expected a number in [0, 1e6]"),
        (("--shape", "tiny", "--temp", 1, "--top-p", 2), "top_p 2.0: expected"),
        (("--shape", "tiny", "--threads", 0), "--threads is 0; expected 1 "),
        (("--shape", "tiny", "--prompt-tokens", 4095), "context is 4096"),
        (("--model", "no/such folder"), "no/such folder"),
        (("--mode", "solo"), "invalid choice"),
    ),
)
def test_bad_input_is_one_line(ask: Any, words: Any, said: str) -> None:
    code, out, err = ask("bench", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("tinylane: error: ") and said in err


def test_what_is_not_installed_is_named_with_how_to_get_it(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = ask("bench", *TINY, "--plot", "x.svg")
    assert code == 2 and "pip install 'tinylane[plot]'" in err


def test_too_little_memory_is_said_before_weights_are_written(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinylane.files.memory.available_memory", lambda: 1000)
    code, _, err = ask("bench", *TINY)
    assert code == 2 and "fewer of them at a time" in err


def work(folder: Path, **more: Any) -> bench_measure.BenchWork:
    """What an engine is asked to do: a case of two joint lanes, once."""
    cases = [BenchCase(random_prompt(512, 5, 0), 2, 4, "joint")]
    settings = {"dtype": "float32", "adapter": None, "ops": "auto", "cases": cases, "repeats": 1}
    settings |= {"profile": False, "threads": 1, "read": 1 << 20, "quiet": True, **more}
    return bench_measure.BenchWork(folder=str(folder), **settings)


def test_an_engine_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match=r"bench: tinylane numpy: .*config\.json"):
        bench_measure.measure(["tinylane numpy"], work(tmp_path))


def test_an_engine_that_was_killed_is_named_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "killed"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(TinylaneError, match="bench: tinylane numpy ended: exit code -9"):
        bench_measure.measure(["tinylane numpy"], work(tmp_path))


def test_an_engine_s_process_answers_once_and_an_error_is_an_answer(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(folder: Path) -> dict[str, Any]:
        question = {"name": "tinylane numpy", **asdict(work(folder, profile=True, quiet=False))}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(question)))
        with warnings.catch_warnings():
            assert bench_measure.main() == 0
        return json.loads(capsys.readouterr().out)

    before = signal.getsignal(signal.SIGINT)
    try:
        wrong, times = answer(tmp_path / "none"), answer(tiny)
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(wrong) == {"error"} and "none" in wrong["error"]
    case, engine = work(tiny).cases[0], load_engine("tinylane numpy", tiny, "float32")
    (((run,),), (parts,)) = times["rounds"], times["profiles"]
    assert times["load"]["dtype"] == "float32" and times["bandwidth"] > 0
    assert run["tokens"] == engine.run(case).tokens and len(run["steps"]) == 3
    assert run["step_bytes"] == engine.step_bytes(case) and run["bandwidth"] > 0
    assert parts["build"] is None and parts["step"] > 0


# The machine.


def test_threads_are_set_for_every_library_and_the_network_is_left_alone() -> None:
    env = bench_machine.environment("transformers", 3)
    assert all(env[name] == "3" for name in bench_machine.THREADS)
    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == "1"


def test_memory_and_bandwidth_are_measured() -> None:
    assert bench_machine.bandwidth(2, size=1 << 20, tries=1) > 0
    if importlib.util.find_spec("mlx") is not None:
        import mlx.core as mx

        before = mx.get_active_memory()
        assert bench_machine.bandwidth(1, "mlx", size=1 << 20, tries=1) > 0
        assert mx.get_active_memory() == before  # the array it read is gone
    assert memory.memory() is None or memory.memory() > 0  # type: ignore[operator]
