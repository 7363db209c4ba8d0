"""The saved state of a training run, and parameters in the layout of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.random_weights import random_params
from tinylane.files.safetensors import TensorFile, write_tensors

STATE = "state.safetensors"


def save_state(
    path: Path, tree: Any, format: str, step: int, notes: Mapping[str, str] | None = None
) -> None:
    """Write the arrays of a tree, the step and notes to one file, whole or not at all."""
    tensors = {name: np.asarray(value) for name, value in _flat(tree)}
    write_tensors(path, tensors, {"format": format, "step": str(step), **(notes or {})})


def load_state(path: Path, tree: Any, format: str) -> tuple[Any, int, dict[str, str]]:
    """(the saved tree, its step, its notes). tree: one with the same names and shapes.

    Raises TinylaneError for a file of another format, or with other names or shapes.
    """
    expected = {name: tuple(value.shape) for name, value in _flat(tree)}
    with TensorFile(path) as file:
        step = file.metadata.get("step", "")
        if file.metadata.get("format") != format or not step.isdigit():
            raise TinylaneError(f"{path}: not a training state saved by tinylane train")
        if {name: tensor.shape for name, tensor in file.tensors.items()} != expected:
            raise TinylaneError(f"{path}: its tensors are not those of this recipe")
        saved = tree_map_with_path(lambda name, _: mx.array(file[name].read()), tree)
        return saved, int(step), dict(file.metadata)


def random_mlx_params(config: ModelConfig, seed: int) -> dict[str, mx.array]:
    """`random_params` as MLX arrays, float32; with a tied head, the head is a view."""
    params = {
        name: mx.array(np.ascontiguousarray(value))
        for name, value in random_params(config, seed).items()
    }
    if config.tied:
        params["lm_head.weight"] = params["model.embed_tokens.weight"].T
    return params


def file_layout(name: str, params: Mapping[str, mx.array]) -> np.ndarray:
    """A parameter as a checkpoint has it: float32, matrices as (out, in)."""
    value = np.asarray(params[name].astype(mx.float32))
    return value if value.ndim == 1 or name == "model.embed_tokens.weight" else value.T


def _flat(tree: Any) -> list[tuple[str, mx.array]]:
    return list(tree_flatten(tree))  # type: ignore[arg-type]
