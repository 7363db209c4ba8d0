"""The transcripts of which `weights/smollm2-lanes` was trained: Sums, and Naming cut to one length.

    python tutorials/study/lanes_data.py SMOLLM2 FOLDER     writes FOLDER/mix.jsonl (25,058 lines)

14,400 of Sums (8, 16 and 32 numbers; 1, 2 and 4 lanes), 7,994 of Naming in the model's own
favourite order and 2,664 in random order. Lanes of Naming are cut to 12, 16, 20, 24 or 28 tokens,
as many as the shortest lane has, so that many transcripts have one shape and fit into one pass
(`--group-by-shape`); one in fifty stays as it is, with its end. The model is asked for its
favourites, which takes minutes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.commands import cli

LENGTHS = (12, 16, 20, 24, 28)  # tokens of a lane
WHOLE = 0.02  # share of the transcripts that keep their ends


def transcripts(
    out: Path, *words: object, lanes: Sequence[int] = (1, 2, 4)
) -> list[dict[str, Any]]:
    """What `tinylane transcripts WORDS --lanes LANES --out OUT` writes."""
    flags = map(str, (*words, "--lanes", *lanes, "--out", out))
    code = cli.main(["transcripts", *flags])
    if code:
        sys.exit(code)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def cut(rows: list[dict[str, Any]], tokenizer: Tokenizer, rng: random.Random) -> Iterator[dict]:
    """Transcripts whose lanes have equally many tokens; not those with a very short one."""
    for row in rows:
        if rng.random() < WHOLE:
            yield row
            continue
        ids = [tokenizer.encode(text) for text in row["lanes"]]
        shortest = min(map(len, ids))
        if shortest < LENGTHS[0]:
            continue
        length = max(n for n in LENGTHS if n <= shortest)
        ids = [lane[:length] for lane in ids]
        texts = [tokenizer.decode(lane) for lane in ids]
        yield {**row, "lanes": texts, "lane_ids": ids, "finished": [False] * len(ids)}


def main(model: str, folder: str) -> None:
    out, rng = Path(folder), random.Random(0)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_folder(Path(model))
    favourite = ("--order", "favourite", "--model", model, "--count", 8000, "--seed", 2)
    named = list(cut(transcripts(out / "favourite.jsonl", "naming", *favourite), tokenizer, rng))
    drawn = transcripts(out / "random.jsonl", "naming", "--count", 8000, "--seed", 1)
    other = list(cut(drawn, tokenizer, rng))[: len(named) // 3]
    numbers = ("--numbers", 8, 16, 32, "--count", 14400, "--seed", 1)
    rows = transcripts(out / "sums.jsonl", "sums", *numbers) + named + other
    rng.shuffle(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "mix.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(rows):,} transcripts: {out / 'mix.jsonl'}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
