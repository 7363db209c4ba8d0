"""`python tutorials/bench`: tinylane beside other programs, tiny; no time is asserted."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane.checkpoints.load import load
from tinylane.commands import bench_machine
from tinylane.commands.bench_engine import BenchCase, random_prompt
from tinylane.commands.bench_measure import timed_run
from tinylane.commands.bench_profile import PARTS
from tinylane.commands.bench_shapes import shape, write_random
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.files.memory import forecast
from tutorials.bench import __main__ as command
from tutorials.bench import engines, llamacpp, ops, training
from tutorials.bench.engines import build
from tutorials.bench.process import EngineProcess

TINY = ("--shape", "tiny", "--prompt-tokens", 6, "-m", 4, "--repeats", 1, "--read-mib", 1)
TINY = (*TINY, "--backend", "numpy", "--threads", 1)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = command.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny shape."""
    folder = tmp_path_factory.mktemp("bench")
    write_random(shape("tiny"), folder)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """One run with everything on, in JSON, and its plot."""
    pytest.importorskip("matplotlib")
    plot, out = tmp_path_factory.mktemp("plot") / "steps.svg", io.StringIO()
    words = [*TINY, "--prompt-tokens", 6, 12, "--lanes", 1, 2, "--repeats", 2, "--profile"]
    words += ["--against", "llama3.np", "--json", "--quiet", "--plot", plot]
    with contextlib.redirect_stdout(out):
        assert command.main(list(map(str, words))) == 0
    return json.loads(out.getvalue()), plot.read_text()


# What it reports.


def test_every_engine_lane_count_length_and_mode_is_reported(report: Any) -> None:
    found, _ = report
    cases = {(r["engine"], r["mode"], r["lanes"], r["prompt_tokens"]) for r in found["results"]}
    assert cases == {
        (engine, mode, lanes, prompt)
        for engine in ("tinylane numpy", "llama3.np")
        for mode in ("independent", "joint")
        for lanes in (1, 2)
        for prompt in (6, 12)
        if mode == "independent" or (lanes == 2 and engine == "tinylane numpy")
    }


def test_ratios_are_pairs_with_the_same_tokens(report: Any) -> None:
    ratios = report[0]["ratios"]
    assert [(r["lanes"], r["prompt_tokens"]) for r in ratios] == [(1, 6), (2, 6), (1, 12), (2, 12)]
    for r in ratios:
        assert r["against"] == "llama3.np" and r["same_tokens"] == r["max_tokens"] == 4
        for key in ("tokens_per_second", "first_token", "total"):
            assert 0 < r[key]["low"] <= r[key]["median"] <= r[key]["high"]


def test_the_plot_is_an_svg_with_a_line_for_every_contestant(report: Any) -> None:
    _, plot = report
    assert plot.startswith("<?xml") and "</svg>" in plot
    for label in ("tinylane numpy", "tinylane numpy, joint", "llama3.np", "rows in the cache"):
        assert f"<!-- {label} -->" in plot


def test_the_report_names_machine_versions_and_settings(report: Any) -> None:
    found, _ = report
    assert found["model"] == {
        "name": "tiny",
        "random_weights": True,
        "layers": 2,
        "weight_bytes": forecast(shape("tiny")).weights,
    }
    assert found["machine"]["threads"] == 1 and found["machine"]["cores"] >= 1
    assert found["versions"]["numpy"] == np.__version__ and found["dtype"] == "float32"
    assert found["settings"]["lanes"] == [1, 2] and found["settings"]["repeats"] == 2
    assert found["bandwidth_bytes_per_second"]["tinylane numpy"] > 0
    assert set(found["load_seconds"]) == {"tinylane numpy", "llama3.np"}


def test_a_result_holds_times_memory_and_bytes(report: Any) -> None:
    found, _ = report
    for r in found["results"]:
        step = r["step_seconds"]
        assert 0 < step["p10"] <= step["median"] <= step["p90"]
        assert r["first_token_seconds"] > 0 and r["tokens_per_second"] > 0
        assert r["total_seconds"] > 0 and r["peak_memory_bytes"] > 0
        assert r["rounds"] == 2 and len(r["steps_by_index"]) == r["max_tokens"] - 1
        ours = r["engine"] == "tinylane numpy"
        assert (r["bytes_per_step"] is not None) == (r["bandwidth_share"] is not None) == ours


