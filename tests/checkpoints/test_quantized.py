"""MLX-quantized layers: NumPy's values are MLX's to the bit, and shapes are checked by name."""

from __future__ import annotations

from pathlib import Path

import helpers_checkpoint as checkpoint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.checkpoints.quantized import AFFINE_BITS, Packing, dequantize, packing, unpack
from tinylane.core.errors import TinylaneError


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype == np.float32 and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_affine_equals_mlx_to_the_bit(bits, group_size, dtype):
    mx = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(bits * group_size)
    dense = mx.array(rng.normal(size=(24, 384)).astype(np.float32)).astype(getattr(mx, dtype))
    weight, scales, biases = mx.quantize(dense, group_size=group_size, bits=bits)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    theirs = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    ours = dequantize(
        np.asarray(weight),
        np.asarray(scales),
        np.asarray(biases),
        Packing("affine", bits, group_size),
    )
    assert same_bits(ours, np.asarray(theirs))


def test_mxfp4_equals_mlx_to_the_bit_for_every_scale():
    mx = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(4)
    weight = rng.integers(0, 1 << 32, (256, 8), dtype=np.uint32)
    weight[:, :2] = [0x76543210, 0xFEDCBA98]  # every code
    scales = np.stack([np.arange(256), rng.integers(0, 255, 256)], 1).astype(np.uint8)
    theirs = np.asarray(
        mx.dequantize(
            mx.array(weight),
            mx.array(scales),
            group_size=32,
            bits=4,
            mode="mxfp4",
            dtype=mx.float32,
        )
    )
    ours = dequantize(weight, scales, None, Packing("mxfp4", 4, 32))
    assert same_bits(ours[:255], theirs[:255])
    # exponent 255 is infinity in MLX; nobody writes it, and 0 times it has no sign to agree on
    assert np.array_equal(ours[255], theirs[255], equal_nan=True)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(AFFINE_BITS), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1)
)
def test_unpack_reads_one_little_endian_bit_stream(bits, rows, blocks, seed):
    """Against the definition: code k of a row is bits k*b .. k*b+b-1 of the row as one integer."""
    count = 32 * blocks
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 1 << 32, (rows, count * bits // 32), dtype=np.uint32)
    codes = unpack(weight, bits)
    for row in range(rows):
        number = int.from_bytes(weight[row].astype("<u4").tobytes(), "little")
        expected = [(number >> (k * bits)) & ((1 << bits) - 1) for k in range(count)]
        assert codes[row].tolist() == expected


def test_any_group_size_dequantizes():
    codes = np.arange(96, dtype=np.uint64) % 16
    weight = np.zeros((1, 12), np.uint32)
    for k, code in enumerate(codes):
        weight[0, k // 8] |= np.uint32(int(code) << (4 * (k % 8)))
    scales, biases = np.float32([[0.5, 2, 1]]), np.float32([[1, -1, 0]])
    values = dequantize(weight, scales, biases, Packing("affine", 4, 32))
    expected = codes.astype(np.float32) * np.repeat(scales, 32) + np.repeat(biases, 32)
    assert np.array_equal(values[0], expected)
    odd = dequantize(weight, np.ones((1, 4), np.float32), None, Packing("affine", 4, 24))
    assert np.array_equal(odd[0], codes.astype(np.float32))
    assert not Packing("affine", 4, 24).native and Packing("affine", 4, 64).native


PATH = "model.layers.0.mlp.down_proj"


def layer(bits=4, group=64, out=8, into=128, dtype="F16") -> dict:
    groups = (out, into // group)
    return {
        "weight": ("U32", (out, into * bits // 32)),
        "scales": (dtype, groups),
        "biases": (dtype, groups),
    }


@pytest.mark.parametrize("bits", AFFINE_BITS)
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_packing_is_told_from_the_shapes(bits, group):
    """Mixed-bit files were rejected elsewhere because one global setting was believed."""
    record = {"bits": 4, "group_size": 64}
    assert packing(record, PATH, (8, 128), layer(bits, group)) == Packing("affine", bits, group)


@pytest.mark.parametrize("name", [PATH, PATH.removeprefix("model.")])
def test_overrides_by_path_are_checked_against_the_shapes(name):
    record = {"bits": 4, "group_size": 64, name: {"bits": 6, "group_size": 32}}
    assert packing(record, PATH, (8, 128), layer(6, 32)) == Packing("affine", 6, 32)
    with pytest.raises(TinylaneError, match=rf"{PATH}.*bits 6, but the file holds 4"):
        packing(record, PATH, (8, 128), layer(4, 32))
    with pytest.raises(TinylaneError, match="group_size 32, but the file holds 64"):
        packing(record, PATH, (8, 128), layer(6, 64))
    with pytest.raises(TinylaneError, match="not quantized, but its scales"):
        packing({**record, name: False}, PATH, (8, 128), layer())
    assert packing({**record, name: True}, PATH, (8, 128), layer()) == Packing("affine", 4, 64)
    with pytest.raises(TinylaneError, match="expected an object"):
        packing({**record, name: 4}, PATH, (8, 128), layer())


def test_mxfp4_is_told_from_its_byte_scales():
    found = {"weight": ("U32", (8, 16)), "scales": ("U8", (8, 4))}
    record = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    assert packing(record, PATH, (8, 128), found) == Packing("mxfp4", 4, 32)
    with pytest.raises(TinylaneError, match="mode 'affine', but the file holds mxfp4"):
        packing({**record, PATH: {"mode": "affine"}}, PATH, (8, 128), found)
    nvfp4 = {"weight": ("U32", (8, 16)), "scales": ("U8", (8, 8))}
    with pytest.raises(TinylaneError, match="groups of 16 are not affine or mxfp4"):
        packing(record, PATH, (8, 128), nvfp4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"weight": ("F32", (8, 16))}, "weight F32"),
        ({"weight": ("U32", (9, 16))}, r"\(9, 16\); expected U32 \(8, packed\)"),
        ({"weight": ("U32", (8, 17))}, "no whole number of bits"),
        ({"weight": ("U32", (8, 28))}, "no whole number of bits"),
        ({"weight": ("U32", (8, 0))}, "no whole number of bits"),
        ({"weight": ("U32", (8,))}, "weight U32"),
        ({"scales": ("F16", (8, 3))}, r"scales \(8, 3\)"),
        ({"scales": ("F16", (8, 0))}, r"scales \(8, 0\)"),
        ({"scales": ("F16", (16,))}, r"scales \(16,\)"),
        ({"scales": ("I8", (8, 2))}, "scales I8"),
        ({"biases": ("F16", (8, 1))}, r"biases \(8, 1\); expected \(8, 2\)"),
        ({"biases": None}, "biases are missing"),
    ],
)
def test_mis_shaped_quantized_layers_are_refused_by_name(change, words):
    with pytest.raises(TinylaneError, match=words) as caught:
        packing({"bits": 4, "group_size": 64}, PATH, (8, 128), {**layer(), **change})
    assert PATH in str(caught.value) and "\n" not in str(caught.value)


def test_scales_without_a_record_or_a_weight_are_refused():
    with pytest.raises(TinylaneError, match="no quantization"):
        packing(None, PATH, (8, 128), layer())
    with pytest.raises(TinylaneError, match="weight is missing"):
        packing({"bits": 4}, PATH, (8, 128), {"scales": ("F16", (8, 2))})


def test_a_packed_weight_without_its_scales_is_named(tmp_path: Path) -> None:
    """mlx-lm reported shapes that do not fit (mlx-lm 1451)."""
    pytest.importorskip("mlx.core")
    raw = checkpoint.small(quantization={"group_size": 32, "bits": 4})
    tensors = checkpoint.quantized(checkpoint.weights(raw), {}, raw["quantization"])
    del tensors["model.layers.0.mlp.up_proj.scales"]
    folder = checkpoint.write_checkpoint(tmp_path, raw, tensors)
    line = checkpoint.refusal(folder)
    assert "missing model.layers.0.mlp.up_proj.scales of a packed weight" in line
