"""`tinylane bench` on a tiny shape, end to end: what it reports, and what it refuses. No time is
asserted: a test machine has its own affairs."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest

from tinylane.checkpoints.load import load
from tinylane.commands import bench_machine, bench_measure
from tinylane.commands.bench import PARTS
from tinylane.commands.bench import SHAPES as LISTED
from tinylane.commands.bench_engine import BenchCase, engine, random_prompt
from tinylane.commands.bench_profile import profile
from tinylane.commands.bench_shapes import SHAPES, shape, write_random
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
    plot = tmp_path / "steps.svg"
    more = ("--lanes", 2, "--mode", "joint", "--profile", "--json", "--quiet", "--plot", plot)
    code, out, err = ask("bench", *TINY, *more)
    document = json.loads(out)
    assert (code, err) == (0, "") and "ratios" not in document
    (result,), (parts,) = document["results"], document["profiles"]
    assert (result["engine"], result["mode"], result["lanes"]) == ("tinylane numpy", "joint", 2)
    assert result["bandwidth_share"] > 0 and result["tokens_per_second"] > 0
    assert tuple(parts["parts"]) == PARTS and all(part > 0 for part in parts["parts"].values())
    assert "<!-- tinylane numpy, joint -->" in plot.read_text()


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


def test_numpy_has_no_allocator_of_its_own_whose_peak_would_count(tiny: Path) -> None:
    loaded = engine("tinylane numpy", tiny, "float32", 1)
    loaded.reset()
    loaded.run(BenchCase(random_prompt(512, 5, 0), 1, 3))
    assert loaded.peak() == 0 and set(loaded.versions) == {"numpy"}


def test_the_profile_of_mlx_knows_the_time_of_building_the_graph(tiny: Path) -> None:
    pytest.importorskip("mlx")
    case = BenchCase(random_prompt(512, 5, 0), 2, 4, "joint")
    found = profile(engine("tinylane mlx", tiny, "float32", 1), case)
    assert found["build"] > 0 and found["python_per_layer"] == found["build"] / 2
    assert all(found["parts"][part] > 0 for part in PARTS)


# What it refuses: one line, exit 2, before anything is loaded.


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (("--shape", "tiniest"), "SmolLM2-135M"),
        (("--shape", "tiny", "--model", "x"), "leave out --model"),
        (("--against", "mlx-lm"), "python tutorials/bench"),
        (("--shape", "tiny", "--lanes", 0), "--lanes 0"),
        (("--shape", "tiny", "-m", 2), "--max-tokens 2"),
        (("--shape", "tiny", "--repeats", 0), "--repeats 0"),
        (("--shape", "tiny", "--threads", 0), "--threads 0"),
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


def test_an_engine_that_fails_is_named_and_its_process_is_gone(tmp_path: Path) -> None:
    from tinylane.core.errors import TinylaneError

    with bench_measure.Worker("tinylane numpy", 1) as worker:
        question = {"do": "load", "name": "tinylane numpy", "dtype": "float32", "threads": 1}
        with pytest.raises(TinylaneError, match=r"bench: tinylane numpy: .*config\.json"):
            worker.ask(folder=str(tmp_path), adapter=None, **question)
        with pytest.raises(TinylaneError, match="bench: tinylane numpy ended: AssertionError"):
            worker.ask(do="run", case={"prompt": [1], "lanes": 1, "count": 3})
    assert worker.process.poll() is not None


# The machine.


def test_threads_are_set_for_every_library_and_the_network_is_left_alone() -> None:
    env = bench_measure.environment("transformers", 3)
    assert all(env[name] == "3" for name in bench_measure.THREADS)
    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == "1"


def test_memory_and_bandwidth_are_measured() -> None:
    assert bench_machine.bandwidth(2, size=1 << 20, tries=1) > 0
    if importlib.util.find_spec("mlx") is not None:
        import mlx.core as mx

        before = mx.get_active_memory()
        assert bench_machine.bandwidth(1, "mlx", size=1 << 20, tries=1) > 0
        assert mx.get_active_memory() == before  # the array it read is gone
    assert memory.memory() is None or memory.memory() > 0  # type: ignore[operator]
