"""Tunes lanes that read nobody while they write their own part, and all others from then on.

    python tutorials/study/lanes_fork.py 23 sft --model SMOLLM2 --data sums.jsonl --raw ...

23: how many tokens a lane writes before it reads; the rest are the flags of `tinylane train`. The
mask is that of `tinylane eval --mode fork_join:23`, so it measures what was trained. Lane prompts
must have one length in the whole data.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.core.lanes import NEVER, SHARED, LaneMask


def later(mask: LaneMask, clock: int, alone: int) -> LaneMask:
    """The mask, but lanes read each other only after `alone` tokens of their own.

    clock: the position of the first token that they draw. A row draws the token behind it.
    """
    since = np.full_like(mask.visibility, clock + alone - 1, dtype=np.int64)
    return replace(mask, since=since, until=np.full_like(since, NEVER))


def main(alone: int, flags: list[str]) -> int:
    from tinylane.commands.cli import main as command
    from tinylane.train.omega import TrainingPlan
    from tinylane.train.step import Tuner

    def plan(tuner: Tuner, positions: bytes, lanes: bytes) -> TrainingPlan:
        i, m = np.frombuffer(positions, np.int64), np.frombuffer(lanes, np.int64)
        begin = {t.clock - len(t.prompt) for t in tuner.transcripts}
        if len(begin) != 1:
            sys.exit(f"lane prompts have {sorted(begin)} tokens; expected one length")
        mask = later(tuner.recipe.mask(int(m.max()) + 1), (m == SHARED).sum() + begin.pop(), alone)
        start, params = tuner.trainable.omega_start, tuner.trainable.params(tuner.groups)[0]
        return TrainingPlan(tuner.config, mask, i, m, tuner.recipe.prompt_lane, start, params)

    with mock.patch.object(Tuner, "_make_plan", plan):
        return command(["train", *flags])


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
