"""Of a checkpoint: greedy tokens after the recorded prompts, and logits of their last rows.

    python tests/helpers/real_answers.py FOLDER BACKEND FILE.npz [PROMPT ...]

Without names: all prompts, and random ids.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from helpers_real import ROWS, TOKENS, random_ids, recorded

import tinylane


def main(folder: str, backend: str, out: str, *names: str) -> None:
    model = tinylane.load(folder, backend=backend, dtype="float32")
    prompts = {name: entry["ids"] for name, entry in recorded()["prompts"].items()}
    everything = prompts | {"random ids": random_ids()}
    found = {}
    for name in names or everything:
        ids = everything[name]
        places = np.arange(len(ids)), np.zeros(len(ids), dtype=int)
        rows = np.arange(len(ids))[-ROWS:]
        found[f"logits of {name}"] = np.asarray(model(ids, *places, rows=rows), dtype=np.float32)
        if name in prompts:
            greedy = tinylane.Sampler(temperature=0)
            result = tinylane.generate(model, ids, lanes=1, max_tokens=TOKENS, sampler=greedy)
            found[f"tokens of {name}"] = np.array(result.lanes[0].tokens)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
