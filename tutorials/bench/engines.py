"""The contestants: each loads a checkpoint folder, then decodes one case after another.

A case is `lanes` generations of one prompt of token ids, `count` tokens each, greedy, with no end
token. `run` returns seconds to the first token, seconds of every later step, and lane 0's tokens.
Peers decode a batch of equal prompts: they cannot share one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE

# Peer -> the modules it needs and how to get them.
PEERS: dict[str, tuple[tuple[str, ...], str]] = {
    "transformers": (("transformers", "torch"), "pip install torch transformers"),
    "mlx-lm": (("mlx_lm",), "pip install mlx-lm"),
    "llama3.np": ((), ""),
}
MODES = ("independent", "joint")


@dataclass(frozen=True)
class Case:
    """What is decoded. prompt_lane: of joint lanes, "own" or 0 (method, section 2.1)."""

    prompt: list[int]
    lanes: int
    count: int
    mode: str = "independent"
    prompt_lane: Any = "own"


@dataclass
class Run:
    """What one decoding took."""

    first: float
    steps: list[float]
    tokens: list[int]


def check_peer(name: str) -> None:
    """Raises TinylaneError unless `name` is a peer and is installed."""
    if name not in PEERS:
        raise TinylaneError(f"--against {name!r}; expected {', '.join(PEERS)}")
    modules, install = PEERS[name]
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise TinylaneError(f"--against {name}: {missing[0]} is not installed: {install}")


class Engine:
    """A loaded checkpoint. versions: of the libraries that do the work."""

    versions: dict[str, str]

    def run(self, case: Case) -> Run:
        """Decode one case."""
        raise NotImplementedError

    def reset(self) -> None:
        """Before a case is measured: begin a new peak of memory."""

    def peak(self) -> int:
        """Bytes that the library's own allocator held at most, or 0."""
        return 0


class Tinylane(Engine):
    """tinylane, on one of its backends. `model` has neither tokenizer nor end tokens."""

    def __init__(self, folder: Path, backend: str, dtype: str, adapter: Any = None) -> None:
        from tinylane.checkpoints.load import load

        model = load(folder, backend=backend, dtype=dtype, adapter=adapter)
        self.model = replace(
            model, tokenizer=None, config=replace(model.config, eos_ids=()), sampling=None
        )
        library = "numpy" if backend == "numpy" else "mlx"
        self.versions = {library: version(library)}

    def decoding(self, case: Case) -> Any:
        """The case, prefilled (MLX: as a graph). Joint lanes of a model without Omega: `ntk`."""
        from tinylane.core.decoding import Decoding
        from tinylane.core.sampling import Sampler

        rope, joint = self.model.lane_rope, case.mode == "joint"
        if joint and rope is None:
            theta = self.model.theta
            rope = LaneRoPE.ntk(theta, case.count, max(case.lanes, 2), case.prompt_lane)
        named = LaneMask.joint if joint else LaneMask.independent
        return Decoding(
            self.model,
            case.prompt,
            case.lanes,
            max_tokens=case.count,
            sampler=Sampler(temperature=0),
            lane_rope=rope,
            lane_mask=named(case.lanes),
        )

    def run(self, case: Case) -> Run:
        clock = time.perf_counter
        began = clock()
        decoding = self.decoding(case)
        decoding.step()
        marks = [clock()]
        for _ in decoding:
            marks.append(clock())
        return _run(began, marks, decoding.lanes[0].tokens)

    def step_bytes(self, case: Case) -> int:
        """Bytes a decoding step reads in the middle of a case: all weights once, and the cache.

        Of an embedding that is not also the head only the rows of the tokens are read: not counted.
        """
        params, c = self.model.params, self.model.config
        skip = "model.embed_tokens."
        weights = sum(w.nbytes for name, w in params.items() if not name.startswith(skip))
        item = params["model.norm.weight"].itemsize
        row = 2 * c.layers * c.kv_heads * c.head_dim * item
        return weights + row * int(len(case.prompt) + case.lanes * case.count / 2)

    def reset(self) -> None:
        if self.model.backend == "mlx":
            import mlx.core as mx

            mx.reset_peak_memory()

    def peak(self) -> int:
        if self.model.backend == "mlx":
            import mlx.core as mx

            return mx.get_peak_memory()
        return 0


