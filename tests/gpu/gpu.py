"""MLX on a GPU: one part per process, results as lines of JSON on standard output.

    python tests/gpu/gpu.py PART [ARGUMENT ...]
    TINY=1 python tests/gpu/gpu.py PART ...       small sizes, to try the parts on a CPU

    make FOLDER                  a checkpoint of random weights (of Qwen3-0.6B's shape)
    quantize FOLDER TO           the same by mlx-lm's own 4-bit quantization; needs mlx-lm
    correct FOLDER DTYPE ...     every mode, against NumPy in float32 on the same file
    game                         the model inside writes what NumPy writes
    seeds                        the same seed draws the same tokens, alone or among others
    threads                      a decoding begun in one thread goes on in another
    copies                       is a buffer that a running pass reads copied when it is written?
    speed FOLDER DTYPE ahead|late    step times; with passes built early or not
    mlxlm FOLDER DTYPE|as-is     step times of mlx-lm on the same file; needs mlx-lm

`run.sh` runs them all on a machine with an NVIDIA card. Says nothing about Metal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import tinylane
from tinylane import Decoding, LaneMask, LaneRoPE, Sampler
from tinylane.commands.bench_shapes import shape, write_random
from tinylane.commands.common import embedded
from tinylane.core import pipeline

TINY = bool(os.environ.get("TINY"))
SHAPE = "tiny" if TINY else "Qwen3-0.6B"
PROMPTS = (32,) if TINY else (512, 4096)  # tokens
LANES = (1, 4, 8, 16)
STEPS = 8 if TINY else 64
REPEATS = 1 if TINY else 2
PROBLEM = "cups ABCD, swap 3-4 2-3 2-4 3-4 2-3 2-4 3-4 1-3 1-2 1-3 1-3 3-4 3-4 1-2 1-4 2-4: where?"
GREEDY, QWEN3 = Sampler(temperature=0), Sampler(temperature=0.6, top_k=20, top_p=0.95)
SAMPLERS = {
    "greedy": GREEDY,
    "temperature": Sampler(temperature=0.7),
    "qwen3": QWEN3,
    "top_p": Sampler(temperature=0.6, top_p=0.95),
    "min_p": Sampler(temperature=0.6, min_p=0.05),
}


def say(**values: Any) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


def random_tokens(vocab: int, count: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(0).integers(0, vocab, count)]


# Checkpoints.


def make(folder: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    write_random(shape(SHAPE), Path(folder))
    say(wrote=folder)


def quantize(folder: str, to: str) -> None:
    """Without a tokenizer, which these weights do not have."""
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    model, config = quantize_model(*load_model(Path(folder)), 64, 4)
    Path(to).mkdir(exist_ok=True)
    save_model(Path(to), model)
    save_config(config, Path(to) / "config.json")
    say(wrote=to)


# Is it right?


def modes(model: Any, lanes: int, slot: int) -> Iterator[tuple[str, Any, Any]]:
    """Name, LaneRoPE and LaneMask of every mode."""
    yield "independent", *tinylane.mode("independent", model, lanes, slot=slot)
    yield "joint", *tinylane.mode("joint", model, lanes, slot=slot, omega="ntk")
    in_lane_0 = tinylane.mode("joint", model, lanes, slot=slot, omega="ntk", prompt_lane=0)
    yield "joint, prompt in lane 0", *in_lane_0
    yield "group_think", *tinylane.mode("group_think", model, lanes, slot=slot)
    yield "hogwild", *tinylane.mode("hogwild", model, lanes, slot=slot)


def correct(folder: str, *dtypes: str) -> None:
    """Largest difference of the logits in standard deviations, for one pass over all rows and for
    one pass a step through the cache; share of rows whose best token is the same."""
    reference = tinylane.load(folder, backend="numpy", dtype="float32", adapter=False)
    prompt, lanes, length = (24, 3, 6) if TINY else (200, 4, 16)
    tokens = random_tokens(reference.config.vocab, prompt + lanes * length)
    positions = np.concatenate([np.arange(prompt), prompt + np.repeat(np.arange(length), lanes)])
    lane_of = np.concatenate([np.full(prompt, tinylane.SHARED), np.tile(np.arange(lanes), length)])
    rows = tokens, positions, lane_of
    for dtype in dtypes:
        model = tinylane.load(folder, backend="mlx", dtype=dtype, adapter=False)
        for name, rope, mask in modes(reference, lanes, length):
            expected = np.asarray(reference(*rows, rope, mask))
            scale = expected.std()
            whole = as_numpy(model(*rows, rope, mask))
            cache, parts = model.new_cache(rope, mask), []
            ends = [prompt + lanes * step for step in range(length + 1)]
            for start, end in zip([0, *ends], ends, strict=False):  # as decoding does
                some = (part[start:end] for part in rows)
                parts.append(as_numpy(model(*some, cache=cache)))
            steps = np.concatenate(parts)
            say(
                dtype=dtype,
                mode=name,
                one_pass=float(abs(whole - expected).max() / scale),
                steps=float(abs(steps - expected).max() / scale),
                same_best=float((steps.argmax(-1) == expected.argmax(-1)).mean()),
            )


def as_numpy(logits: Any) -> np.ndarray:
    return np.asarray(logits.astype(mx.float32))


def game() -> None:
    texts: list[str] = []
    for backend, dtype in (
        ("numpy", "float32"), ("mlx", "float32"), ("mlx", "bfloat16"), ("mlx", "float16")
    ):  # fmt: skip
        model = tinylane.load(embedded(), backend=backend, dtype=dtype)
        starts = [f"{k}/4" for k in (1, 2, 3, 4)]
        result = tinylane.generate(model, PROBLEM, lanes=4, lane_prompts=starts, max_tokens=10)
        texts = texts or result.texts  # NumPy's
        say(backend=backend, dtype=dtype, same=result.texts == texts)


def seeds() -> None:
    vocab = 151936
    logits = (np.random.default_rng(1).standard_normal((8, vocab)) * 3).astype(np.float32)
    uniforms = np.random.default_rng(2).random(8)
    for name, sampler in SAMPLERS.items():
        by_numpy, _ = sampler.draw(logits, uniforms, [[]] * 8)
        by_mlx, _ = sampler.draw(mx.array(logits), uniforms, [[]] * 8)
        alone, _ = sampler.draw(mx.array(logits[:1]), uniforms[:1], [[]])
        seconds = []
        for _ in range(REPEATS * 5):
            again = mx.array(logits)
            mx.eval(again)
            began = time.perf_counter()
            mx.eval(sampler.draw(again, uniforms, [[]] * 8))
            seconds.append(time.perf_counter() - began)
        say(
            sampler=name,
            same_as_numpy=int((np.asarray(by_mlx) == np.asarray(by_numpy)).sum()),
            of=8,
            same_alone=int(alone[0]) == int(by_mlx[0]),
            ms=milliseconds(min(seconds)),
        )


def threads() -> None:
    model = tinylane.load(embedded(), backend="mlx")
    decoding = Decoding(
        model, "cups ABCD, swap 1-3 2-4: where?", 2, lane_prompts=["1/2", "2/2"], max_tokens=10
    )
    outcome = []

    def work() -> None:
        try:
            outcome.append(f"{sum(1 for _ in decoding)} steps")
        except Exception as error:  # whatever it is, it is the result
            outcome.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    say(in_another_thread=outcome)


def copies() -> None:
    """MiB more than before, where a pass still reads a buffer and where it is done."""
    heads, rows, width = 8, 512 if TINY else 65536, 128
    buffer = mx.zeros((heads, rows, width))
    work = mx.random.normal((512, 512) if TINY else (8192, 8192))
    mx.eval(buffer, work)
    for running in (False, True):
        mx.synchronize()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        reads = (buffer[:, : rows - 8, :] * 1.0).sum() + (work @ work @ work).sum()
        (mx.async_eval if running else mx.eval)(reads)
        buffer[:, rows - 4 : rows - 3, :] = mx.ones((heads, 1, width))
        mx.eval(buffer)
        mx.synchronize()
        say(
            written="while the pass runs" if running else "when the pass is done",
            extra_mib=(mx.get_peak_memory() - before) >> 20,
            buffer_mib=buffer.nbytes >> 20,
        )


# How long does it take?


def speed(folder: str, dtype: str, when: str) -> None:
    if when == "late":
        pipeline.SMALL = 1 << 62  # no model is large enough for a pass built early
    model = tinylane.load(folder, backend="mlx", dtype=dtype, adapter=False)
    for length in PROMPTS:
        prompt = random_tokens(model.config.vocab, length)
        for lanes, sampler in [*((n, "greedy") for n in LANES), (8, "qwen3")]:
            for mode, (rope, mask) in modes_to_time(model, lanes).items():
                decode = partial(
                    Decoding, model, prompt, lanes, max_tokens=STEPS, sampler=SAMPLERS[sampler],
                    lane_rope=rope, lane_mask=mask,
                )  # fmt: skip
                say(what="tinylane", dtype=dtype, passes=when, prompt=length, lanes=lanes,
                    mode=mode, sampler=sampler, **timed(decode))  # fmt: skip


def modes_to_time(model: Any, lanes: int) -> dict[str, tuple[LaneRoPE, LaneMask]]:
    """Independent lanes; joint ones, for which prompt keys are turned once or for every lane."""
    independent = LaneRoPE.none(model.theta), LaneMask.independent(lanes)
    if lanes == 1:
        return {"independent": independent}
    joint = {
        f"joint, prompt in {where}": (
            LaneRoPE.ntk(model.theta, 64, lanes, lane),
            LaneMask.joint(lanes),
        )
        for where, lane in (("lane 0", 0), ("each lane", "own"))
    }
    return {"independent": independent, **joint}


def mlxlm(folder: str, dtype: str) -> None:
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.utils import load_model

    model, config = load_model(Path(folder))
    if dtype != "as-is":
        model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())

    def decode(prompt: list[int], lanes: int) -> Iterator[Any]:
        if lanes == 1:
            yield from generate_step(mx.array(prompt), model, max_tokens=STEPS)
            return
        batch = BatchGenerator(model, completion_batch_size=lanes, prefill_batch_size=lanes)
        batch.insert([prompt] * lanes, [STEPS] * lanes)
        while step := batch.next_generated():
            yield step
        batch.close()

    for length in PROMPTS:
        prompt = random_tokens(config["vocab_size"], length)
        for lanes in LANES:
            times = timed(partial(decode, prompt, lanes))
            say(what="mlx-lm", dtype=dtype, prompt=length, lanes=lanes, **times)


def timed(begin: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds: the median step and the first one, prompt included, of the best of the runs."""
    best = (float("inf"), float("inf"))
    mx.reset_peak_memory()
    for _ in range(REPEATS):
        began = time.perf_counter()
        marks = [time.perf_counter() for _ in begin()]
        best = min(best, (float(np.median(np.diff(marks))), marks[0] - began))
    step, first = best
    peak = mx.get_peak_memory() >> 20
    return {"step_ms": milliseconds(step), "first_ms": milliseconds(first), "peak_mib": peak}


def milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)


PARTS: dict[str, Callable[..., None]] = {
    part.__name__: part
    for part in (make, quantize, correct, game, seeds, threads, copies, speed, mlxlm)
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(f"{sys.argv[1:2]}: no such part; expected one of {', '.join(PARTS)}")
    part, *arguments = sys.argv[1:]
    names = ("MLX_ENABLE_TF32", "MLX_CUDA_USE_CUDNN_SDPA")
    say(
        part=part,
        arguments=arguments,
        device=str(mx.default_device()),
        mlx=mx.__version__,
        **{name: os.environ.get(name) for name in names},
    )
    PARTS[part](*arguments)


if __name__ == "__main__":
    main()
