"""Records the logits that the parity tests expect, from `transformers` and (quantized) `mlx-lm`.

    python tests/record/record_parity.py            # record tests/data/parity.safetensors and .json
    python tests/record/record_parity.py --check    # record anew, compare, write nothing
    python tests/record/record_parity.py --table    # tinylane against what is recorded, in Markdown

Recording needs torch and transformers (extra `parity`) and mlx-lm; the table needs neither. All in
float32, eager attention. What else is checked while recording, case by case:
- every tensor of the file is one that transformers expects, and the other way round;
- each spelling of the RoPE settings gives transformers the same bits;
- the frequencies equal the published formulas in float64;
- mlx-lm agrees, where it has the case;
- each control, a wrong reading of the config, moves the logits by far more than the bound.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from parity_cases import BOUND, CASES, DENSE, DROP, ROWS, Case
from parity_files import (
    Tensor,
    config_of,
    decoded,
    digest,
    packing,
    positions,
    safetensors,
    tensors,
    tokens,
    write,
)

# On GPUs that have it MLX rounds float32 products to ten bits unless told not to.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

DATA = Path(__file__).parents[1] / "data"
LOGITS, ABOUT = DATA / "parity.safetensors", DATA / "parity.json"
KINDS_OF_MODEL = (("numpy", "float32"), ("numpy", "float64"), ("mlx", "float32"))


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    """max |difference| over the standard deviation of what is expected; infinite if not finite."""
    gap = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64)).max()
    return float(gap / expected.std(dtype=np.float64)) if np.isfinite(gap) else math.inf


def recorded() -> dict[str, np.ndarray]:
    """(len(ROWS), vocab) float32 logits by case."""
    from safetensors.numpy import load_file

    return load_file(LOGITS)


def about() -> dict[str, Any]:
    """Versions, and by case the digest of the checkpoint and what was checked."""
    return json.loads(ABOUT.read_text())


# --------------------------------------------------------------------------------- references


def frequencies(config: dict[str, Any]) -> np.ndarray:
    """theta, float64, from the published formulas: a second reading beside transformers' own."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if "head_dim" not in config and config["model_type"] == "qwen3":
        dim = 128
    context = config.get("original_max_position_embeddings") or rope.get(
        "original_max_position_embeddings", config["max_position_embeddings"]
    )
    out = []
    for d in range(dim // 2):
        theta = float(base) ** (-2.0 * d / dim)
        if kind == "linear":
            theta /= rope["factor"]
        elif kind == "llama3":
            turns = context * theta / (2 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            keep = min(max((turns - low) / (high - low), 0.0), 1.0)
            theta *= keep + (1.0 - keep) / rope["factor"]
        elif kind == "yarn":
            edges = [
                dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))
                for turns in (rope.get("beta_fast", 32), rope.get("beta_slow", 1))
            ]
            if rope.get("truncate", True):
                edges = [math.floor(edges[0]), math.ceil(edges[1])]
            low, high = max(edges[0], 0), min(edges[1], dim - 1)
            stretch = min(max((d - low) / (high - low), 0.0), 1.0)
            theta *= stretch / rope["factor"] + (1.0 - stretch)
        out.append(theta)
    return np.array(out)


def transformers_logits(
    folder: Path, ids: np.ndarray, at: np.ndarray, exact_angles: bool = False
) -> np.ndarray:
    """(len(ids), vocab) float32 logits of one causal pass at the positions `at`.

    `exact_angles`: the model's cos and sin come from float64 angles, rounded once.
    Raises ValueError where the file and the model do not have the same tensors.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {k: v for k, v in loading.items() if v}
    if wrong:
        raise ValueError(f"{folder.name}: transformers and the file disagree: {wrong}")
    rotary = model.model.rotary_emb
    theta = frequencies(json.loads((folder / "config.json").read_text()))
    if not np.allclose(rotary.inv_freq.numpy(), theta, rtol=2e-6, atol=0):
        raise ValueError(f"{folder.name}: frequencies differ: {rotary.inv_freq} {theta}")
    if exact_angles:

        def forward(x: Any, position_ids: Any) -> tuple[Any, Any]:
            angles = position_ids[..., None].double() * torch.from_numpy(theta)
            angles = torch.cat((angles, angles), dim=-1)
            scale = rotary.attention_scaling
            return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

        rotary.forward = forward
    # A mask of our own: with gaps in the positions transformers would see packed sequences.
    n = len(ids)
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(ids)[None],
            position_ids=torch.from_numpy(at)[None],
            attention_mask=mask,
            use_cache=False,
        )
    return out.logits[0].float().numpy()


def mlx_lm_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    """(len(ids), vocab) float32 logits of mlx-lm's own model at positions 0, 1, 2, ..."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array(ids)[None])[0].astype(mx.float32))


