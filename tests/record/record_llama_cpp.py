"""What llama.cpp writes on a small random model: tests/data/llama_cpp.json.

    python tests/record/record_llama_cpp.py     needs llama-cpp-python

The peer of the bench writes the model as a GGUF file and lets llama.cpp decode greedily, on one
lane and on two. So the file and the loop are checked by another program.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.commands.bench_engine import BenchCase, random_prompt
from tinylane.commands.bench_shapes import shape, write_random
from tutorials.bench.engines import build

RECORDED = Path(__file__).parents[1] / "data" / "llama_cpp.json"
LENGTH, COUNT = 7, 5


def main() -> None:
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        write_random(shape("tiny"), Path(folder))
        engine = build("llama.cpp", Path(folder), "float32", 1)
        prompt = random_prompt(512, LENGTH, 1)
        tokens = {n: engine.run(BenchCase(prompt, n, COUNT)).tokens for n in (1, 2)}
    record = {"llama-cpp-python": llama_cpp.__version__, "prompt": list(prompt), "tokens": tokens}
    RECORDED.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