def test_bytes_of_a_step_are_the_weights_and_half_of_what_is_written(report: Any) -> None:
    r = next(x for x in report[0]["results"] if x["lanes"] == 2 and x["prompt_tokens"] == 12)
    row = forecast(shape("tiny")).kv_per_token
    # tied: the table is read as the head, once
    assert r["bytes_per_step"] == forecast(shape("tiny")).weights + row * (12 + 2 * 4 // 2)


def test_joint_cost_slope_and_profile_are_there(report: Any) -> None:
    found, _ = report
    assert [(r["lanes"], r["prompt_tokens"]) for r in found["joint_cost"]] == [(2, 6), (2, 12)]
    slopes = {(r["engine"], r["mode"], r["lanes"]) for r in found["context_slope"]}
    assert ("tinylane numpy", "joint", 2) in slopes and len(slopes) == 5
    assert len(found["profiles"]) == 6
    for r in found["profiles"]:
        assert tuple(r["parts"]) == PARTS and r["step"] > 0
        assert all(r["parts"][part] > 0 for part in PARTS)


# Engines.


@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3"))
def test_engines_write_the_same_tokens(family: str, tmp_path: Path) -> None:
    """Lane for lane and family for family; otherwise they would not do the same work."""
    flags = {"qkv_bias": family == "qwen2", "qk_norm": family == "qwen3", "family": family}
    config: ModelConfig = replace(shape("tiny"), tied=family != "qwen3", **flags)
    write_random(config, tmp_path)
    prompt = random_prompt(config.vocab, 7, 1)
    one = build("tinylane numpy", tmp_path, "float32", 1).run(BenchCase(prompt, 1, 9))
    assert len(one.tokens) == 9 and len(one.steps) == 8
    for lanes in (1, 3):
        peer = build("llama3.np", tmp_path, "float32", 1).run(BenchCase(prompt, lanes, 9))
        assert peer.tokens == one.tokens


@pytest.mark.parametrize("names", (("tinylane mlx",), ("mlx-lm", "transformers")))
def test_other_libraries_write_the_same_tokens(names: tuple[str, ...], tiny: Path) -> None:
    """mlx-lm imports transformers, which takes seconds: one test for both."""
    for name in names:
        pytest.importorskip({"tinylane mlx": "mlx", "mlx-lm": "mlx_lm"}.get(name, "torch"))
    prompt = random_prompt(512, 7, 1)
    one = build("tinylane numpy", tiny, "float32", 1).run(BenchCase(prompt, 1, 5))
    for name in names:
        engine = build(name, tiny, "float32", 1)
        for lanes in (1, 2):
            run = engine.run(BenchCase(prompt, lanes, 5))
            assert run.tokens == one.tokens and len(run.steps) == 4 and run.first > 0
        assert timed_run(engine, BenchCase(prompt, 1, 3))["peak"] != 0 and engine.versions


@pytest.mark.parametrize("family", ("llama", "qwen3"))
def test_the_file_for_llama_cpp_is_the_model_to_transformers(family: str, tmp_path: Path) -> None:
    """The GGUF file that the peer llama.cpp loads, read by transformers: the same logits. With the
    heads' channels in the order of the checkpoint they would be others."""
    for module in ("gguf", "accelerate", "torch", "transformers"):
        pytest.importorskip(module)
    import torch
    from transformers import AutoModelForCausalLM

    wide = {"qk_norm": True, "head_dim": 128} if family == "qwen3" else {}  # 128: its default
    config: ModelConfig = replace(shape("tiny"), family=family, **wide)
    write_random(config, tmp_path)
    ours = load(tmp_path, backend="numpy", dtype="float32", adapter=False)
    llamacpp.write_gguf(tmp_path / "model.gguf", config, ours.params, bits4=False)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = np.array(random_prompt(config.vocab, 12, 1))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)[None]).logits[0].numpy()
    found = ours(ids, np.arange(12), np.zeros(12, np.int64))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_llama_cpp_wrote_the_same_tokens(tiny: Path) -> None:
    """From the GGUF file of the peer, on one lane and on two; `tests/record/record_llama_cpp.py`.
    The bench itself counts the same tokens wherever llama.cpp is installed."""
    path = Path(__file__).parents[1] / "data" / "llama_cpp.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    assert recorded["prompt"] == random_prompt(512, 7, 1)
    engine = build("tinylane numpy", tiny, "float32", 1)
    for lanes, tokens in recorded["tokens"].items():
        assert engine.run(BenchCase(recorded["prompt"], int(lanes), 5)).tokens == tokens


