"""What a setting, a file or a disk cannot be: one line that names it, what was expected, exit 2."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_checkpoint import small, weights, write_checkpoint
from helpers_cli import TEXT, generate

import tinylane
from tinylane.checkpoints import weights as weightfiles
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.export import write_checkpoint as export
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.commands import common, eval
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.evaluate import runner, tables
from tinylane.evaluate.measures import Estimate
from tinylane.evaluate.tasks.jsonl import file_digest
from tinylane.files import io as files
from tinylane.files import jsonl, memory, run_dir, writing
from tinylane.files.cache_file import load_cache, save_cache
from tinylane.files.safetensors import MAX_HEADER, TensorFile, write_tensors

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures


# Flags.

FLAGS = {
    "generate --pace 99": "--pace is 99.0; expected 0 to 60",
    "eval shell-game --stop ": "--stop is empty",
    "replay none.json --tolerance -1": "--tolerance is -1.0; expected 0 or more",
    "replay none.json --tolerance nan": "--tolerance is nan; expected 0 or more",
    "train shell-game --out x --stop-at 0": "--stop-at is 0; expected 1 or more",
    "train shell-game --out x --every 0": "--every is 0; expected 1 or more",
    "train sft --data x --out x --omega none --omega-scale 2": "--omega-scale needs --omega ntk",
    "train sft --data x --out x --omega none --slot 2": "--slot needs --omega group_think",
    "train sft --data x --out x --warmup -1": "--warmup is -1; expected 0 or more",
    "train sft --data x --out x --lora-rank 2 --lora-scale nan": "--lora-scale is nan; expected",
    "train sft --data x --out x --lora-rank 2 --lora-scale 0": "--lora-scale is 0.0; expected",
    "train sft --data x --out x --lora-rank 9999": "--lora-rank is 9999; expected 0 to 4096",
    "generate --model owner/a--b": "owner/a--b: neither a folder here nor a valid hub id",
}


@pytest.mark.parametrize("words", list(FLAGS))
def test_a_flag_that_cannot_be_is_one_line_and_exit_2(words: str, ask: Any) -> None:
    if words.startswith("train"):
        pytest.importorskip("mlx.core", exc_type=ImportError)
    code, out, err = ask(*words.split(" "))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("tinylane: error: ") and FLAGS[words] in err


def test_a_prompt_on_stdin_that_is_no_text_is_refused(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = io.TextIOWrapper(io.BytesIO(b"cups \xff"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", broken)
    code, out, err = ask("generate", "--model", game, "--prompt", "-")
    assert (code, out) == (2, "") and "--prompt -: not UTF-8 text (byte 5)" in err


def test_a_bias_as_a_json_object_is_the_bias_pair_by_pair(ask: Any, plain: str) -> None:
    """Both spellings, as servers and mlx-lm have them."""
    words = ("--temp", 0, *TEXT)
    one = generate(ask, plain, *words, "--logit-bias", '{"5": 100, "6": -100}')
    two = generate(ask, plain, *words, "--logit-bias", "5:100", "6:-100")
    assert one["lanes"] == two["lanes"] != generate(ask, plain, *words)["lanes"]
    code, _, err = ask("generate", "--model", plain, *words, "--logit-bias", '{"5": [1]}')
    assert code == 2 and "expected ID:BIAS, like 42:-5" in err


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: False)  # root may write anywhere
    with pytest.raises(TinylaneError, match=f"--out .*new: {tmp_path} cannot be written to"):
        eval.check_folder(tmp_path / "new")


def test_ctrl_c_in_an_eval_that_keeps_nothing_is_an_ordinary_interruption(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no folder nothing can be gone on with, and nothing may be promised."""

    def stop(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "solve", stop)
    code, out, err = ask("eval", "shell-game", "--model", game, "--count", 2, "--quiet")
    assert (code, out) == (130, "") and "goes on" not in err and "interrupted" in err


# Files.


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc: no file that fails")
def test_a_disk_that_cannot_read_is_said_with_the_file_s_name() -> None:
    """/proc/self/mem opens and is a regular file, and its first bytes give EIO, as a bad sector."""
    broken = "/proc/self/mem"
    for read in (
        lambda: files.read_bytes(broken, 100),
        lambda: list(jsonl.read(broken, limit=100, rows=100)),
        lambda: file_digest(broken),
    ):
        with pytest.raises(TinylaneError, match=r"^/proc/self/mem.*: Input/output error$"):
            read()


