"""`generate --prompt-cache-file`, and what is said of a --max-tokens beyond the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_cli import generate, has_mlx, write_checkpoint

import tinylane
from tinylane.core.lanes import SHARED

ask, plain = helpers_cli.ask, helpers_cli.plain  # fixtures
TEXT = "cups ABC"
GREEDY = ("--raw", "--temp", 0, "--max-tokens", 4)
backends = pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("mlx", marks=pytest.mark.skipif(not has_mlx(), reason="MLX"))]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache.safetensors"


@backends
def test_a_second_turn_computes_only_what_is_new(
    ask: Any, plain: str, file: Path, backend: str
) -> None:
    """The answer is part of the second prompt; the result is that of a run without a file."""
    how = (*GREEDY, "--backend", backend)
    first = generate(ask, plain, "--prompt", TEXT, "--prompt-cache-file", file, *how)
    assert first["prompt_tokens_reused"] == 0
    model = tinylane.load(plain, backend=backend)
    cache = tinylane.LaneCache.load(file, model)
    answer = first["lanes"][0]["tokens"]
    assert cache.tokens.tolist()[first["prompt_tokens"] :] == answer[:3]
    longer = f"{TEXT} {first['lanes'][0]['text']} cups"
    second = generate(ask, plain, "--prompt", longer, "--prompt-cache-file", file, *how)
    assert second["prompt_tokens_reused"] == first["prompt_tokens"] + 3
    without = generate(ask, plain, "--prompt", longer, *how)
    assert second["lanes"][0]["tokens"] == without["lanes"][0]["tokens"]
    code, _, err = ask(
        "generate", "--model", plain, "--prompt", longer, "--prompt-cache-file", file, *how
    )
    held = second["prompt_tokens"] - 1  # the last token is always fed
    assert code == 0 and f"tokens, {held} of them from the cache file, in" in err
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_of_several_lanes_the_prompt_is_kept_or_the_best_if_asked_for(
    ask: Any, plain: str, file: Path
) -> None:
    model = tinylane.load(plain, backend="numpy")
    how = ("--raw", "--temp", 1, "--seed", 1, "--max-tokens", 4, "--backend", "numpy", "--lanes", 3)
    run = generate(ask, plain, "--prompt", TEXT, "--prompt-cache-file", file, *how)
    cache = tinylane.LaneCache.load(file, model)
    assert len(cache) == run["prompt_tokens"] and set(cache.lanes.tolist()) == {SHARED}
    run = generate(ask, plain, "--prompt", TEXT, "--prompt-cache-file", file, *how, "--best-of")
    assert run["prompt_tokens_reused"] == run["prompt_tokens"] - 1
    lanes = tinylane.LaneCache.load(file, model).lanes
    assert set(lanes.tolist()) == {SHARED, run["best"]}
    # and a run of more or fewer lanes takes it
    for n in (1, 5):
        more = generate(ask, plain, "--prompt", TEXT, "--prompt-cache-file", file, *GREEDY,
                        "--backend", "numpy", "--lanes", n)  # fmt: skip
        assert more["prompt_tokens_reused"] == run["prompt_tokens"] - 1


def test_a_file_of_something_else_is_refused_by_name_and_stays(
    ask: Any, plain: str, file: Path, tmp_path: Path
) -> None:
    joint = ("--lanes", 2, "--visibility", "joint", "--omega", "ntk", "--slot", 7)
    how = ("--raw", "--temp", 0, "--max-tokens", 2, "--backend", "numpy", "--prompt", TEXT)
    generate(ask, plain, *how, *joint, "--prompt-cache-file", file)
    before = file.read_bytes()
    other = str(write_checkpoint(tmp_path / "other", adapter=False, seed=1))
    for model, more, words in (
        (plain, (*joint[:-1], 8), "another Omega or prompt_lane, or rotation"),
        (plain, (*joint, "--prompt-lane", "0"), "another Omega or prompt_lane, or rotation"),
        (plain, ("--lanes", 2, "--mode", "hogwild"), "another Omega or prompt_lane, or rotation"),
        (plain, (*joint, "--lag", 2), "another visibility or lag"),
        (plain, (*joint, "--dtype", "float64"), "dtype is 'float32'; the model's is 'float64'"),
        (other, joint, "made by another model: its identity is"),
    ):
        code, out, err = ask(
            "generate", "--model", model, *how, *more, "--prompt-cache-file", file, "--quiet"
        )
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(file) in err and words in err
        assert file.read_bytes() == before
    file.write_bytes(before[:-1])
    code, out, err = ask("generate", "--model", plain, *how, *joint, "--prompt-cache-file", file)
    assert (code, out) == (2, "") and str(file) in err and file.read_bytes() == before[:-1]


def test_a_file_that_cannot_be_written_is_said_before_anything_is_computed(
    ask: Any, plain: str, tmp_path: Path
) -> None:
    for target in (tmp_path, tmp_path / "absent" / "f"):
        code, out, err = ask(
            "generate", "--model", plain, "--prompt", TEXT, "--prompt-cache-file", target
        )
        assert (code, out) == (2, "") and "--prompt-cache-file" in err
    code, _, err = ask("generate", "--model", plain, "--prompt", TEXT, "--beams", 2,
                       "--prompt-cache-file", tmp_path / "f")  # fmt: skip
    assert code == 2 and "--beams does not use --prompt-cache-file" in err


def test_max_tokens_beyond_the_context_is_cut_with_a_note(ask: Any, plain: str) -> None:
    how = ("generate", "--model", plain, "--raw", "--prompt", TEXT, "--seed", 1)
    code, out, err = ask(*how, "--max-tokens", 100_000_000, "--lanes", 8)
    run = generate(ask, plain, "--raw", "--prompt", TEXT, "--max-tokens", 99)
    room = 64 - run["prompt_tokens"]
    assert code == 0 and out
    assert f"note: --max-tokens is 100,000,000; cut to {room}: the context ends there" in err
    assert max(len(lane["tokens"]) for lane in run["lanes"]) <= room
    for fits in ((), ("--max-tokens", room)):
        assert "cut to" not in ask(*how, *fits)[2]
