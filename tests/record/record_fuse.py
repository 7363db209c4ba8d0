"""Records what `transformers` computes from checkpoints that `tinylane fuse` wrote.

    python tests/record/record_fuse.py            # record tests/data/fuse.safetensors
    python tests/record/record_fuse.py --check    # compute anew, print the distances, write nothing

Needs torch and transformers (extra `parity`) and mlx-lm; `test_export.py` needs none of them. Each
family's base checkpoint is `parity_files`'s, byte for byte; the adapter's numbers come from the
same generator. While recording, mlx-lm reads every merged folder too, where it reads the family.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from parity_cases import Case
from parity_files import normal, tokens, write

import tinylane
from tinylane.checkpoints.adapter import OMEGA, save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.checkpoints.export import fuse
from tinylane.core.config import ModelConfig

DATA = Path(__file__).parents[1] / "data" / "fuse.safetensors"
SIZES = {"llama": {}, "qwen2": {"num_key_value_heads": 3}, "qwen3": {"head_dim": 16}, "mistral": {}}
CASES = {
    family: Case(
        f"fuse-{family}",
        family,
        {"rope_type": "default", "rope_theta": 5000.0},
        ("rope_theta",),  # what mlx-lm reads
        {"tie_word_embeddings": family.startswith("qwen"), **SIZES[family]},
        head="tied" if family.startswith("qwen") else "untied",
    )
    for family in SIZES
}
ROWS = np.arange(24, 32)
RANK = 3
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")


def adapter(case: Case, config: ModelConfig, folder: Path) -> Path:
    """An adapter of everything there is: Omega by layer, biases, low-rank updates with a scale."""
    draw = lambda name, shape, size: normal(f"{case.name}/{name}", shape) * size
    half = config.head_dim // 2
    tensors = {OMEGA: draw(OMEGA, (config.layers, half), 1.0)}
    for layer in range(config.layers):
        path = f"model.layers.{layer}."
        for name, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            key = f"{path}self_attn.{name}_proj.bias"
            tensors[key] = draw(key, (heads * config.head_dim,), 0.5)
        for target in TARGETS:
            out, into = config.tensors()[f"{path}{target}.weight"]
            tensors[f"{path}{target}.lora_a"] = draw(f"{path}{target}.a", (into, RANK), 0.1)
            tensors[f"{path}{target}.lora_b"] = draw(f"{path}{target}.b", (RANK, out), 0.1)
    settings = {"visibility": "joint", "scale": 2.0, "lanes": [2, 4], "prompt_lane": "own"}
    save_adapter(folder, config, tensors, settings)
    return folder


def merged(case: Case, scratch: Path, **how: str) -> tuple[Path, Path, Path]:
    """(the base, the adapter, the merged checkpoint) in a folder."""
    base = write(case, scratch / f"{case.name}")
    config = read_config(base)
    tuned = adapter(case, config, scratch / f"{case.name}-adapter")
    out = scratch / f"{case.name}-merged"
    fuse(base, out, tuned, **how)  # type: ignore[arg-type]
    return base, tuned, out


def logits_with_adapter(case: Case, base: Path, tuned: Path) -> np.ndarray:
    """tinylane's own, float64: base and adapter side by side, nothing merged."""
    model = tinylane.load(base, "numpy", "float64", adapter=tuned)
    ids = tokens(case)[: ROWS[-1] + 1]
    shared = np.full(len(ids), tinylane.SHARED)
    return np.asarray(model(ids, np.arange(len(ids)), shared))[ROWS]


def main() -> None:
    from record_parity import distance, mlx_lm_logits, transformers_logits
    from safetensors.numpy import save_file

    logits = {}
    with tempfile.TemporaryDirectory() as scratch:
        for family, case in CASES.items():
            base, tuned, out = merged(case, Path(scratch))
            ids = tokens(case)[: ROWS[-1] + 1]
            expected = transformers_logits(out, ids, np.arange(len(ids)))[ROWS]
            logits[family] = np.ascontiguousarray(expected)
            ours = distance(logits_with_adapter(case, base, tuned), expected)
            try:
                other = f"{distance(mlx_lm_logits(out, ids)[ROWS], expected):.1e}"
            except ValueError as error:
                other = f"refused ({str(error).splitlines()[0][:60]})"
            print(f"{family:8} tinylane, not merged: {ours:.1e}; mlx-lm, merged: {other}")
    if "--check" not in sys.argv:
        save_file(logits, DATA)


if __name__ == "__main__":
    main()