def mlx_lm_reads(case: Case) -> bool:
    """Whether MLX has kernels for how a quantized case is packed."""
    return case.quant is not None and case.quant["group_size"] in (32, 64, 128)


def mlx_lm_folder(case: Case, folder: Path) -> Path | None:
    """The case in the words that mlx-lm reads, or None where it has not the mathematics."""
    rope = case.rope
    unread = {"attention_factor", "truncate"} & set(rope)
    mscale = "mscale" in rope and "mscale_all_dim" not in rope
    if case.head in ("disputed", "only"):
        return None
    if case.far or unread or mscale or "original_max_position_embeddings" in case.config:
        return None
    config = config_of(case)
    if case.family == "qwen2" and config.get("head_dim"):
        return None
    if case.family == "qwen3" and config.get("attention_bias"):
        return None
    said = {
        "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "tie_word_embeddings": case.head != "untied",
    }
    if case.family == "qwen3":
        said["head_dim"] = config.get("head_dim", 128)
    full = {"rope_theta": 10000.0, **rope}
    if full.get("original_max_position_embeddings") is DROP:
        full["original_max_position_embeddings"] = config["max_position_embeddings"]
    plain = full["rope_type"] == "default"
    spelling = "rope_theta" if plain else "rope_scaling.type"
    return write(replace(case, rope=full), folder, spelling, said)


def dequantized(case: Case) -> dict[str, Tensor]:
    """The quantized case's tensors as dense float32, by a bit-by-bit reading of MLX's layout."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    table = np.concatenate([table, -table])
    out: dict[str, Tensor] = {}
    held = tensors(case)
    for name, tensor in held.items():
        path, _, last = name.rpartition(".")
        if f"{path}.scales" not in held:
            out[name] = ("F32", tensor[1], decoded(tensor).astype("<f4").tobytes())
            continue
        if last != "weight":
            if last == "bias":
                out[name] = ("F32", tensor[1], decoded(tensor).astype("<f4").tobytes())
            continue
        how = packing(case, path)
        assert how is not None
        bits, group, rows = how["bits"], how["group_size"], tensor[1][0]
        stream = np.unpackbits(np.frombuffer(tensor[2], np.uint8), bitorder="little")
        stream = stream.reshape(rows, -1, bits)
        q = (stream.astype(np.int64) << np.arange(bits)).sum(-1)
        scales = np.repeat(decoded(held[f"{path}.scales"]), group, axis=1)
        if how.get("mode") == "mxfp4":
            w = np.ldexp(table[q], scales.astype(np.int64) - 127)
        else:
            w = q * scales + np.repeat(decoded(held[f"{path}.biases"]), group, axis=1)
        out[name] = ("F32", w.shape, w.astype("<f4").tobytes())
    return out


# ---------------------------------------------------------------------------------- recording


def record_case(case: Case, scratch: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The expected rows of a case and what was checked on the way; raises where a check fails."""
    folder = write(case, scratch / case.name)
    ids, at = tokens(case), positions(case)
    notes: dict[str, Any] = {"sha256": digest(folder)}
    if case.quant is not None:
        plain = write(replace(case, quant=None), scratch / f"{case.name}-dense")
        for file in plain.glob("*.safetensors*"):
            file.unlink()
        (plain / "model.safetensors").write_bytes(safetensors(dequantized(case)))
        logits = dense = transformers_logits(plain, ids, at)
        if mlx_lm_reads(case):
            logits = mlx_lm_logits(folder, ids)
            notes["transformers on dequantized"] = distance(dense[ROWS], logits[ROWS])
            expect_below(case, notes, "transformers on dequantized")
        return logits[ROWS], {**notes, "std": float(logits[ROWS].std())}
    exact = transformers_logits(folder, ids, at, exact_angles=True)
    own = transformers_logits(folder, ids, at)
    logits = exact if case.far else own
    notes |= {"std": float(logits[ROWS].std()), "angles": distance(own[ROWS], exact[ROWS])}
    for spelling in case.spellings[1:]:
        again = transformers_logits(
            write(case, scratch / f"{case.name}-{spelling}", spelling), ids, at, case.far
        )
        if not np.array_equal(again, logits):
            raise ValueError(f"{case.name}: {spelling} is read differently by transformers")
    other = mlx_lm_folder(case, scratch / f"{case.name}-mlx-lm")
    if other is not None:
        notes["mlx-lm"] = distance(mlx_lm_logits(other, ids)[ROWS], logits[ROWS])
        expect_below(case, notes, "mlx-lm")
    notes["controls"] = {}
    for control, edits in case.controls.items():
        wrong = write(case, scratch / f"{case.name}-{control}", None, edits)
        moved = distance(transformers_logits(wrong, ids, at, case.far)[ROWS], logits[ROWS])
        notes["controls"][control] = moved
        if moved < 100 * BOUND:
            raise ValueError(f"{case.name}: '{control}' moves the logits by {moved:.1e} only")
    return logits[ROWS], notes