class Transformers(Engine):
    """`generate` of transformers on torch, on the CPU, with a clock where its streamer is."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        kind = getattr(torch, dtype)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
        settings = self.model.generation_config
        settings.eos_token_id, settings.pad_token_id = None, 0
        settings.do_sample, settings.temperature, settings.top_p, settings.top_k = (
            False,
            None,
            None,
            None,
        )
        self.versions = {"torch": version("torch"), "transformers": version("transformers")}

    def run(self, case: Case) -> Run:
        import torch
        from transformers.generation.streamers import BaseStreamer

        marks: list[float] = []

        class Clock(BaseStreamer):
            def put(self, value: Any) -> None:
                marks.append(time.perf_counter())

            def end(self) -> None:
                pass

        ids = torch.tensor([case.prompt] * case.lanes)
        began = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=case.count,
                min_new_tokens=case.count,
                do_sample=False,
                streamer=Clock(),
            )
        return _run(began, marks[1:], out[0, len(case.prompt) :].tolist())  # the prompt is first


class MlxLm(Engine):
    """mlx-lm: `generate_step` for one lane, its `BatchGenerator` for more."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load_model

        self.model, _ = load_model(folder)
        self.model.set_dtype(getattr(mx, dtype))
        mx.eval(self.model.parameters())
        mx.clear_cache()
        self.versions = {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}

    def run(self, case: Case) -> Run:
        import mlx.core as mx
        from mlx_lm.generate import BatchGenerator, generate_step

        clock, marks, tokens = time.perf_counter, [], []
        began = clock()
        if case.lanes == 1:
            prompt = mx.array(case.prompt)
            for token, _ in generate_step(prompt, self.model, max_tokens=case.count):
                marks.append(clock())
                tokens.append(int(token))
            return _run(began, marks, tokens)
        batch = BatchGenerator(
            self.model, completion_batch_size=case.lanes, prefill_batch_size=case.lanes
        )
        ids = batch.insert([case.prompt] * case.lanes, [case.count] * case.lanes)
        while found := batch.next_generated():
            marks.append(clock())
            tokens += [r.token for r in found if r.uid == ids[0]]
        batch.close()
        return _run(began, marks, tokens)

    def reset(self) -> None:
        import mlx.core as mx

        mx.reset_peak_memory()

    def peak(self) -> int:
        import mlx.core as mx

        return mx.get_peak_memory()


class Llama3Np(Engine):
    """The algorithm of llama3.np (`tutorials.bench.llama3np`)."""

    def __init__(self, folder: Path) -> None:
        from tinylane.checkpoints.load import load
        from tutorials.bench.llama3np import Llama

        model = load(folder, backend="numpy", dtype="float32", adapter=False)
        self.llama = Llama(model.config, model.params)
        self.versions = {"numpy": version("numpy")}

    def run(self, case: Case) -> Run:
        clock, marks, tokens = time.perf_counter, [], []
        began = clock()
        for found in self.llama.generate(case.prompt, case.lanes, case.count):
            marks.append(clock())
            tokens.append(int(found[0]))
        return _run(began, marks, tokens)


def build(name: str, folder: Path, dtype: str, threads: int, adapter: Any = None) -> Engine:
    """The contestant of that name ("tinylane numpy", "tinylane mlx", or a peer's), loaded."""
    makers: dict[str, Callable[[], Engine]] = {
        "tinylane numpy": lambda: Tinylane(folder, "numpy", dtype, adapter),
        "tinylane mlx": lambda: Tinylane(folder, "mlx", dtype, adapter),
        "transformers": lambda: Transformers(folder, dtype, threads),
        "mlx-lm": lambda: MlxLm(folder, dtype),
        "llama3.np": lambda: Llama3Np(folder),
    }
    return makers[name]()


def random_prompt(vocab: int, length: int, seed: int) -> list[int]:
    """Token ids drawn from the vocabulary."""
    return np.random.default_rng(seed).integers(vocab, size=length).tolist()


def _run(began: float, marks: list[float], tokens: list[int]) -> Run:
    steps = [b - a for a, b in pairwise(marks)]
    return Run(marks[0] - began, steps, [int(token) for token in tokens])
