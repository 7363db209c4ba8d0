"""Other programs as engines: each loads a checkpoint folder, then decodes one case after another.

Peers decode a batch of equal prompts: they cannot share one. `python -m tutorials.bench.engines` is
the process of one engine (`process.serve`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinylane.commands.bench_engine import BenchCase, Timing, load_engine
from tinylane.core.errors import TinylaneError
from tutorials.bench.llamacpp import LlamaCpp
from tutorials.bench.process import serve

# Peer -> the modules it needs and how to get them.
PEERS: dict[str, tuple[tuple[str, ...], str]] = {
    "transformers": (("transformers", "torch"), "pip install torch transformers"),
    "mlx-lm": (("mlx_lm",), "pip install mlx-lm"),
    "llama3.np": ((), ""),
    "llama.cpp": (("llama_cpp", "gguf"), "pip install llama-cpp-python gguf"),
    "llama.cpp-q4": (("llama_cpp", "gguf"), "pip install llama-cpp-python gguf"),
}


def check_peer(name: str) -> None:
    """Raises TinylaneError unless `name` is a peer and is installed."""
    if name not in PEERS:
        raise TinylaneError(f"--against {name!r}; expected {', '.join(PEERS)}")
    modules, install = PEERS[name]
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise TinylaneError(f"--against {name}: {missing[0]} is not installed: {install}")


class Peer:
    """A loaded checkpoint. versions: of the libraries that do the work. backend: "mlx" where MLX's
    own allocator holds the memory."""

    versions: dict[str, str]
    backend = ""

    def run(self, case: BenchCase) -> Timing:
        """Decode one case."""
        raise NotImplementedError


class Transformers(Peer):
    """`generate` of transformers on torch, on the CPU, with a clock where its streamer is."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        kind = getattr(torch, dtype)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        self.model.generation_config.update(eos_token_id=None, pad_token_id=0, **greedy)
        self.versions = {"torch": version("torch"), "transformers": version("transformers")}

    def run(self, case: BenchCase) -> Timing:
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
        return Timing.of(
            began, marks[1:], out[0, len(case.prompt) :].tolist()
        )  # the prompt is first


class MlxLm(Peer):
    """mlx-lm: `generate_step` for one lane, its `BatchGenerator` for more."""

    backend = "mlx"

    def __init__(self, folder: Path, dtype: str) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load_model

        self.model, _ = load_model(folder)
        self.model.set_dtype(getattr(mx, dtype))
        mx.eval(self.model.parameters())
        mx.clear_cache()
        self.versions = {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}

    def run(self, case: BenchCase) -> Timing:
        import mlx.core as mx
        from mlx_lm.generate import BatchGenerator, generate_step

        clock, marks, tokens = time.perf_counter, [], []
        began = clock()
        if case.lanes == 1:
            prompt = mx.array(case.prompt)
            for token, _ in generate_step(prompt, self.model, max_tokens=case.count):
                marks.append(clock())
                tokens.append(int(token))
            return Timing.of(began, marks, tokens)
        batch = BatchGenerator(
            self.model, completion_batch_size=case.lanes, prefill_batch_size=case.lanes
        )
        ids = batch.insert([case.prompt] * case.lanes, [case.count] * case.lanes)
        while new := batch.next_generated():
            marks.append(clock())
            tokens += [r.token for r in new if r.uid == ids[0]]
        batch.close()
        return Timing.of(began, marks, tokens)


class Llama3Np(Peer):
    """The algorithm of llama3.np (`tutorials.bench.llama3np`)."""

    def __init__(self, folder: Path) -> None:
        from tinylane.checkpoints.load import load
        from tutorials.bench.llama3np import Llama

        model = load(folder, backend="numpy", dtype="float32", adapter=False)
        self.llama = Llama(model.config, model.params)
        self.versions = {"numpy": version("numpy")}

    def run(self, case: BenchCase) -> Timing:
        clock, marks, tokens = time.perf_counter, [], []
        began = clock()
        for drawn in self.llama.generate(case.prompt, case.lanes, case.count):
            marks.append(clock())
            tokens.append(int(drawn[0]))
        return Timing.of(began, marks, tokens)


def build(
    name: str,
    folder: str | Path,
    dtype: str,
    threads: int,
    adapter: Any = None,
    ops: str = "auto",
) -> Any:
    """The engine of that name ("tinylane numpy", "tinylane mlx", or a peer's), loaded."""
    folder = Path(folder)
    makers: dict[str, Callable[[], Any]] = {
        "transformers": lambda: Transformers(folder, dtype, threads),
        "mlx-lm": lambda: MlxLm(folder, dtype),
        "llama3.np": lambda: Llama3Np(folder),
        "llama.cpp": lambda: LlamaCpp(folder, threads, bits4=False),
        "llama.cpp-q4": lambda: LlamaCpp(folder, threads, bits4=True),
    }
    if name in makers:
        return makers[name]()
    return load_engine(name, folder, dtype, adapter, ops)


if __name__ == "__main__":
    raise SystemExit(serve(build))
