"""The checked reader: everything it accepts, safetensors accepts alike; nothing crafted gets by."""

from __future__ import annotations

import os
import random
import struct

import numpy as np
import pytest
from helpers_safetensors import CRAFTED, GOOD, build, contents, entry
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import DTYPES, TensorFile, widen_bfloat16, write_tensors


def agrees_with_safetensors(path, data: bytes) -> bool:
    """True if we accept the file; then safetensors must, with the same names, shapes and bytes."""
    with path.open("r+b" if path.exists() else "wb") as file:  # truncating is slow on some systems
        file.write(data)
        file.truncate()
    try:
        ours = contents(path)
    except TinylaneError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return False
    theirs = {n: (t["dtype"], t["shape"], bytes(t["data"])) for n, t in deserialize(data)}
    assert ours == theirs
    return True


def test_a_good_file_reads_as_safetensors_reads_it(tmp_path):
    path = tmp_path / "good.safetensors"
    assert agrees_with_safetensors(path, GOOD)
    with TensorFile(path) as file:
        assert list(file.tensors) == ["a", "b", "empty", "scalar", "flag"]
        assert file.metadata == {"format": "pt"}
        assert file["a"].read().shape == (2, 3) and file["scalar"].read().shape == ()
        assert file["a"].read().flags.aligned and file["a"].read().flags.c_contiguous
        with pytest.raises(TinylaneError, match="no tensor 'c'"):
            file["c"]


def test_rows_are_the_slices_of_the_whole(tmp_path):
    whole = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    write_tensors(tmp_path / "x.safetensors", {"t": whole})
    with TensorFile(tmp_path / "x.safetensors") as file:
        for start in range(6):
            for stop in range(start, 6):
                assert np.array_equal(file["t"].read(start, stop), whole[start:stop])
        for start, stop in ((-1, 2), (3, 2), (0, 6)):
            with pytest.raises(TinylaneError, match="rows"):
                file["t"].read(start, stop)


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused_in_one_line(tmp_path, name):
    assert not agrees_with_safetensors(tmp_path / "crafted.safetensors", CRAFTED[name])


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tinylane.files.safetensors.MAX_TENSORS", 3)
    path = tmp_path / "many.safetensors"
    path.write_bytes(build({f"t{i}": entry("U8", (0,), (0, 0)) for i in range(4)}))
    with pytest.raises(TinylaneError, match="4 tensors, limit 3"):
        TensorFile(path)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # safetensors hangs on one
    for name in ("fifo", "absent", "."):
        with pytest.raises(TinylaneError):
            TensorFile(tmp_path / name)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    """What a clone without Git LFS has in the place of the weights."""
    path = tmp_path / "model.safetensors"
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 269060552\n"
    )
    with pytest.raises(TinylaneError, match="a Git LFS pointer; get the file itself: git lfs pull"):
        TensorFile(path)


def test_a_file_that_shrinks_after_opening_is_an_error_not_a_signal(tmp_path):
    path = tmp_path / "shrinks.safetensors"
    write_tensors(path, {"a": np.zeros(100_000, np.float32)})
    with TensorFile(path) as file:
        os.truncate(path, 5000)
        with pytest.raises(TinylaneError, match="truncated since it was opened"):
            file["a"].read()


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
@example(layout={}, rng=random.Random(0))
def test_whatever_we_write_both_readers_read_alike(tmp_path_factory, layout, rng):
    layout.pop("__metadata__", None)
    arrays: dict = {}
    for name, (dtype, shape) in layout.items():
        size = int(np.prod(shape)) * DTYPES[dtype].itemsize
        high = 2 if dtype == "BOOL" else 256
        data = bytes(rng.randrange(high) for _ in range(size))
        array = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
        arrays[name] = (array, "BF16") if dtype == "BF16" else array
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    write_tensors(path, arrays, {"k": "v"})
    assert agrees_with_safetensors(path, path.read_bytes())
    with TensorFile(path) as file:
        assert file.metadata == {"k": "v"} and set(file.tensors) == set(arrays)
        for name, value in arrays.items():
            array = value[0] if isinstance(value, tuple) else value
            assert file[name].read().tobytes() == array.tobytes()
            assert file[name].dtype == layout[name][0]