def test_a_tensor_that_the_disk_does_not_give_is_said_with_the_file_s_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": np.ones(3, np.float32)})

    class Broken(io.RawIOBase):
        def seek(self, *place: int) -> int:
            return 0

        def readinto(self, into: Any) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with TensorFile(path) as file:
        file.stream.close()
        file.stream = Broken()  # type: ignore[assignment]
        with pytest.raises(TinylaneError, match=r"a\.safetensors: Input/output error"):
            file["a"].read()


def test_a_file_system_without_locks_is_said_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(TinylaneError, match=r"\.lock: cannot be locked \(No locks available\)"):
        run_dir.hold(tmp_path / ".lock")
    assert len(os.listdir("/dev/fd")) == before
    with writing.replacing(tmp_path / "x") as file:  # without its lock, and still whole
        file.write(b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_a_temporary_file_that_another_process_swept_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock it looks like one that a killed process left."""
    import fcntl

    lock, swept = fcntl.flock, []

    def sweep_first(handle: int, how: int) -> None:
        for path in tmp_path.glob(".x.*") if not swept else ():
            path.unlink()
            swept.append(path)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with writing.replacing(tmp_path / "x") as file:
        file.write(b"whole")
    assert len(swept) == 1 and (tmp_path / "x").read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_interrupt_between_making_and_locking_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the first instant at which the temporary file is there."""
    import fcntl

    def interrupted(handle: int, how: int) -> None:
        assert list(tmp_path.glob(".x.????????.tmp"))
        raise KeyboardInterrupt

    (tmp_path / "x").write_bytes(b"before")
    monkeypatch.setattr(fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), writing.replacing(tmp_path / "x") as file:
        file.write(b"never")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_a_folder_in_a_file_s_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(TinylaneError, match=r"x: cannot be written \(Is a directory\)"):
        writing.write_text(tmp_path / "x", "1")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_a_reader_would_refuse_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header beyond the limit; and more files than are read."""
    one = {"a" * (MAX_HEADER // 2): np.ones(1, np.float32), "b" * (MAX_HEADER // 2): np.ones(1)}
    with pytest.raises(TinylaneError, match=r"header of 8,\d{3},\d{3} bytes, limit 8,388,608"):
        write_tensors(tmp_path / "long.safetensors", one)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(weightfiles, "MAX_SHARDS", 1)
    write_checkpoint(tmp_path / "many", shards=2)
    index = tmp_path / "many" / "model.safetensors.index.json"
    with pytest.raises(TinylaneError, match="2 weight files, limit 1"):
        tinylane.load(tmp_path / "many", "numpy")
    index.unlink()
    with pytest.raises(TinylaneError, match="2 weight files, limit 1"):
        tinylane.load(tmp_path / "many", "numpy")


def test_an_output_head_that_only_resembles_the_embedding_is_used_as_it_is(tmp_path: Path) -> None:
    """`tie_word_embeddings` and a head in the file: another dtype is another head, even of the same
    values; a tied copy is not kept twice."""
    raw = small(tie_word_embeddings=True)
    tensors: dict[str, Any] = weights(raw)
    embedding = tensors["model.embed_tokens.weight"]
    for kind, head, tied in (
        ("copy", embedding.copy(), True),
        ("wider", embedding.astype(np.float64), False),
        ("other", embedding[::-1].copy(), False),
    ):
        given = tensors | {"lm_head.weight": head}
        folder = write_checkpoint(tmp_path / kind, raw, given)
        with nullcontext() if tied else pytest.warns(UserWarning, match="both are used"):
            model = tinylane.load(folder, "numpy", "float32")
        assert model.config.tied is tied, kind
        found = np.asarray(model.params["lm_head.weight"])
        expected = embedding[::-1] if kind == "other" else embedding
        assert np.array_equal(found, expected.T)


def test_a_cache_of_a_rotation_that_is_not_ours_is_refused(tmp_path: Path, plain: str) -> None:
    model = tinylane.load(plain, "numpy")
    cache = model.new_cache(LaneRoPE.none(model.theta), LaneMask.joint(2))
    model(np.array([3]), np.array([0]), np.array([-1]), cache=cache)
    path = tmp_path / "c.safetensors"
    save_cache(cache, path)
    with TensorFile(path) as file:
        tensors = {name: x.read() for name, x in file.tensors.items()}
        meta = dict(file.metadata)
    write_tensors(path, tensors, meta | {"rotation": "spiral"})
    with pytest.raises(TinylaneError, match="its rotation is 'spiral'; expected hogwild"):
        load_cache(path, model)


def test_an_export_in_a_dtype_or_shape_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    raw = small()
    with pytest.raises(TinylaneError, match="dtype 'int8'; expected "):
        export(tmp_path / "out", raw, lambda name: np.zeros(1), "int8", tmp_path)
    with pytest.raises(TinylaneError, match=r"embed_tokens.weight is \(1,\); expected \(96, 64\)"):
        export(tmp_path / "out", raw, lambda name: np.zeros(1), "float32", tmp_path)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_negative_end_token_is_not_a_token(tmp_path: Path, game: str) -> None:
    with pytest.raises(TinylaneError, match="EOS id -1 is negative"):
        Tokenizer.from_folder(Path(game), config_eos=(-1,), vocab=100)


@pytest.mark.parametrize(
    ("changes", "said"),
    (
        ({"layer_types": ["full_attention"] * 2, "sliding_window": 8}, None),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window 8 is active"),
        ({"max_window_layers": -1}, "max_window_layers"),
        ({"max_window_layers": 1.5}, "max_window_layers"),
        ({"max_window_layers": 2}, None),
        ({"max_window_layers": 1}, "sliding_window 8 is active"),
    ),
)
def test_a_window_that_some_layer_uses_is_refused(changes: Any, said: str | None) -> None:
    """Ignored, it would change what a long text reads."""
    raw = small(
        "qwen2", use_sliding_window=True, hidden_size=128, **{"sliding_window": 8} | changes
    )
    if said is None:
        assert parse_config(raw).layers == 2
    else:
        with pytest.raises(TinylaneError, match=said):
            parse_config(raw)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_a_damaged_layer_of_a_width_without_kernels_is_named_once(
    backend: str, tmp_path: Path
) -> None:
    """Such a layer is unpacked at loading, a block of rows at a time."""
    if backend == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
    raw, path = small(quantization={"bits": 4, "group_size": 16}), "model.layers.0.mlp.up_proj"
    parts = {"weight": (np.uint32, 8), "scales": (np.float32, 4), "biases": (np.float32, 4)}
    packed: dict[str, Any] = {f"{path}.{k}": np.ones((96, n), t) for k, (t, n) in parts.items()}
    packed[f"{path}.scales"][[3, 50], 1] = np.nan
    folder = write_checkpoint(tmp_path, raw, weights(raw) | packed)
    with pytest.warns(UserWarning, match="NaN or infinite weights in") as caught:
        tinylane.load(folder, backend)
    assert [str(one.message).count(path) for one in caught] == [1]


# Words and numbers.


def test_a_measure_without_a_value_is_a_dash() -> None:
    none, exact = Estimate(math.nan, math.nan, math.nan), Estimate(0.5, math.nan, math.nan)
    for text in (tables.percent, tables.points, tables.number):
        assert text(none) == "-" and text(exact) not in ("-", "nan")


def test_cells_asked_for_twice_are_one() -> None:
    task = SimpleNamespace(lane_prompts=lambda n: None, max_tokens=lambda n: 6)
    cells = runner.cells(task, ["joint", "independent", "joint"], [1, 2, 2], None)  # type: ignore[arg-type]
    assert [(c.mode, c.lanes) for c in cells] == [
        ("independent", 1),
        ("joint", 2),
        ("independent", 2),
    ]


def test_a_number_of_bytes_is_said_in_the_largest_unit_that_is_below_it() -> None:
    said = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 5 << 50: "5120.0 TiB"}
    assert {count: memory.size(count) for count in said} == said
    assert common.mebibytes(None) == "unknown" and common.mebibytes(3 << 29) == "1.5 GiB"
    assert common.mebibytes(5 << 20) == "5 MiB"


def test_the_public_names_are_listed() -> None:
    assert set(tinylane.__all__) == set(dir(tinylane)) and "generate" in dir(tinylane)
