"""Record what transformers' beam search gives for small random models: `tests/data/beam.json`.

    python tests/record/record_beam.py

Needs torch and transformers (extra `parity`).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from helpers_lanes import ids, small

from tinylane.checkpoints.export import config_to_dict
from tinylane.core.model import Model
from tinylane.files.writing import write_json

FILE = Path(__file__).parents[1] / "data" / "beam.json"
ENDS = (3, 17)


def model_of(case: dict[str, Any], backend: str = "numpy", dtype: str = "float32") -> Model:
    """The tinylane model of a recorded case."""
    return small(backend, dtype, seed=case["seed"], family="qwen2", eos_ids=tuple(case["ends"]))


def cases() -> list[dict[str, Any]]:
    """Settings that differ in everything that decides when a beam ends."""
    made = []
    settings = itertools.product([1, 2, 3, 5], [-0.5, 0.0, 1.0, 2.0], [True, False, "never"])
    for k, (beams, penalty, early) in enumerate(settings):
        made.append(
            {
                "seed": k % 7,
                "ends": ENDS[: k % 3],
                "prompt": ids(4 + k % 3, seed=k),
                "beams": beams,
                "max_tokens": (6, 11)[k % 2],
                "length_penalty": penalty,
                "early_stopping": early,
            }
        )
    return made


def theirs(case: dict[str, Any]) -> list[dict[str, Any]]:
    """transformers' hypotheses for a case, best first."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    ours = model_of(case)
    raw = config_to_dict(ours.config)
    model = Qwen2ForCausalLM(Qwen2Config(**{**raw, "eos_token_id": None})).eval()
    shapes = ours.config.tensors()
    state = {
        name: torch.tensor(w.T if len(shapes[name]) == 2 and "embed" not in name else w)
        for name, w in ours.params.items()
    }
    model.load_state_dict(state, strict=True)
    prompt = torch.tensor([case["prompt"]])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=case["beams"],
        num_return_sequences=case["beams"],
        do_sample=False,
        max_new_tokens=case["max_tokens"],
        length_penalty=case["length_penalty"],
        early_stopping=case["early_stopping"],
        eos_token_id=list(case["ends"]) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    hypotheses = []
    for row, score in zip(out.sequences, getattr(out, "sequences_scores", [None]), strict=True):
        tokens = row[len(case["prompt"]) :].tolist()
        ends = [k for k, token in enumerate(tokens) if token in case["ends"]]
        tokens = tokens[: ends[0] + 1] if ends else tokens
        hypotheses.append({"tokens": tokens, "score": None if score is None else float(score)})
    return hypotheses


def main() -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    recorded = [{**case, "hypotheses": theirs(case)} for case in cases()]
    write_json(FILE, {"transformers": transformers.__version__, "cases": recorded})


if __name__ == "__main__":
    main()
