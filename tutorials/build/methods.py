"""The methods as the explorer shows them: `tutorials/site/assets/methods.json`, from the package.

Every method is run on the model inside, on the README's game, when the site is built: which word
each lane wrote at which step and position, and what happened between steps. A method that is no
more than a rotation and a mask has `live` settings, with which the page's own model plays; of
others `beyond` says what the page cannot play.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.checkpoints.extras import kinds_of
from tinylane.commands.common import embedded
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.methods import METHODS, prepare, start
from tinylane.methods.choices import Method, Setup
from tinylane.view.events import events_of, words
from tutorials.build.home_figure import SWAPS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tutorials" / "site" / "assets" / "methods.json"  # ignored by git
LANES, TOKENS = 4, 7
STEPS = 80  # more than any method takes: a bound, if one never ends
TEXTS = ("name", "title", "source", "what", "place", "sees", "life", "draws", "extra", "needs")


def write() -> None:
    """Make the file, unless the package and the weights are those that it was made from."""
    key = _key()
    if FILE.exists() and json.loads(FILE.read_text(encoding="utf-8"))["key"] == key:
        return
    model = tinylane.load(embedded(), backend="numpy")
    rows = [row(model, METHODS[name]) for name in METHODS]
    made = json.dumps({"key": key, "methods": rows}, ensure_ascii=False, separators=(",", ":"))
    FILE.write_text(made, encoding="utf-8")


def row(model: tinylane.Model, method: Method) -> dict[str, Any]:
    """A method's texts; its live settings or None, and why; its run or None (beam search)."""
    texts = {name: getattr(method, name) for name in TEXTS}
    if method.name == "beam":
        return {**texts, "live": None, "beyond": ["a search over whole texts"], "run": None}
    setup = prepare(model, method.name, LANES, TOKENS)
    more = beyond(model, method, setup)
    settings = None if more else live(model, setup)
    return {**texts, "live": settings, "beyond": more, "run": run(model, setup)}


def beyond(model: tinylane.Model, method: Method, setup: Setup) -> list[str]:
    """What a method has beside one rotation, one mask and greedy lanes: all that the page plays.

    Without what they need, Bridge and LACE do nothing. Multi-Stream's schedule gives texts to
    lanes; no text is given here.
    """
    given = dict(setup.settings)
    rope, mask = given.pop("lane_rope"), given.pop("lane_mask")
    idle = method.name == "multi_stream" and not method.options["given"]
    side = getattr(mask, "side", None) is not None and method.needs in kinds_of(model.params)
    found = {
        "positions that depend on the reader": type(rope) is not LaneRoPE,
        "a mask of another kind": type(mask) is not LaneMask or mask.since is not None or side,
        "a schedule (what happens to lanes between steps)": "schedule" in given and not idle,
        "a draw of its own": setup.sampler is not None,
        "first tokens of its own": "lane_prompts" in given,
    }
    return [words for words, yes in found.items() if yes]


def live(model: tinylane.Model, setup: Setup) -> dict[str, Any]:
    """What the page's model needs to play a method: who reads whom, and the rotation."""
    rope, mask = setup.settings["lane_rope"], setup.settings["lane_mask"]
    theta, slot = np.asarray(model.theta), float(rope.omega.flat[0])
    learned = np.zeros(0) if model.lane_rope is None else model.lane_rope.omega
    starts = {"none": 0 * theta, "learned": learned, "group_think": slot * theta}
    named = [name for name, omega in starts.items() if np.array_equal(omega, rope.omega)]
    return {
        "omega": named[0],
        "slot": round(slot) if named[0] == "group_think" else 32,
        "promptLane": rope.prompt_lane,
        "see": mask.visibility.tolist(),
        "lag": mask.lag,
    }


def run(model: tinylane.Model, setup: Setup) -> dict[str, Any]:
    """Per lane [step, position, word] of what it wrote; what happened; who reads whom in the end.

    Steps and lanes count from 0, but from 1 in the texts of events.
    """
    game = ShellGame()
    decoding = start(
        model,
        game.prompt(game.parse(SWAPS)),
        setup,
        max_tokens=TOKENS,
        lane_prompts=game.lane_prompts(LANES),
        sampler=tinylane.Sampler(temperature=0.0),
    )
    for _ in zip(range(STEPS), decoding, strict=False):
        pass
    result = decoding.result()
    lanes = [
        [
            [step, position, game.vocabulary[token]]
            for step, position, token in zip(lane.steps, lane.positions, lane.tokens, strict=True)
        ]
        for lane in result.lanes
    ]
    happened = [[event["step"], words(event)] for event in events_of(result)]
    n = len(lanes)
    see = decoding.mask.visibility[:n, :n] | np.eye(n, dtype=bool)
    return {"lanes": lanes, "events": happened, "see": see.tolist()}


def _key() -> str:
    """A digest of what the file is made from."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted([*(ROOT / "tinylane").rglob("*.py"), *embedded_files()]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def embedded_files() -> list[Path]:
    """The weights of the model inside."""
    return list((ROOT / "weights" / "shell-game").rglob("*.safetensors"))
