"""The transcripts with which the training of `weights/smollm2-lanes` went on.

    python tutorials/study/lanes_more.py SMOLLM2 FOLDER    writes on.jsonl and end.jsonl there

`on.jsonl` (2,760): Sums of 16 numbers by 4 lanes, and a few by 1 and 2 lanes and of Naming, so that
these are not forgotten. `end.jsonl` (520): half of its Sums are those of 9,000 with the most
additions in which it is hard to see whether a ten is carried: ones that add up to 9 or 10, and a
carry that runs on. At those the model was wrong most often.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.checkpoints.tokenizer import Tokenizer
from tutorials.study.lanes_data import cut, transcripts


def additions(text: str) -> list[tuple[int, int]]:
    """The pairs of numbers that a lane adds, after the first with the sum before it."""
    pairs = []
    for part in text.split(";"):
        first, *steps = part.split("+")
        now = int(first)
        for step in steps:
            number, _, result = step.partition("=")
            pairs.append((now, int(number)))
            now = int(result)
    return pairs


def near_a_carry(a: int, b: int) -> int:
    """2, 1 or 0: whether the ones add up to 9 or 10, and whether the tens add up to 9."""
    return (a % 10 + b % 10 in (9, 10)) + (a // 10 % 10 + b // 10 % 10 == 9)


def hard(row: dict[str, Any]) -> int:
    """How many of a transcript's additions are near a carry."""
    return sum(near_a_carry(a, b) for text in row["lanes"] for a, b in additions(text))


def main(model: str, folder: str) -> None:
    out, rng = Path(folder), random.Random(0)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_folder(Path(model))
    sums = ("sums", "--numbers", 16)
    four = transcripts(out / "four.jsonl", *sums, "--count", 3000, "--seed", 5, lanes=(4,))
    fewer = transcripts(out / "fewer.jsonl", *sums, "--count", 300, "--seed", 6, lanes=(1, 2))
    favourite = ("--order", "favourite", "--model", model, "--count", 900, "--seed", 7)
    named = list(cut(transcripts(out / "named.jsonl", "naming", *favourite), tokenizer, rng))
    named = [row for row in named if "lane_ids" in row]  # without those that were left whole
    names = {n: [row for row in named if len(row["lanes"]) == n] for n in (2, 4)}
    rows = four[:2400] + fewer[:160] + names[4][:160] + names[2][:40]
    rng.shuffle(rows)
    write(out / "on.jsonl", rows)

    few = [row for row in rows if "Add" in row["prompt"] and len(row["lanes"]) < 4][:16]
    named = [row for row in rows if "Add" not in row["prompt"] and len(row["lanes"]) == 4][:24]
    pool = transcripts(out / "pool.jsonl", *sums, "--count", 9000, "--seed", 12, lanes=(4,))
    pool.sort(key=hard, reverse=True)
    rows = pool[:240] + four[2400:2640] + named + few
    random.Random(1).shuffle(rows)
    write(out / "end.jsonl", rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write transcripts, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows):,} transcripts: {path}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
