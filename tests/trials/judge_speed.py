"""How many answers a second are judged.

    python tests/trials/judge_speed.py            the final answers of GSM8K in ten spellings
    python tests/trials/judge_speed.py forms      the forms of tests/helpers/answer_forms.py

Each answer is compared with the truth once, by a new judge.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "helpers")]

from answer_forms import FORMS  # noqa: E402

from tinylane.evaluate.tasks.mathematics import Judge  # noqa: E402

SPELLED = ["{n}", "{n:,}", "${n:,}", "{n}.00", "{n} dollars", "\\text{{{n} eggs}}", "x = {n}",
           "{n}\\%", "\\frac{{{twice}}}{{2}}", "{n} \\text{{ miles}}"]  # fmt: skip


def main() -> None:
    """Print answers, seconds and answers per second."""
    truths = [
        int(x.replace(",", "")) for x in (TESTS / "data/gsm8k_answers.txt").read_text().split()
    ]
    asked = [(way.format(n=n, twice=2 * n), str(n)) for way in SPELLED for n in truths]
    if sys.argv[1:] == ["forms"]:
        asked = [(a, group[0]) for groups in FORMS.values() for group in groups for a in group]
    judge = Judge()
    start = time.perf_counter()
    right = sum(judge(answer, truth) for answer, truth in asked)
    seconds = time.perf_counter() - start
    judge.close()
    print(
        f"{len(asked)} answers, {right} right: {seconds:.2f} s, {len(asked) / seconds:.0f} a second"
    )


if __name__ == "__main__":
    main()
