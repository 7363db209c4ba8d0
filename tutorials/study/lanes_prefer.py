"""What lanes wrote of Naming, labelled by how often they repeat: for a preference step (KTO).

    tinylane collect naming --kinds trained --model SMOLLM2 --adapter-path weights/smollm2-lanes \\
      --mode joint --lanes 4 --temp 0.7 --samples 4 --count 40 --out SAMPLES
    python tutorials/study/lanes_prefer.py SAMPLES prefer.jsonl
    tinylane train kto --model SMOLLM2 --adapter-path weights/smollm2-lanes --data prefer.jsonl ...

The samples of one kind of thing are compared with each other: those with more different right items
less repeats than the kind's median are good, those with fewer are bad, and those at the median are
left out. So the model's knowledge of a kind does not count, only what it made of it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.evaluate.tasks import naming
from tinylane.evaluate.tasks.task import Problem


def gain(row: dict[str, Any]) -> float:
    """Different right items of a transcript, less those that were written again."""
    kind = row["prompt"].removeprefix(naming.ask(""))
    scores = naming.score(Problem("", row["prompt"], kind), row["lanes"], row["finished"])
    return scores.numbers["distinct right"] - scores.numbers["repeats"]


def labelled(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The transcripts with `label`, without those at the median of their prompt."""
    by_prompt: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for row in rows:
        by_prompt[row["prompt"]].append((gain(row), row))
    for group in by_prompt.values():
        middle = median(value for value, _ in group)
        yield from ({**row, "label": x > middle} for x, row in group if x != middle)


def main(samples: str, out: str) -> None:
    text = Path(samples, "results.jsonl").read_text(encoding="utf-8")
    rows = list(labelled(map(json.loads, text.splitlines())))
    Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} transcripts, {sum(row['label'] for row in rows)} of them good: {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
