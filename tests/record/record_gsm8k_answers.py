"""Writes tests/data/gsm8k_answers.txt: the final answers of GSM8K's test split, one a line.

    python tests/record/record_gsm8k_answers.py FILE

FILE is test.jsonl of github.com/openai/grade-school-math (MIT).

Cobbe et al. 2021 (arXiv:2110.14168). Numbers as they stand behind `####`, commas included.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "data" / "gsm8k_answers.txt"


def main() -> None:
    rows = map(json.loads, Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
    answers = [row["answer"].rpartition("####")[2].strip() for row in rows]
    TARGET.write_text("".join(f"{answer}\n" for answer in answers), encoding="utf-8")
    print(f"{len(answers)} answers")


if __name__ == "__main__":
    main()