def test_every_engine_gets_its_own_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is preloaded for MLX slows torch down five times; so its kernels are for MLX alone."""
    monkeypatch.setenv("LD_PRELOAD", "/lib/libopenblas.so.0 /lib/libjemalloc.so")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    kept = {name: bench_machine.environment(name, 1) for name in ("tinylane mlx", "transformers")}
    if sys.platform == "linux":
        assert kept["tinylane mlx"]["LD_PRELOAD"] == "/lib/libopenblas.so.0:/lib/libjemalloc.so"
        assert kept["tinylane mlx"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert kept["transformers"]["LD_PRELOAD"] == "/lib/libjemalloc.so"
    assert "OPENBLAS_CORETYPE" not in kept["transformers"]


def test_a_training_step_is_timed(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlx.core", exc_type=ImportError)
    assert training.main([str(tiny), "tinylane mlx", "2", "4"], steps=1) == 0
    assert re.match(r"tinylane mlx, batch of 2, 4 lanes, 260 rows: \d", capsys.readouterr().out)


# What it refuses: one line, exit 2, before anything is loaded.


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (("--against", "vllm"), "expected transformers, mlx-lm, llama3.np"),
        (("--against", "llama3.np", "--adapter-path", "x"), "leave one"),
        (("--shape", "tiny", "--lanes", 0), "--lanes is 0; expected 1 "),
    ),
)
def test_bad_input_is_one_line(ask: Any, words: Any, said: str) -> None:
    code, out, err = ask(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("tinylane: error: ") and said in err


def test_a_peer_that_is_not_installed_is_named_with_how_to_get_it(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    code, _, err = ask(*TINY, "--against", "mlx-lm")
    assert code == 2 and "mlx_lm is not installed: pip install mlx-lm" in err


def test_an_engine_that_fails_is_named_and_its_process_is_gone(tmp_path: Path) -> None:
    with EngineProcess("tinylane numpy", 1) as worker:
        question = {"do": "load", "name": "tinylane numpy", "dtype": "float32", "threads": 1}
        with pytest.raises(TinylaneError, match=r"bench: tinylane numpy: .*config\.json"):
            worker.ask(folder=str(tmp_path), adapter=None, **question)
        with pytest.raises(TinylaneError, match="bench: tinylane numpy ended: AssertionError"):
            worker.ask(do="run", case={"prompt": [1], "lanes": 1, "count": 3})
    assert worker.process.poll() is not None


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_plain_and_fast_operations_are_timed_in_pairs(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    assert ops.main([backend], sizes=((1, 64),), cases=((2, 5, 2),), rounds=2) == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title == f"{backend}, 1 layers of 64: 0.05 M weights"
    told = r"  2 lanes behind 5 tokens: step .*, prefill [\d.]+; fast [\d.]+ ms"
    assert re.fullmatch(told, row)


def test_both_kinds_of_operations_write_the_same() -> None:
    both = ops.models("numpy", 1, 64)
    rows = np.arange(4), np.arange(4), np.full(4, -1)
    plain, fast = (np.asarray(both[name](*rows)) for name in ("plain", "fast"))
    assert both["plain"].ops_name == "plain" and both["fast"].ops_name == "fast"
    assert np.allclose(plain, fast, atol=1e-5)