def expect_below(case: Case, notes: dict[str, Any], what: str) -> None:
    """Raises ValueError where two references do not agree within the bound."""
    if not notes[what] <= BOUND:
        raise ValueError(f"{case.name}: {what} is {notes[what]:.1e} away from what is recorded")


def record(names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Logits and notes of the named cases."""
    import mlx.core as mx
    import mlx_lm
    import torch
    import transformers

    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "mlx": mx.__version__,
        "mlx-lm": mlx_lm.__version__,
        "numpy": np.__version__,
    }
    logits, notes = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            logits[name], notes[name] = record_case(CASES[name], Path(scratch))
            worst = {k: v for k, v in notes[name].items() if k != "sha256"}
            print(name, json.dumps(worst, default=float), flush=True)
    return logits, {"versions": versions, "bound": BOUND, "cases": notes}


def save(logits: dict[str, np.ndarray], notes: dict[str, Any]) -> None:
    """Both files, each written beside itself and moved into place."""
    held: dict[str, Tensor] = {
        name: ("F32", rows.shape, rows.astype("<f4").tobytes()) for name, rows in logits.items()
    }
    DATA.mkdir(exist_ok=True)
    text = json.dumps(rounded(notes), indent=1) + "\n"
    for path, data in ((LOGITS, safetensors(held)), (ABOUT, text.encode())):
        part = path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, path)


def rounded(value: Any) -> Any:
    """Floats to two significant figures, for a file that people read."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.2g}") if isinstance(value, float) else value


# -------------------------------------------------------------------------------------- table


def tinylane_logits(model: Any, case: Case, lane: int) -> np.ndarray:
    """(len(ROWS), vocab): the recorded rows of one pass with every token in `lane`."""
    ids = tokens(case)
    return np.asarray(model(ids, positions(case), np.full(len(ids), lane), rows=ROWS))


def table(names: list[str]) -> Iterator[str]:
    """Lines of the parity table; the last one has the worst of each column."""
    import tinylane

    logits, notes = recorded(), about()
    heads = [f"{backend} {dtype}" for backend, dtype in KINDS_OF_MODEL]
    yield f"| case | file | reference | {' | '.join(heads)} |"
    yield "|---|---|---|" + "---|" * len(heads)
    worst = [0.0] * len(heads)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            case = CASES[name]
            folder = write(case, Path(scratch) / name)
            errors = []
            for backend, dtype in KINDS_OF_MODEL:
                model = tinylane.load(folder, backend=backend, dtype=dtype)
                errors.append(
                    max(distance(tinylane_logits(model, case, m), logits[name]) for m in (-1, 0))
                )
            worst = [max(pair) for pair in zip(worst, errors, strict=True)]
            shards = f" x {case.shards}" if case.shards > 1 else ""
            source = "mlx-lm" if mlx_lm_reads(case) else "transformers"
            source += ", float64 angles" if case.far else ""
            cells = " | ".join(f"{e:.1e}" for e in errors)
            yield f"| {name} | {case.dtype}{shards} | {source} | {cells} |"
    said = ", ".join(f"{k} {v}" for k, v in notes["versions"].items())
    yield (
        f"| worst of {len(names)} | {said} | bound {BOUND:.0e} | "
        + " | ".join(f"**{e:.1e}**" for e in worst)
        + " |"
    )


def main() -> int:
    """0, or 1 where `--check` finds that the references have moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    parser.add_argument("--table", action="store_true", help="print tinylane's errors")
    parser.add_argument("--case", action="append", help="this case only (may be repeated)")
    args = parser.parse_args()
    names = args.case or list(CASES)
    if args.table:
        for line in table(names):
            print(line, flush=True)
        return 0
    logits, notes = record(names)
    if args.check or args.case:
        known = recorded() if LOGITS.exists() else {}
        gaps = {name: distance(logits[name], known[name]) for name in names if name in known}
        print("largest change", max(gaps.values(), default=math.inf))
        return int(not gaps or max(gaps.values()) > BOUND)
    save(logits, notes)
    size = LOGITS.stat().st_size + ABOUT.stat().st_size
    print(f"{len(DENSE)} dense and {len(names) - len(DENSE)} quantized cases, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
