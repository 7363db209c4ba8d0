"""LaneCache in a file: what is saved comes back, and what does not fit is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cache import PROMPT, equal, feed, lane_rows
from helpers_lanes import BACKENDS, TOLERANCE, omega, small

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.files.safetensors import TensorFile, write_tensors
from tinylane.methods import times
from tinylane.methods.decoding import Decoding

# Files.

SAVED = [*BACKENDS, ("mlx", "bfloat16"), ("mlx", "float16")]


def filled(model: Model, lane_mask: LaneMask | None = None) -> LaneCache:
    cache = model.new_cache(omega(model), lane_mask or LaneMask.neighbours(3, 1, lag=2))
    feed(model, cache, [*PROMPT, *lane_rows(0, 5, 7), *lane_rows(2, 5, 7)])
    return cache


@pytest.mark.parametrize("kind", SAVED, ids="-".join)
def test_a_saved_cache_comes_back_to_the_bit_and_goes_on_the_same(kind, tmp_path):
    model, file = small(*kind), tmp_path / "cache.safetensors"
    cache = filled(model)
    cache.save(file)
    back = LaneCache.load(file, model)
    equal(back, cache)
    assert back.lane_rope.same_as(cache.lane_rope) and cache.lane_mask.same_as(back.lane_mask)
    assert {str(x.dtype) for x in back.keys} == {str(x.dtype) for x in cache.keys}
    new = lane_rows(1, 6, 8)
    assert np.array_equal(feed(model, back, new), feed(model, cache, new))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    again = tmp_path / "again.safetensors"
    LaneCache.load(file, model, cache.lane_rope, cache.lane_mask).save(again)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("saver", "loader"), [("numpy", "mlx"), ("mlx", "numpy")])
def test_a_cache_saved_on_one_backend_is_read_on_the_other(saver, loader, tmp_path):
    file = tmp_path / "cache.safetensors"
    cache, model = filled(small(saver, "float32")), small(loader, "float32")
    cache.save(file)
    back = LaneCache.load(file, model)
    equal(back, cache)
    new = lane_rows(1, 6, 8)
    np.testing.assert_allclose(
        feed(model, back, new), feed(cache.model, cache, new), rtol=0, atol=TOLERANCE["float32"]
    )


def test_an_empty_cache_and_one_without_a_mask_come_back(tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    model.new_cache(omega(model)).save(file)
    back = LaneCache.load(file, model)
    assert len(back) == 0 and back.lane_mask is None
    feed(model, back, PROMPT)
    back.save(file)
    equal(LaneCache.load(file, model), back)


def test_a_file_of_before_has_rows_whose_tokens_nobody_knows(tmp_path):
    """It is read, and goes on as before; a new prompt shares nothing with it."""
    model, file = small(), tmp_path / "cache.safetensors"
    cache = filled(model)
    assert cache.tokens.tolist()[:5] == [token for token, _, _ in PROMPT]
    cache.save(file)
    assert LaneCache.load(file, model).tokens.tolist() == cache.tokens.tolist()
    with TensorFile(file) as saved:
        tensors = {name: x.read() for name, x in saved.tensors.items() if name != "tokens"}
        write_tensors(tmp_path / "old.safetensors", tensors, saved.metadata)
        for wrong in (-2 - cache.tokens, cache.tokens + 29):
            write_tensors(tmp_path / "x.safetensors", tensors | {"tokens": wrong}, saved.metadata)
            with pytest.raises(TinylaneError, match=r"x\.saf.*tokens outside the vocabulary of 29"):
                LaneCache.load(tmp_path / "x.safetensors", model)
    back = LaneCache.load(tmp_path / "old.safetensors", model)
    equal(back, cache)
    assert (back.tokens == -1).all()
    prompt = [token for token, _, _ in PROMPT]
    settings = {"lane_rope": cache.lane_rope, "lane_mask": cache.lane_mask}
    assert Decoding(model, prompt, 3, cache=back, **settings).reused == 0
    assert Decoding(model, prompt, 3, cache=cache, **settings).reused == 4


def test_masks_of_more_lanes_fit_if_the_lanes_of_both_read_each_other_alike(tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    filled(model, LaneMask.joint(3, lag=1)).save(file)
    for mask, fits in (
        (LaneMask.joint(5, lag=1), True),
        (LaneMask.independent(1), True),  # one lane has nobody to read
        (LaneMask.joint(2, lag=1), True),
        (LaneMask.joint(5), False),  # another lag
        (LaneMask.star(2, lag=1), False),
        (LaneMask.independent(4), False),
    ):
        if fits:
            assert len(LaneCache.load(file, model, None, mask)) == 9
        else:
            with pytest.raises(TinylaneError, match="another visibility or lag"):
                LaneCache.load(file, model, None, mask)


def rewritten(file: Path, change: Any) -> None:
    """The same tensors under a header that `change` has edited."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def renamed(old: str, new: str) -> Any:
    return lambda header: header.update({new: header.pop(old)})


def meta(**changes: str) -> Any:
    return lambda header: header["__metadata__"].update(changes)


