"""Records what mlx-lm and peft compute with adapters in their formats.

    python tests/record/record_adapters.py            # record tests/data/adapters.safetensors
    python tests/record/record_adapters.py --check    # compute anew, print distances, write nothing

Needs mlx-lm, torch, transformers and peft; `test_adapters_of_others.py` needs none of them to check
what is recorded. The base checkpoints are `parity_files`'s, byte for byte, and an adapter's numbers
come from the same generator, under the names and with the settings that the two programs write.
mlx-lm reads an adapter by its `load_adapters`, peft by `PeftModel.from_pretrained`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from parity_cases import Case
from parity_files import encoded, normal, safetensors, shapes, tokens, write

import tinylane

DATA = Path(__file__).parents[1] / "data" / "adapters.safetensors"
ROWS = np.arange(24, 32)
LAYERS = range(2)
ATTENTION = ("self_attn.q_proj", "self_attn.v_proj")
ALL = (*ATTENTION, "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
ROPE = {"rope_type": "default", "rope_theta": 5000.0}
PACKED = {"group_size": 32, "bits": 4, "mode": "affine"}
SIZES = {"qwen3": {"head_dim": 16}}
# What peft writes beside the settings of a case, most of which says how it was made.
PEFT = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "somebody/model",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "loftq_config": {},
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "rank_pattern": {},
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}


@dataclass(frozen=True)
class Other:
    """An adapter: the program that reads it, its targets in the layers, its ranks and settings."""

    name: str
    program: str = "peft"
    family: str = "llama"
    targets: tuple[str, ...] = ATTENTION
    rank: int = 4
    ranks: dict[str, int] = field(default_factory=dict)  # of paths that end so
    dora: bool = False
    head: str = ""  # "tied" or "untied": the head of the base, which has an update too
    bias: bool = False  # the base's own biases were trained too
    quant: dict[str, Any] | None = None  # how the base is packed
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Case:
        """The checkpoint."""
        config = {
            **SIZES.get(self.family, {}),
            **({"intermediate_size": 128} if self.quant else {}),
        }
        return Case(
            f"adapters-{self.family}-{self.head}-{bool(self.quant)}",
            self.family,
            ROPE,
            ("rope_theta",),  # what mlx-lm reads
            {**config, "tie_word_embeddings": self.head == "tied"},
            head=self.head or "untied",
            quant=self.quant,
        )


MLX = {"program": "mlx-lm"}
CASES = {
    case.name: case
    for case in (
        Other("mlx-lora", **MLX, targets=ALL),
        Other("mlx-lora-qwen3", **MLX, family="qwen3", targets=ALL),
        Other("mlx-lora-packed", **MLX, quant=PACKED, targets=ALL),
        Other("mlx-lora-head", **MLX, head="untied"),
        Other("mlx-dora", **MLX, targets=ALL, dora=True),
        Other("mlx-dora-qwen2", **MLX, family="qwen2", targets=ALL, dora=True),
        Other("mlx-dora-packed", **MLX, quant=PACKED, targets=ALL, dora=True),
        Other("peft-lora", targets=ALL, settings={"lora_alpha": 10}),
        Other("peft-lora-qwen3", family="qwen3", targets=ALL, settings={"lora_alpha": 6}),
        Other("peft-rslora", settings={"lora_alpha": 3, "use_rslora": True}),
        Other(
            "peft-patterns",
            targets=ALL,
            ranks={"layers.0.self_attn.v_proj": 2, "down_proj": 6},
            settings={
                "lora_alpha": 4,
                "use_rslora": True,
                "rank_pattern": {"model.layers.0.self_attn.v_proj": 2, "down_proj": 6},
                "alpha_pattern": {r"layers\.(0|1)\.self_attn\.q_proj": 9, r".*\.1\..*o_proj": 1.5},
            },
        ),
        Other("peft-dora", targets=ALL, dora=True, settings={"lora_alpha": 6}),
        Other("peft-bias", family="qwen2", bias=True, settings={"bias": "all"}),
        Other("peft-fan", settings={"fan_in_fan_out": True}),
        Other("peft-head", head="untied"),
        Other("peft-head-tied", head="tied", family="qwen2"),
    )
}


def draw(case: Other, key: str, shape: tuple[int, ...], size: float) -> np.ndarray:
    return normal(f"{case.name}/{key}", shape) * size


def adapter(case: Other, folder: Path) -> Path:
    """The adapter's folder, as its program writes it."""
    mlx, held, base = case.program == "mlx-lm", {}, shapes(case.base)
    paths = [f"model.layers.{layer}.{target}" for layer in LAYERS for target in case.targets]
    for path in [*paths, *["lm_head"] * bool(case.head)]:
        out, into = base.get(path + ".weight", base["model.embed_tokens.weight"])
        rank = next((r for end, r in case.ranks.items() if path.endswith(end)), case.rank)
        a, b = (
            draw(case, path + ".a", (into, rank), 0.15),
            draw(case, path + ".b", (rank, out), 0.15),
        )
        m = np.abs(draw(case, path + ".m", (out,), 0.3)) + 0.7
        if mlx:
            parts = {".lora_a": a, ".lora_b": b, ".m": m}
        else:
            path = "base_model.model." + path
            parts = {".lora_A.weight": a.T, ".lora_B.weight": b.T, ".lora_magnitude_vector": m}
        for part, value in list(parts.items())[: 2 + case.dora]:
            held[path + part] = encoded(value, "F32")
        if case.bias:
            value = draw(case, path + ".bias", (out,), 0.5)
            held[path + ".base_layer.bias"] = encoded(value, "F32")
    folder.mkdir(parents=True)
    if mlx:
        keys = [*case.targets, *["lm_head"] * bool(case.head)]
        numbers = {"rank": case.rank, "scale": 1.5, "dropout": 0.0, "keys": keys}
        kind = "dora" if case.dora else "lora"
        record = {"fine_tune_type": kind, "num_layers": len(LAYERS), "lora_parameters": numbers}
    else:
        targets = [
            *{target.split(".")[-1] for target in case.targets},
            *["lm_head"] * bool(case.head),
        ]
        record = {**PEFT, "r": case.rank, "target_modules": sorted(targets), "use_dora": case.dora}
    record |= case.settings
    (folder / "adapter_config.json").write_text(json.dumps(record, indent=2))
    name = "adapters.safetensors" if mlx else "adapter_model.safetensors"
    (folder / name).write_bytes(safetensors(held))
    return folder


