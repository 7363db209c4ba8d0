"""Record the shell game that the lane explorer shows: tutorials/site/explorer/shell-game.json.

    python tests/record/record_explorer.py

One problem (seed 7), played by the model inside with 1, 2, 4 and 8 lanes under every named mask
and two lags. Of the joint runs also who listened to whom: the mean over layers and heads, in
thousandths. Not recorded: other prompts, other Omegas, masks without a name.

    T  rows of a run: the prompt, then lane by lane what was fed
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

import tinylane
from tinylane.commands.common import embedded
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game_task import game_of
from tinylane.files.io import write_text
from tinylane.view.attention import attention_weights

FILE = Path(__file__).parents[2] / "tutorials" / "site" / "explorer" / "shell-game.json"
SEED = 7
PATTERNS = ("joint", "independent", "star", "neighbours:1", "neighbours:2")


def recording() -> dict[str, Any]:
    """What the model inside (NumPy, float32, greedy) gives now."""
    model = tinylane.load(embedded(), backend="numpy")
    game = game_of(model)
    assert game is not None and model.tokenizer is not None and model.lane_rope is not None
    moves = game.draw(1, np.random.default_rng(SEED))[0]  # as `tinylane generate --seed 7` does
    runs: dict[str, Any] = {}
    seen: list[tuple[bytes, int]] = []
    for n in game.lanes:
        for lag in (0, 1):
            for name in PATTERNS:
                mask = LaneMask.named(name, n, lag)
                alone = not (mask.visibility & ~np.eye(n, dtype=bool)).any()
                what = mask.visibility.tobytes(), 0 if alone else lag
                if what in seen:  # the same under an earlier name
                    continue
                seen.append(what)
                runs[f"{n} {name} {lag}"] = played(
                    model, game.prompt(moves), game.lane_prompts(n), game.steps(n) + 1, mask
                )
    words = game.vocabulary
    return {
        "made_by": "python tests/record/record_explorer.py",
        "seed": SEED,
        "answer": game.answer(moves),
        "prompt": [words[t] for t in model.tokenizer.encode(game.prompt(moves))],
        "base": model.config.rope.base,
        "head_dim": model.config.head_dim,
        "learned": model.lane_rope.omega.tolist(),
        "runs": runs,
    }


def played(
    model: Model, prompt: str, tags: list[str], max_tokens: int, mask: LaneMask
) -> dict[str, Any]:
    """Every lane's words (its tag, then what it drew; the last one was never fed), and for a joint
    run without lag the attention."""
    n = len(tags)
    result = tinylane.generate(
        model, prompt, lanes=n, lane_prompts=tags, max_tokens=max_tokens, lane_mask=mask
    )
    fed = [(lane.prompt + lane.tokens)[:-1] for lane in result.lanes]
    assert {len(tokens) for tokens in fed} == {max_tokens}  # no lane stops before the others
    words = game_of(model).vocabulary  # type: ignore[union-attr]
    lanes = [[words[t] for t in lane.prompt + lane.tokens] for lane in result.lanes]
    run: dict[str, Any] = {"lanes": lanes}
    if mask.visibility.all() and mask.lag == 0:
        P, L = len(result.prompt), max_tokens
        tokens = np.concatenate([result.prompt, *fed])
        positions = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
        rows = np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])
        heard = attention_weights(model, tokens, positions, rows, lane_mask=mask)
        thousandths = np.rint(1000 * heard.mean(axis=(0, 1))).astype(int).tolist()
        run["attention"] = thousandths
    return run


def compact(value: Any, depth: int = 2) -> str:
    """JSON with a line for each entry of the outer objects."""
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    lines = (f"{json.dumps(name)}: {compact(x, depth - 1)}" for name, x in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    write_text(FILE, compact(recording()) + "\n")
    print(f"{FILE.name}: {FILE.stat().st_size / 1024:.1f} KiB")
