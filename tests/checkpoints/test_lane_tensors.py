"""Parameters for lanes in files: adapters and checkpoints hold them, what does not fit is refused,
`inspect` shows them, `fuse` keeps them, and transformers has no place for those that are layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_checkpoint import quantized, small, weights, write_checkpoint

from tinylane.checkpoints import extras
from tinylane.checkpoints.adapter import load_adapter, save_adapter
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.export import fuse
from tinylane.checkpoints.load import inspect, load
from tinylane.commands.inspect import format_report
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.testing.samples import random_extras

ask = helpers_cli.ask  # a fixture
CONFIG = parse_config(small())
KINDS = tuple(extras.KINDS)
ROWS = (np.arange(5), np.array([0, 1, 1, 2, 2]), np.array([SHARED, 0, 1, 0, 1]))
PROJECTION = "model.layers.0.bridge.q_proj.weight"


def in_file(*kinds: str, lanes: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones in file layout; bfloat16 holds them."""
    made = random_extras(CONFIG, kinds or KINDS, lanes, seed)
    made = {name: np.ascontiguousarray(extras.turned(name, x)) for name, x in made.items()}
    return {
        k: (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for k, x in made.items()
    }


def logits(model: Any) -> np.ndarray:
    return np.asarray(model(*ROWS, lane_mask=LaneMask.joint(2)))


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_an_adapter_and_a_checkpoint_with_them_are_the_same_model(
    tmp_path: Path, backend: str
) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    base = write_checkpoint(tmp_path / "base")
    save_adapter(tmp_path / "a", CONFIG, in_file())
    whole = write_checkpoint(tmp_path / "whole", None, weights(small()) | in_file(), shards=2)
    bf16 = write_checkpoint(tmp_path / "16", None, weights(small()) | in_file(), dtype="BF16")
    adapted = logits(load(base, backend, adapter=tmp_path / "a"))
    assert np.array_equal(logits(load(whole, backend)), adapted)
    assert np.array_equal(logits(load(bf16, backend)), adapted)
    assert np.abs(logits(load(base, backend)) - adapted).max() > 1e-3  # the control
    exact = logits(load(base, "numpy", "float64", adapter=tmp_path / "a"))
    assert np.abs(adapted - exact).max() < 1e-4


def test_matrices_are_out_in_in_a_file() -> None:
    """As transformers and mlx-lm store theirs; tables of lanes have a row for each."""
    shapes = {name: x.shape for name, x in in_file(lanes=3).items()}
    assert shapes[PROJECTION] == (3, 64) and shapes["model.lane_embed.weight"] == (4, 64)
    assert shapes["model.layers.1.bridge.o_proj.weight"] == (64, 3)
    assert shapes["model.layers.1.p_match.down_proj.weight"] == (64, 4)
    assert shapes["model.layers.1.self_attn.lane_kv.weight"] == (4, 32)
    lace = {name: shape for name, shape in shapes.items() if ".lace." in name}
    down, up = (f"model.layers.1.lace.{name}_proj.weight" for name in ("down", "up"))
    assert lace[down] == (32, 128) and lace[up] == (128, 32) and len(lace) == 6


def test_lace_is_in_every_second_layer_from_the_middle_on() -> None:
    for layers, expected in ((1, {0}), (2, {1}), (5, {2, 4}), (8, {4, 6})):
        made = extras.start(replace(CONFIG, layers=layers), ("lace",), 1)
        assert {int(name.split(".")[2]) for name in made} == expected
        assert all(value.any() != ("up_proj" in name) for name, value in made.items())


def test_a_packed_checkpoint_takes_them(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    how = {"group_size": 32, "bits": 4}
    raw = small(quantization=how)
    base = write_checkpoint(tmp_path / "q", raw, quantized(weights(small()), {}, how))
    save_adapter(tmp_path / "a", CONFIG, in_file())
    packed = load(base, "mlx", adapter=tmp_path / "a")
    assert any(name.endswith(".scales") for name in packed.params)
    exact = load(base, "numpy", "float64", adapter=tmp_path / "a")
    assert np.abs(logits(packed) - logits(exact)).max() < 1e-2
    bare = load(base, "mlx")
    assert np.abs(logits(packed) - logits(bare)).max() > 0.1


def test_what_is_saved_is_what_is_read_and_makes_another_model(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    identities = {load(base).identity}
    for kind in KINDS:
        saved = in_file(kind)
        save_adapter(tmp_path / kind, CONFIG, saved)
        found = load_adapter(tmp_path / kind, CONFIG).tensors
        assert found.keys() == saved.keys()
        assert all(np.array_equal(found[name], saved[name]) for name in saved)
        identities.add(load(base, adapter=tmp_path / kind).identity)
    assert len(identities) == 1 + len(KINDS)


def changed(**shapes: Any) -> dict[str, np.ndarray]:
    tensors = in_file()
    for name, shape in shapes.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.zeros(shape, np.float32)
    return tensors


EMBED, KV = "model.lane_embed.weight", "model.layers.{}.self_attn.lane_kv.weight"
WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {EMBED: (3, 32)},
        f"{EMBED} is (3, 32); expected (3, 64), (1 + lanes, width): the first row is the prompt's",
    ),
    ({EMBED: (1, 64)}, f"{EMBED} is (1, 64); expected (2, 64), (1 + lanes, width)"),
    ({EMBED: (64,)}, f"{EMBED} is (64,); expected (2, 64), (1 + lanes, width)"),
    ({KV.format(1): (3, 64)}, f"{KV.format(1)} is (3, 64); expected (3, 32), (1 + lanes, width)"),
    ({KV.format(1): (5, 32)}, f"{KV.format(1)} is (5, 32); expected (3, 32), (1 + lanes, width)"),
    ({KV.format(1): None}, f"{KV.format(1)} is missing; lane_kv is in every layer or in none"),
    ({KV.format(7): (3, 32)}, f"'{KV.format(7)}': this model has 2 layers"),
    (
        {PROJECTION: (3, 32)},
        f"{PROJECTION} is (3, 32); expected (3, 64), (out, in)",
    ),
    (
        {"model.layers.1.bridge.norm.weight": None},
        "model.layers.1.bridge.norm.weight is missing; bridge is in every layer or in none",
    ),
    (
        {"model.layers.1.lace.gate_proj.weight": None},
        "model.layers.1.lace.gate_proj.weight is missing; lace is in every second layer from the "
        "middle on or in none",
    ),
    (
        {"model.layers.0.lace.q_proj.weight": (32, 32)},
        "'model.layers.0.lace.q_proj.weight': this model has 2 layers; lace is in every second",
    ),
    (
        {"model.layers.1.lace.up_proj.weight": (64, 32)},
        "model.layers.1.lace.up_proj.weight is (64, 32); expected (128, 32), (out, in)",
    ),
    (
        {"model.layers.0.bridge.gate.weight": (1, 64)},
        "'model.layers.0.bridge.gate.weight' is not a tensor this model can take",
    ),
]


@pytest.mark.parametrize(("change", "line"), WRONG, ids=[line[:50] for _, line in WRONG])
def test_what_does_not_fit_is_refused_by_name_in_one_line(
    tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    from tinylane.files.safetensors import write_tensors

    folder = tmp_path / "a"
    folder.mkdir()
    write_tensors(folder / "adapters.safetensors", changed(**change))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(TinylaneError) as caught:
        load_adapter(folder, CONFIG)
    assert f"{folder}: {line}" in str(caught.value) and "\n" not in str(caught.value)
    if "gate" in line:
        return
    whole = write_checkpoint(tmp_path / "whole", None, weights(small()) | changed(**change))
    with pytest.raises(TinylaneError) as caught:
        load(whole)
    assert f"{whole}: {line}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_bridge_that_its_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    made = extras.start(CONFIG, ("bridge",), 1, 48)
    tensors = {name: extras.turned(name, x) for name, x in made.items()}
    line = "the bridge is 48 wide; expected at most 32 .the head dim., or a multiple of it"
    with pytest.raises(TinylaneError, match=line):
        save_adapter(tmp_path, CONFIG, tensors)


def test_lace_of_a_part_of_a_head_is_refused(tmp_path: Path) -> None:
    """Its heads are turned by the layer's angles."""
    tensors = {
        name: np.zeros(s, np.float32) for name, s in extras.shapes(CONFIG, "lace", 48).items()
    }
    with pytest.raises(TinylaneError, match="lace is 48 wide; expected a multiple of 32"):
        save_adapter(tmp_path, CONFIG, tensors)


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    tensors = in_file("lane_embed")
    tensors[EMBED][1, 1] = np.nan
    with pytest.raises(TinylaneError, match=r"lane_embed\.weight holds NaN"):
        save_adapter(tmp_path / "a", CONFIG, tensors)
    with pytest.warns(UserWarning, match=r"NaN or infinite weights in model\.lane_embed\.weight"):
        load(write_checkpoint(tmp_path / "whole", None, weights(small()) | tensors))


def test_inspect_shows_them(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    save_adapter(tmp_path / "a", CONFIG, in_file())
    said = ["lane_embed for 2 lanes", "lane_kv for 2 lanes", "bridge 3 wide", "p_match 4 wide"]
    said.append("lace 32 wide")
    report = inspect(base, adapter=tmp_path / "a")
    assert report["adapter"]["value"]["extra"] == said
    whole = write_checkpoint(tmp_path / "whole", None, weights(small()) | in_file())
    report = inspect(whole)
    assert report["optional"]["value"][-5:] == said
    more = sum(x.size for x in in_file().values())
    assert report["parameters"]["value"] == inspect(base)["parameters"]["value"] + more
    assert any("bridge 3 wide" in line for line in format_report(report))
    assert load_adapter(tmp_path / "a", CONFIG).summary["extra"] == said


@pytest.mark.parametrize("where", ["adapter", "checkpoint"])
def test_fuse_keeps_them_in_the_adapter_of_the_new_checkpoint(tmp_path: Path, where: str) -> None:
    tensors, own = weights(small()), in_file() if where == "checkpoint" else {}
    base = write_checkpoint(tmp_path / "base", None, tensors | own)
    bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(128, np.float32)}
    save_adapter(tmp_path / "a", CONFIG, bias | (in_file() if where == "adapter" else {}))
    out = tmp_path / "out"
    notes = fuse(base, out, tmp_path / "a")
    assert any("lane_embed for 2 lanes" in note and "adapter" in note for note in notes)
    before, after = load(base, adapter=tmp_path / "a"), load(out)
    assert np.abs(logits(before) - logits(after)).max() < 1e-5
    config = json.loads((out / "config.json").read_text())
    assert config["attention_bias"] is True
    plain = load(out, adapter=False)  # what other programs read
    assert not any(map(extras.is_extra, plain.params))


def test_transformers_has_no_place_for_layers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    import tinylane.hf as hf

    base = write_checkpoint(tmp_path / "base")
    save_adapter(
        tmp_path / "a", CONFIG, in_file("lane_kv", "bridge", "lace"), {"visibility": "bridge"}
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(TinylaneError, match="has bridge 3 wide, lace 32 wide, for which"):
        hf.lanes(model, adapter=tmp_path / "a")


def test_visibility_bridge_of_an_adapter_and_of_the_command(tmp_path: Path, ask: Any) -> None:
    base = helpers_cli.write_checkpoint(tmp_path / "base", adapter=False)
    config = helpers_cli.config()
    made = random_extras(config, ("bridge",), 2, 0)
    tensors = {name: extras.turned(name, x) for name, x in made.items()}
    save_adapter(tmp_path / "a", config, tensors, {"visibility": "bridge"})
    mask = load(base, adapter=tmp_path / "a").mask(2)
    assert mask.side is not None and mask.side.all() and not mask.visibility[0, 1]
    run = (
        "generate",
        "--model",
        base,
        "--prompt",
        "1",
        "--raw",
        "--lanes",
        2,
        "--json",
        "--seed",
        3,
    )
    own = ask(*run, "--adapter-path", tmp_path / "a", "--max-tokens", 6)
    named = ask(*run, "--adapter-path", tmp_path / "a", "--max-tokens", 6, "--visibility", "bridge")
    assert own[0] == named[0] == 0
    assert json.loads(own[1])["lanes"] == json.loads(named[1])["lanes"]
    code, _, error = ask(*run, "--visibility", "bridge")
    assert code == 2 and "--visibility bridge, but this model has no bridge" in error