def folders(case: Other, scratch: Path) -> tuple[Path, Path]:
    """(the base, the adapter) in a folder."""
    return write(case.base, scratch / f"{case.name}-base"), adapter(case, scratch / case.name)


def ids(case: Other) -> np.ndarray:
    """The tokens of the pass whose rows are recorded."""
    return tokens(case.base)[: ROWS[-1] + 1]


def ours(case: Other, base: Path, tuned: Path | None, backend: str = "numpy") -> np.ndarray:
    """tinylane's logits, in float64 where the backend has it."""
    dtype = "float64" if backend == "numpy" else "float32"
    model = tinylane.load(base, backend, dtype, adapter=tuned or False)
    at = np.arange(len(ids(case)))
    return np.asarray(model(ids(case), at, np.full(len(at), tinylane.SHARED)))[ROWS]


def theirs(case: Other, base: Path, tuned: Path) -> np.ndarray:
    """The logits of the program whose adapter it is."""
    if case.program == "mlx-lm":
        import mlx.core as mx
        from mlx_lm.tuner.utils import load_adapters
        from mlx_lm.utils import load_model

        model, _ = load_model(base)
        model.set_dtype(mx.float32)
        load_adapters(model, str(tuned))
        model.eval()
        return np.array(model(mx.array(ids(case))[None])[0].astype(mx.float32))[ROWS]
    import warnings

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, str(tuned)).eval()
    missed = [str(one.message) for one in caught if "missing" in str(one.message).lower()]
    if missed:
        raise ValueError(f"{case.name}: {missed}")
    with torch.no_grad():
        return model(torch.from_numpy(ids(case))[None]).logits[0].float().numpy()[ROWS]


def main() -> None:
    from record_parity import distance
    from safetensors.numpy import save_file

    logits = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            base, tuned = folders(case, Path(scratch))
            logits[name] = np.ascontiguousarray(theirs(case, base, tuned))
            near = distance(ours(case, base, tuned), logits[name])
            far = distance(ours(case, base, None), logits[name])
            print(f"{name:16} tinylane {near:.1e}; without the adapter {far:.1e}", flush=True)
    if "--check" not in sys.argv:
        save_file(logits, DATA)


if __name__ == "__main__":
    main()
