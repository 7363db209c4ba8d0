"""Record what transformers reads with four real tokenizers: tests/data/real_tokenizers.json.

    python tests/record/record_real_tokenizers.py

Numbers only: ids of the first texts of `tests/helpers/real_tokenizers.py`, as tokenizer.json says,
and how many of all texts tinylane reads otherwise than transformers. npm brings the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "helpers"), str(HERE.parent)]

import real_tokenizers as real  # noqa: E402

from tinylane.checkpoints.tokenizer import Tokenizer  # noqa: E402


def main() -> None:
    import transformers

    ids, counts = {}, {}
    for name in real.MODELS:
        plain, ours = real.theirs(name, as_it_is=True), Tokenizer.from_folder(real.folder(name))
        some = [text for _, text in real.texts()[: real.SUBSET]]
        ids[name] = [plain(text, add_special_tokens=False)["input_ids"] for text in some]
        counts[name] = real.compare(real.theirs(name), ours)
        print(name, counts[name])
    record = {"transformers": transformers.__version__, "counts": counts, "ids": ids}
    path = HERE / "data" / "real_tokenizers.json"
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
