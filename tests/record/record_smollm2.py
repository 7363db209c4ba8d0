"""Records in tests/data/smollm2.json what transformers writes after five prompts (numbers only).

    python tests/record/record_smollm2.py        (needs torch and transformers: the extra `real`)

For each prompt of tests/helpers/helpers_real.py: the ids of its chat template, the greedy tokens
in float32 (the end token included), and the smallest gap between the best and the second logit,
in standard deviations: where it is small, rounding may decide. The checkpoint is the folder that
tutorials/smollm2.py makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from helpers_real import PROMPTS, RECORDED, TOKENS

from tutorials import smollm2


def answer(model: Any, ids: list[int]) -> tuple[list[int], float]:
    """Greedy tokens after `ids`, and the smallest gap of the two best logits."""
    import torch

    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]),
            do_sample=False,
            max_new_tokens=TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
    best = [(step[0].double().topk(2).values, step[0].double().std()) for step in out.logits]
    gaps = [float((two[0] - two[1]) / scale) for two, scale in best]
    return out.sequences[0, len(ids) :].tolist(), min(gaps)


def main() -> None:
    import torch
    import transformers

    folder = smollm2.make(smollm2.default_folder())
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    prompts = {}
    for name, messages in PROMPTS.items():
        ids = words.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        tokens, gap = answer(model, ids)
        prompts[name] = {"ids": ids, "tokens": tokens, "gap": round(gap, 5)}
        print(name, len(ids), len(tokens), f"{gap:.5f}", repr(words.decode(tokens)))
    made_by = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in prompts.items()]
    text = ",\n".join(lines)
    RECORDED.write_text(f'{{"made_by": {json.dumps(made_by)}, "prompts": {{\n{text}\n}}}}\n')


if __name__ == "__main__":
    main()