def test_thousands_of_mutated_files_never_crash_and_never_disagree(tmp_path):
    """A prototype of this reader had a bug that only this comparison found."""
    rng = random.Random(20)
    path = tmp_path / "mutated.safetensors"
    tokens = [b"0", b"-1", b"8", b"24", b'"F32"', b"[", b"]", b"{", b"}", b",", b"1e1", b"true"]
    tokens += [b"18446744073709551615", b"-0", b'"a":', b'"BOOL"', b'"\\u0061"', b" ", b"\x00"]
    accepted = 0
    for _ in range(4000):
        data = bytearray(GOOD)
        head = 8 + struct.unpack("<Q", GOOD[:8])[0]
        for _ in range(rng.choice((1, 1, 2, 3))):
            if len(data) <= 8:
                break
            where = rng.randrange(8, min(head, len(data)))
            kind = rng.random()
            if kind < 0.35:
                data[where] = rng.randrange(256)
            elif kind < 0.8:
                span = rng.randrange(4)
                data[where : where + span] = rng.choice(tokens)
                if rng.random() < 0.8:  # keep the length true, so that the rest is looked at
                    length = len(data) - len(GOOD) + head - 8
                    data[:8] = struct.pack("<Q", max(0, length))
            elif kind < 0.9:
                del data[rng.randrange(len(data)) :]
            else:
                data[rng.randrange(8)] = rng.randrange(256)
        accepted += agrees_with_safetensors(path, bytes(data))
    assert 20 < accepted < 2000  # the mutations reach both sides of the check


def test_widening_bfloat16_is_exact_for_every_pattern():
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = widen_bfloat16(bits.reshape(256, 256)).reshape(-1)
    assert wide.dtype == np.float32
    assert np.array_equal(wide.view(np.uint32), bits.astype(np.uint32) << 16)
    mx = pytest.importorskip("mlx.core")
    theirs = np.asarray(mx.array(bits).view(mx.bfloat16).astype(mx.float32))
    assert np.array_equal(wide, theirs, equal_nan=True)


def test_mlx_arrays_are_written_with_their_dtype(tmp_path):
    mx = pytest.importorskip("mlx.core")
    values = mx.array([[1.5, -2.0, 3.0], [4.0, 5.0, 6.0]])
    path = tmp_path / "mlx.safetensors"
    tensors = {"b": values.astype(mx.bfloat16).T, "h": values.astype(mx.float16), "f": values}
    write_tensors(path, tensors)
    with TensorFile(path) as file:
        assert {n: file[n].dtype for n in file.tensors} == {"f": "F32", "b": "BF16", "h": "F16"}
        assert np.array_equal(widen_bfloat16(file["b"].read()), np.asarray(values).T)
    mx.save_safetensors(str(tmp_path / "theirs.safetensors"), tensors)  # __metadata__ is null
    assert contents(tmp_path / "theirs.safetensors") == contents(path)
    theirs = mx.load(str(path), format="safetensors")
    assert all(mx.array_equal(theirs[name], tensors[name]) for name in tensors)


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path):
    a, b = np.ones(3, np.float32), np.zeros((2, 2), np.float64)
    write_tensors(tmp_path / "1", {"a": a, "b": b}, {"x": "1", "y": "2"})
    write_tensors(tmp_path / "2", {"b": b, "a": a}, {"y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_what_the_format_lacks_is_refused_and_nothing_is_left_behind(tmp_path):
    bad = {"c": np.zeros(2, np.complex64), "o": np.array([object()])}
    for name, value in bad.items():
        with pytest.raises(TinylaneError, match=f"tensor '{name}'"):
            write_tensors(tmp_path / "bad.safetensors", {name: value})
    with pytest.raises(TinylaneError, match="expected strings"):
        write_tensors(tmp_path / "bad.safetensors", {}, {"n": 1})  # type: ignore[dict-item]
    with pytest.raises(TinylaneError, match="uint16"):
        write_tensors(tmp_path / "bad.safetensors", {"x": (np.zeros(2, np.float32), "BF16")})
    assert not list(tmp_path.iterdir())


def test_safetensors_itself_refuses_the_structural_crafts():
    """The control of the comparison: the reference is not a reader that takes everything."""
    for name in ("overlap", "hole", "truncated data", "trailing data", "wrong extent"):
        with pytest.raises(SafetensorError):
            deserialize(CRAFTED[name])
