"""A run directory of very many results, to time `tinylane eval` and `tinylane report` on.

    python tutorials/bench/many_results.py DIR --problems 50000
    tinylane eval shell-game --count 50000 --lanes 4 --mode joint independent --out DIR
    tinylane report DIR

Four problems are decoded in truth; the rest are copies of them under the other problems' names. The
last LEFT results are left out, so that `eval`, which goes on, has something to do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tinylane.commands.cli import main

REAL, LEFT = 4, 6
MODES = ("joint", "independent")


def make(folder: Path, problems: int, lanes: int = 4) -> int:
    """Write the run; how many results it has."""
    words = ["eval", "shell-game", "--lanes", str(lanes), "--mode", *MODES]
    if main([*words, "--count", str(REAL), "--out", str(folder), "--quiet"]):
        raise SystemExit("tinylane eval failed")
    path, settings = folder / "results.jsonl", folder / "settings.json"
    document = json.loads(settings.read_text())
    document["settings"]["count"] = problems
    settings.write_text(json.dumps(document))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_problem = [rows[k : k + len(MODES)] for k in range(0, len(rows), len(MODES))]
    count = problems * len(MODES) - LEFT
    with path.open("w") as file:
        for k in range(count):
            row = by_problem[k // len(MODES) % REAL][k % len(MODES)]
            row |= {"problem": str(k // len(MODES)), "index": k // len(MODES)}
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=50_000)
    args = parser.parse_args()
    print(f"{make(args.folder, args.problems):,} results in {args.folder}", file=sys.stderr)
