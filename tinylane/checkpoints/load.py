"""A Hugging Face checkpoint folder, or a hub id, as a `Model` on NumPy or MLX."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from functools import partial

from tinylane.checkpoints.adapter import apply, fill_all
from tinylane.checkpoints.extras import put
from tinylane.checkpoints.peft_adapter import check_copies
from tinylane.checkpoints.plan import LoadPlan, choose_backend, choose_ops, describe, find_folder
from tinylane.checkpoints.weights import read_extra, read_mlx, read_numpy
from tinylane.core.model import Model


def load(
    source: str | os.PathLike[str],
    backend: str = "auto",
    dtype: str = "auto",
    adapter: str | os.PathLike[str] | bool | None = None,
    revision: str | None = None,
    *,
    ops: str = "auto",
    lanes: int = 1,
    prompt_tokens: int = 0,
    max_tokens: int = 0,
) -> Model:
    """Load a checkpoint: a local folder, or a hub id (with `revision`).

    backend: "numpy", "mlx", or "auto" (MLX on Apple silicon, else NumPy). dtype: "auto" is float32
    in NumPy and on MLX's CPU, the checkpoint's own on a GPU; NumPy also takes float64, MLX float16
    and bfloat16. adapter: a folder or hub id; None takes the checkpoint's own `adapter/` if it has
    one, False takes none. ops: "plain" runs the decoder's plain functions, "fast" the backend's
    versions of them; "auto" takes the plain ones where the fast ones save nothing. lanes,
    prompt_tokens, max_tokens: what is planned, for the forecast of memory.

    Warns of NaN or infinite weights. Raises TinylaneError, before anything large is read: missing
    or damaged files, other mathematics, tensors that do not fit config.json, an adapter of another
    model, a backend that is not installed, more memory than there is.
    """
    backend = choose_backend(backend)
    plan = LoadPlan(find_folder(source, revision), backend, dtype, adapter, ops)
    with plan.open() as files:
        config, dtype = replace(files.config, eos_ids=plan.eos_ids), plan.dtype(files)
        needs = plan.forecast(files, lanes, prompt_tokens, max_tokens)
        needs.check(str(source))
        tuned = plan.adapter(files.config)
        tokenizer = plan.tokenizer(config)
        if files.untied:
            warnings.warn(
                f"{plan.folder}: tie_word_embeddings is true, but lm_head.weight differs from the "
                "embedding; both are used",
                stacklevel=2,
            )
        damaged: list[str] = []
        if backend == "numpy":
            params = read_numpy(files, dtype, damaged)
        else:
            params = read_mlx(files, dtype, damaged, plan.keeps_packed)
        if files.extra:
            put(params, read_extra(files, damaged), backend, dtype)
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            warnings.warn(
                f"{plan.folder}: NaN or infinite weights in {', '.join(damaged[:3])}{more}",
                stacklevel=2,
            )
        if tuned is not None and tuned.copies:
            check_copies(tuned.folder, tuned.copies, files)
        if tuned is not None and tuned.tensors:
            apply(params, tuned, files, backend, dtype)
    summary = None if tuned is None else tuned.summary  # the report must not keep its tensors
    if tokenizer is not None:
        config = replace(config, eos_ids=tuple(sorted({*config.eos_ids, *tokenizer.eos_ids})))
        tokenizer.raw = tuned is not None and tuned.raw
    model = Model(
        config,
        params,
        backend=backend,
        dtype=dtype,
        tokenizer=tokenizer,
        sampling=plan.sampling,
        identity=plan.identity,
        describe=partial(describe, plan, files, summary, tokenizer, needs),
        ops=choose_ops(ops, backend, config, plan.keeps_packed and files.native),
    )
    if tuned is not None:
        model.lane_rope, model.visibility, model.lag = tuned.lane_rope, tuned.visibility, tuned.lag
        model.identity, model.task = tuned.identity(plan.identity), tuned.task
        if tuned.lane_prompt:
            model.lane_prompts = partial(fill_all, tuned.lane_prompt)
    return model
