"""llama.cpp as a peer: the checkpoint written as a GGUF file, then decoded by llama-cpp-python.

The file has no tokenizer: prompts are ids. Its weights are those that tinylane reads, in float32,
or in 4 bits (Q4_0; the table of embeddings in Q8_0), which is a line to look up to: tinylane reads
eight times as many bytes. llama.cpp keeps the keys of a Llama in interleaved order, so the rows of
q and k are permuted. Q4 gives other tokens. Not handled: scaled rotations.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.load import load
from tinylane.commands.bench_engine import BenchCase, Timing
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError

ROOM = 4096  # positions of the context, of all lanes


def write_gguf(path: Path, config: ModelConfig, params: dict[str, np.ndarray], bits4: bool) -> None:
    """Write float32 parameters, matrices (in, out), as llama.cpp reads them."""
    import gguf

    kind = gguf.GGMLQuantizationType
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA}
    arch |= {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
    if config.rope.kind != "default":
        raise TinylaneError(f"bench: llama.cpp with rotation {config.rope.kind!r}; only default")
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch[config.family]])
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(arch[config.family], config.layers)
    for name in config.tensors():
        w, table = params[name], name == "model.embed_tokens.weight"
        w = np.ascontiguousarray(w if w.ndim == 1 or table else w.T, dtype=np.float32)
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        if heads and arch[config.family] == gguf.MODEL_ARCH.LLAMA:
            w = np.ascontiguousarray(w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2))
            w = w.reshape(params[name].shape[::-1])
        as_type = kind.F32 if w.ndim == 1 or not bits4 else kind.Q8_0 if table else kind.Q4_0
        w = w if as_type == kind.F32 else gguf.quants.quantize(w, as_type)
        writer.add_tensor(str(names.get_name(name, (".weight", ".bias"))), w, raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """Sequences decoded greedily, each with a prompt of its own."""

    backend = ""

    def __init__(self, folder: Path, threads: int, bits4: bool) -> None:
        import llama_cpp

        model = load(folder, backend="numpy", dtype="float32", adapter=False)
        self.lib, self.threads, self.vocab = llama_cpp, threads, model.config.vocab
        self.versions = {"llama-cpp-python": version("llama-cpp-python")}
        self.log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.log, None)
        with tempfile.TemporaryDirectory() as room:
            path = Path(room) / "model.gguf"
            write_gguf(path, model.config, model.params, bits4)
            settings = llama_cpp.llama_model_default_params()
            settings.use_mmap = False  # the file goes away
            self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            raise TinylaneError("bench: llama.cpp could not load the model")

    def run(self, case: BenchCase) -> Timing:
        """Decode one case."""
        lib, lanes, length = self.lib, case.lanes, len(case.prompt)
        settings = lib.llama_context_default_params()
        settings.n_ctx = max(ROOM, lanes * (length + case.count))
        settings.n_batch = settings.n_ubatch = max(length, 512)
        settings.n_seq_max, settings.kv_unified = lanes, True
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.type_k = settings.type_v = lib.GGML_TYPE_F32
        context = lib.llama_init_from_model(self.model, settings)
        batch = lib.llama_batch_init(settings.n_batch, 0, 1)
        try:
            return self._decode(case, context, batch)
        finally:
            lib.llama_batch_free(batch)
            lib.llama_free(context)

    def _decode(self, case: BenchCase, context: Any, batch: Any) -> Timing:
        lanes, length, clock = range(case.lanes), len(case.prompt), time.perf_counter
        began = clock()
        drawn = [self._pass(context, batch, case.prompt, range(length), [m] * length, [length - 1])
                 for m in lanes]  # fmt: skip
        row, marks, tokens = [ids[0] for ids in drawn], [clock()], [drawn[0][0]]
        for step in range(1, case.count):
            at = [length + step - 1] * case.lanes
            row = self._pass(context, batch, row, at, lanes, lanes)
            marks.append(clock())
            tokens.append(row[0])
        return Timing.of(began, marks, tokens)

    def _pass(
        self, context: Any, batch: Any, tokens: Any, positions: Any, lanes: Any, asked: Any
    ) -> list[int]:
        """One pass; the likeliest next token of the rows `asked`."""
        batch.n_tokens = len(tokens)
        for k, (token, position, lane) in enumerate(zip(tokens, positions, lanes, strict=True)):
            batch.token[k], batch.pos[k] = token, position
            batch.n_seq_id[k], batch.seq_id[k][0] = 1, lane
            batch.logits[k] = k in asked
        if self.lib.llama_decode(context, batch):
            raise TinylaneError("bench: llama.cpp could not decode")
        logits = (self.lib.llama_get_logits_ith(context, k) for k in asked)
        return [int(np.ctypeslib.as_array(row, (self.vocab,)).argmax()) for row in logits]
