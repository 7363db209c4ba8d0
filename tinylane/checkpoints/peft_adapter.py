"""LoRA adapters of PEFT: their names and settings in the terms of `adapter`.

A folder of PEFT has `adapter_config.json` with a `peft_type`, and `adapter_model.safetensors` with
`base_model.model.PATH.lora_A.weight` (r, in), `lora_B.weight` (out, r) and, for DoRA,
`lora_magnitude_vector` (out,). Read are LoRA (with rank-stabilised scales, patterns of ranks and
alphas) and DoRA of the decoder's layers and of the output head, and trained biases. An adapter of
the head has a copy of the head itself beside it, and `modules_to_save` makes others: a copy that is
the checkpoint's is left out, one that was trained is refused. What else PEFT has is refused by
name: other methods, updates of embeddings, and starts that change the checkpoint's own weights
(PiSSA, OLoRA, ...). Compared with peft 0.21.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import Fields
from tinylane.files.safetensors import TensorFile, widen

if TYPE_CHECKING:
    from tinylane.checkpoints.weights import WeightFiles

TENSORS = "adapter_model.safetensors"
_PARTS = {
    ".lora_A.weight": ".lora_a",
    ".lora_B.weight": ".lora_b",
    ".lora_magnitude_vector": ".m",
    ".base_layer.bias": ".bias",
    ".base_layer.weight": ".weight",
}
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"  # what PEFT may copy
# Settings that change nothing of what an adapter computes once it is trained; those that `scale`
# follows; those that the tensors' names and shapes show.
_READ = (
    "auto_mapping base_model_name_or_path revision peft_type peft_version task_type inference_mode "
    "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save bias "
    "lora_dropout fan_in_fan_out init_lora_weights loftq_config eva_config corda_config "
    "lora_ga_config megatron_core qalora_group_size runtime_config "
    "r lora_alpha rank_pattern alpha_pattern use_rslora use_dora"
)
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # which leave the base as it is
MERGE = "merge it with PEFT (merge_and_unload), or train it without"
LONGEST = 200  # characters of a pattern


def check(read: Fields) -> None:
    """Raise TinylaneError, by name, for settings that make it something else than LoRA or DoRA."""
    if read.text("peft_type").upper() != "LORA":
        read.fail("peft_type", "LORA; PEFT's other methods are not implemented")
    start = read.get("init_lora_weights")
    if not any(start is one or (isinstance(one, str) and start == one) for one in _STARTS):
        read.fail("init_lora_weights", f"one that leaves the checkpoint's weights alone; {MERGE}")
    for key in read.raw:
        if read.raw[key] and key not in _READ.split():
            read.fail(key, f"nothing there: it is not plain LoRA; {MERGE}")


def our_name(name: str) -> str:
    """A tensor's name in `adapter`'s terms; as it is, without PEFT's prefix, where there is none.

    >>> our_name("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    'model.layers.0.self_attn.q_proj.lora_a'
    """
    name = name.removeprefix("base_model.model.")
    for theirs, ours in _PARTS.items():
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name


def scale(read: Fields, path: str, rank: int) -> float:
    """The factor of a layer's update: alpha / r, or alpha / sqrt(r) where it is rank-stabilised.

    Raises TinylaneError where `rank` is not what the settings say.
    """
    said = _of(read, "rank_pattern", path, read.whole("r", 1, default=8))
    if said != rank:
        raise TinylaneError(f"{read.source}: rank of {path} is {show(said, 40)}; the file's {rank}")
    alpha = _of(read, "alpha_pattern", path, read.real("lora_alpha", 8.0))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or abs(alpha) > 1e6:
        raise TinylaneError(
            f"{read.source}: alpha of {path} is {show(alpha, 40)}; expected a number"
        )
    return alpha / (math.sqrt(rank) if read.flag("use_rslora", False) else rank)


def _of(read: Fields, key: str, path: str, default: Any) -> Any:
    """The value of the first pattern that the end of the path matches, as PEFT looks it up."""
    patterns = read.fields(key).raw if read.has(key) else {}
    for pattern, value in patterns.items():
        # An expression out of a file: no more than what cannot keep the search busy.
        plain = re.sub(r"\.\*|\\d\+|\[0-9\]\+", "", pattern)
        if len(pattern) > LONGEST or len(pattern) - len(plain) > 9 or set("*+?{") & set(plain):
            raise TinylaneError(f"{read.source}: {key} {show(pattern)} is not implemented")
        try:
            match = re.match(rf"(.*\.)?({pattern})$", path)
        except re.error as error:
            raise TinylaneError(f"{read.source}: {key} {show(pattern)}: {error}") from None
        if match:
            return value
    return default


def refuse_rest(names: Iterable[str], source: str) -> None:
    """Raise TinylaneError for tensors that are no part of LoRA, DoRA or a bias, by name."""
    for name in names:
        if name in (HEAD, TABLE):
            continue
        if not name.endswith((".lora_a", ".lora_b", ".m", ".bias")) or ".lora_B" in name:
            what = "a whole layer" if name.endswith(".weight") else "not plain LoRA"
            raise TinylaneError(f"{source}: {show(name)} is {what}; {MERGE}")


def check_copies(folder: Path, copies: Iterable[tuple[str, str]], files: WeightFiles) -> None:
    """Raise TinylaneError unless these tensors of the adapter, (our name, its name), are those of
    the checkpoint, to what rounding in 16 bits changes. Those of a packed layer are not compared.
    """
    for ours, theirs in copies:
        source = ours if ours in files.tensors or ours != HEAD else TABLE
        if files.packings.get(source.removesuffix(".weight")) is not None:
            continue
        with TensorFile(folder / TENSORS) as file:
            tensor = file[theirs]
            for start, rows in files.chunks(source):
                copy = widen(tensor.read(start, start + len(rows)), tensor.dtype)
                size = np.maximum(np.abs(copy), np.abs(rows)) + 1e-6
                if not (np.abs(copy - rows) <= size * 2.0**-7).all():  # NaN too
                    raise TinylaneError(
                        f"{folder / TENSORS}: {show(theirs)} is a whole layer that was trained, "
                        f"and not the checkpoint's; {MERGE}"
                    )
