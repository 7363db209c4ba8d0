"""The shell game as a task: for the model that was trained on it, or in words for any other.

A model whose adapter names the shell game is asked in the game's notation, at its size, with a tag
for each lane and as many tokens as the work needs. Any other model gets the same problems in plain
English, of the size that `--cups` and `--swaps` say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.tasks.shell_game import STAY, ShellGame, game_of, last_word
from tinylane.evaluate.tasks.task import Options, Task, answer_of, drawn

if TYPE_CHECKING:
    from tinylane.core.model import Model

COUNT = 1000


def task(options: Options, model: Model | None) -> Task:
    """The shell game for `model`. Raises TinylaneError where neither it nor the options say the
    size, or they differ."""
    asked = {"cups": options.cups, "swaps": options.swaps}
    game = game_of(model) if model is not None else None
    if game is not None:
        for name, value in asked.items():
            if value not in (None, getattr(game, name)):
                raise TinylaneError(
                    f"--{name} {value}: this model was trained on {game.cups} cups and "
                    f"{game.swaps} swaps"
                )
        return trained(game)
    if options.cups is None and options.swaps is None:
        raise TinylaneError(
            "this model was not trained on the shell game; leave --model out, train one (tinylane "
            "train shell-game), or give --cups and --swaps to ask it in words"
        )
    sizes = {name: value for name, value in asked.items() if value is not None}
    return in_words(ShellGame(**sizes, lanes=(1,)))


def trained(game: ShellGame) -> Task:
    """The task for a model that knows the game's notation: greedy, its last word is the answer."""
    return _task(
        game,
        "notation",
        game.prompt,
        extract=lambda text, finished: last_word(text),
        lane_prompts=game.lane_prompts,
        max_tokens=lambda n: game.steps(n) + 1,  # and the end token
        sampling={"temperature": 0.0},
        lanes=game.lanes,
    )


def in_words(game: ShellGame) -> Task:
    """The task for any model: plain English, the answer in a box."""

    def extract(text: str, finished: bool) -> str | None:
        answer = answer_of(text, finished)
        letters = "".join(c for c in answer or "" if c.isalpha()).upper()
        return letters or None

    return _task(game, "words", partial(_question, game), extract=extract)


def _task(game: ShellGame, form: str, ask: Callable[[np.ndarray], str], **more: Any) -> Task:
    """ask: moves -> the prompt. more: fields of `Task`.

    Its problems are unseen: they are drawn from a stream of random numbers that training does not
    use; with 4 cups and 16 swaps there are 6**16 (2.8e12), of which a training run sees some 1e5.
    """
    return Task(
        "shell-game",
        drawn(game, ask, COUNT),
        {"cups": game.cups, "swaps": game.swaps, "form": form},
        right=lambda answer, truth: answer == truth,
        title=f"shell game, {game.cups} cups, {game.swaps} swaps",
        **more,
    )


def _question(game: ShellGame, moves: np.ndarray) -> str:
    swaps = [game.moves[k].replace("-", " and ") for k in moves if game.moves[k] != STAY]
    steps = "; ".join(swaps)
    start = game.arrangements[0]
    return (
        f"{game.cups} cups stand in a row. From place 1 to place {game.cups} they are "
        f"{', '.join(start)}. Then the cups at two places are swapped, again and again. The places "
        f"are, in order: {steps}. Which cups stand at the places 1 to {game.cups} in the end? "
        f"Write the letters in order, like \\boxed{{{start}}}."
    )