REFUSED = {
    "another model": (small(identity="other"), {}, None, "identity is 'small'"),
    "other sizes": (small(layers=1), {}, None, "sizes is"),
    "another vocabulary": (small(vocab=30), {}, None, "sizes is"),
    "another dtype": (small(dtype="float32"), {}, None, "dtype is 'float64'"),
    "another Omega": (small(), {"lane_rope": omega(small(), "ntk")}, None, "another Omega"),
    "another prompt lane": (
        small(),
        {"lane_rope": omega(small(), "layers", 0)},
        None,
        "another Omega or prompt_lane",
    ),
    "another mask": (small(), {"lane_mask": LaneMask.joint(3)}, None, "another visibility"),
    "another lag": (small(), {"lane_mask": LaneMask.neighbours(3, 1)}, None, "visibility or lag"),
    "not a cache": (small(), {}, meta(format="something"), "not a cache"),
    "a lag that is no number": (small(), {}, meta(lag="-1"), "lag is '-1'"),
    "a tensor missing": (
        small(),
        {},
        renamed("layers.1.values", "layers.2.values"),
        "layers.1.values is missing",
    ),
    "a tensor of another shape": (
        small(),
        {},
        lambda header: header["layers.0.keys"].update(shape=[2, 8, 9]),
        r"layers.0.keys has shape \(2, 8, 9\)",
    ),
    "lanes that are not there": (
        small(),
        {},
        lambda header: header.update(positions=header["lanes"], lanes=header["positions"]),
        "lanes outside -1 .. 2",
    ),
    "a tensor of another dtype": (
        small(),
        {},
        lambda header: header["layers.0.keys"].update(dtype="I64"),
        "layers.0.keys is I64; expected F64",
    ),
    "a prompt lane that is none": (small(), {}, meta(prompt_lane="1"), "prompt_lane is None"),
    "visibility that is not square": (
        small(),
        {},
        lambda header: header["lane_mask.visibility"].update(shape=[9]),
        "visibility has shape",
    ),
    "coordinates of another shape": (
        small(),
        {},
        lambda header: header["positions"].update(shape=[9, 1]),
        r"positions has shape \(9, 1\)",
    ),
    "an Omega of another length": (
        small(),
        {},
        lambda header: header["lane_rope.omega"].update(shape=[8]),
        "omega has shape",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_cache_file_that_does_not_fit_is_refused_in_one_line(why, tmp_path):
    model, given_, change, words = REFUSED[why]
    file = tmp_path / "cache.safetensors"
    filled(small()).save(file)
    if change is not None:
        rewritten(file, change)
    with pytest.raises(TinylaneError, match=words) as caught:
        LaneCache.load(file, model, **given_)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    file = tmp_path / "cache.safetensors"
    filled(small()).save(file)
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(TinylaneError, match=r"cache\.safetensors"):
            LaneCache.load(file, small())
    file.write_text("not a tensor in it" * 99)
    for path in (file, tmp_path / "absent", tmp_path):
        with pytest.raises(TinylaneError):
            LaneCache.load(path, small())
    with pytest.raises(TinylaneError, match="cannot be written"):
        filled(small()).save(tmp_path / "absent" / "cache.safetensors")


def changing() -> LaneMask:
    """Lane 0 reads lane 1 up to position 4, lane 2 reads lane 0 from position 6 on."""
    mask = times.reading(LaneMask.neighbours(3, 1, lag=2), 0, 1, False, 5)
    return times.reading(mask, 2, 0, True, 6)


def test_when_lanes_read_each_other_comes_back(tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    cache = filled(model, changing())
    cache.save(file)
    back = LaneCache.load(file, model, None, changing())
    assert back.lane_mask.same_as(changing())
    new = lane_rows(0, 7, 9) + lane_rows(2, 7, 9)
    assert np.array_equal(feed(model, back, new), feed(model, cache, new))
    wider = times.joined(changing(), 3, [], {})
    assert len(LaneCache.load(file, model, None, wider)) == 9, "the lanes of both read alike"
    for other in (LaneMask.neighbours(3, 1, lag=2), times.reading(changing(), 2, 1, False, 6)):
        with pytest.raises(TinylaneError, match="another visibility or lag"):
            LaneCache.load(file, model, None, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"since": None}, "lane_mask.since is missing"),
        ({"until": None}, "lane_mask.until is missing"),
        ({"since": np.full((3, 3), -1)}, "positions that no text reaches"),
        ({"until": np.full((3, 3), 1 << 40)}, "positions that no text reaches"),
        ({"since": np.zeros((2, 2), np.int64)}, r"lane_mask.since has shape \(2, 2\); expected"),
        ({"until": np.zeros((3, 3), np.int32)}, "lane_mask.until is I32; expected I64"),
    ],
)
def test_times_that_are_damaged_are_refused(changes, words, tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    filled(model, changing()).save(file)
    with TensorFile(file) as saved:
        tensors = {name: x.read() for name, x in saved.tensors.items()}
        meta = saved.metadata
    for name, value in changes.items():
        tensors[f"lane_mask.{name}"] = value
    write_tensors(file, {k: v for k, v in tensors.items() if v is not None}, meta)
    with pytest.raises(TinylaneError, match=words):
        LaneCache.load(file, model)


def test_the_order_of_hogwild_s_parts_comes_back_and_is_checked(tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    cache = model.new_cache(Hogwild((2, 0)), LaneMask.joint(3))
    feed(model, cache, [*PROMPT, *lane_rows(0, 5, 7), *lane_rows(2, 5, 7)])
    cache.save(file)
    back = LaneCache.load(file, model, Hogwild())
    assert back.lane_rope == Hogwild((2, 0))
    new = lane_rows(1, 6, 8)
    assert np.array_equal(feed(model, back, new), feed(model, cache, new))
    with TensorFile(file) as saved:
        tensors = {name: x.read() for name, x in saved.tensors.items()}
        meta = saved.metadata
    write_tensors(file, tensors, {k: v for k, v in meta.items() if k != "order"})
    assert LaneCache.load(file, model).lane_rope == Hogwild()  # a file of before
    for order in ("2,2", "a", "-1", "1.0", "99999"):
        write_tensors(file, tensors, {**meta, "order": order})
        with pytest.raises(TinylaneError, match=f"its order is '{order}'; expected different la"):
            LaneCache.load(file, model)
