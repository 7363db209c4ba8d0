"""Naming: different things of one kind. Lanes that read each other need not repeat each other.

    Name different animals
    1/4: lion, cow, otter
    2/4: wolf, camel, eagle

Counted are the different right items that all lanes wrote together, those that were written again,
and those that are not in the list of this kind. The lists are `naming.txt` beside this file: facts
only, each item with its other names. Some kinds are held back: transcripts for training leave them
out, so that it shows whether "do not write what another lane has written" was learned, or lists.

In a transcript the items are dealt: whichever lane has written least takes the next one. So no item
is written twice, and each item is one that the other lanes had not begun. They come in random
order, or drawn one after another without repetition as the model would draw them (`favourite`).

With `--share letters` nobody has to read: each lane is told which initial letters are its own.

Not handled: things that are right and not in the list. They count as not in the list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.likelihood import logprobs
from tinylane.evaluate.tasks.task import (
    EVALUATION,
    TRAINING,
    Options,
    Problem,
    Scores,
    Task,
    check_draw,
    tags,
)
from tinylane.methods.prompt import encode_lane_prompt, encode_prompt

if TYPE_CHECKING:
    from tinylane.core.model import Model

LANES = (1, 2, 4)
TOTAL = 32  # items of all lanes together; one lane alone writes as many in N times the steps
TOKENS = 144  # of all lanes together: about TOTAL items
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ORDERS = ("random", "favourite")
PLURALS = (("ies", "y"), ("oes", "o"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"))
MARK = re.compile(r"^(?:[-*•]|[0-9]{1,3}[.)]|and |an? |the )\s*")


def task(options: Options, model: Model | None = None) -> Task:
    """Naming the kinds of `options.kinds`, by default those that are held back (in transcripts,
    those that are not). Raises TinylaneError for unknown kinds and orders.

    model: whose favourite items come first in transcripts, with the order `favourite`.
    """
    asked, taught = (tuple(chosen(options.kinds, group)) for group in ("held-back", "trained"))
    order = options.order or ORDERS[0]
    if order not in ORDERS:
        raise TinylaneError(f"--order {show(order, 40)}; expected {' or '.join(ORDERS)}")

    def problems(count: int | None, seed: int) -> list[Problem]:
        """Each kind once, and again if there are more; the order of the kinds is drawn."""
        count = check_draw(count, seed, len(asked))
        turns = np.random.default_rng([seed, EVALUATION]).permutation(len(asked))
        named = [asked[turns[k % len(asked)]] for k in range(count)]
        return [Problem(str(k), ask(kind), kind) for k, kind in enumerate(named)]

    begin = letter_tags if options.share == "letters" else tags
    if options.share not in (None, "letters"):
        raise TinylaneError(f"--share {show(options.share, 40)}; expected letters")

    def transcripts(count: int, seed: int, lanes: Sequence[int]) -> Iterator[dict[str, Any]]:
        if order == "favourite" and model is None:
            raise TinylaneError("--order favourite needs --model: whose favourites?")
        scores: dict[str, np.ndarray] = {}
        for k in range(check_draw(count, seed)):
            rng = np.random.default_rng([seed, TRAINING, k])
            n, kind = lanes[k % len(lanes)], str(rng.choice(taught))
            if order == "favourite" and kind not in scores:
                assert model is not None
                scores[kind] = favourites(model, kind)
            # The largest of scores with Gumbel noise are a draw without replacement.
            noise = rng.gumbel(size=len(lists()[kind]))
            ranked = np.argsort(-(noise + scores.get(kind, 0.0)))
            items = [lists()[kind][r][0] for r in ranked]
            letters = [letters_of(n, m) for m in range(n)] if options.share else None
            yield {"prompt": ask(kind), "lane_prompts": begin(n), "lanes": deal(items, n, letters)}

    return Task(
        "naming",
        problems,
        {"kinds": list(asked), **({"share": options.share} if options.share else {})},
        extract=lambda text, finished: None,
        score=score,
        lane_prompts=begin,
        max_tokens=lambda n: TOKENS // n,
        sampling={"temperature": 0.7},
        lanes=LANES,
        title=f"naming, {len(asked)} kinds",
        answers=False,
        transcripts=transcripts,
    )


@cache
def groups() -> dict[str, dict[str, list[list[str]]]]:
    """The lists: "trained" and "held-back", each kind -> items -> the names of an item."""
    text = Path(__file__).with_name("naming.txt").read_text(encoding="utf-8")
    every: dict[str, dict[str, list[list[str]]]] = {"trained": {}, "held-back": {}}
    group = "trained"
    for line in text.splitlines():
        if line == "held back":
            group = "held-back"
        elif not line.startswith("#"):
            kind, _, items = line.partition(": ")
            every[group][kind] = [item.split("|") for item in items.split(", ")]
    return every


@cache
def lists() -> dict[str, list[list[str]]]:
    """All lists, kind -> items -> the names of an item, the usual one first."""
    return groups()["trained"] | groups()["held-back"]


def chosen(named: Sequence[str] | None, default: str) -> list[str]:
    """The kinds of these names; `trained` and `held-back` are the names of groups."""
    kinds: dict[str, None] = {}
    for name in named or [default]:
        if name not in groups() and name not in lists():
            raise TinylaneError(
                f"--kinds {show(name, 40)}; expected trained, held-back, or of {len(lists())} "
                f"kinds some, such as {', '.join(list(lists())[:3])} (tasks/naming.txt)"
            )
        kinds.update(dict.fromkeys(groups().get(name, [name])))
    return list(kinds)


def ask(kind: str) -> str:
    """The prompt."""
    return f"Name different {kind}"


def deal(items: Sequence[str], n: int, letters: Sequence[str] | None = None) -> list[str]:
    """What each of n lanes writes, TOTAL / n items at most: the lane that has written least is
    next. own: of each lane the initial letters that it may write; None: all."""
    texts, counts = [""] * n, [0] * n
    for item in items:
        waiting = [m for m in range(n) if counts[m] < TOTAL // n]
        if letters is not None:
            waiting = [m for m in waiting if spelling(item)[0].upper() in letters[m]]
        if waiting:
            m = min(waiting, key=lambda m: len(texts[m]))
            texts[m] += f"{',' * bool(texts[m])} {item}"
            counts[m] += 1
    return texts


@cache
def letters_of(n: int, m: int) -> str:
    """The initial letters of lane m of n: of all items in the lists, each lane has about as many.

    What stands before A (a digit) is the first lane's.
    """
    every = (items for group in groups().values() for items in group.values())
    first = sorted(spelling(item[0])[0].upper() for items in every for item in items)
    cuts = [first[len(first) * k // n] for k in range(n)] + ["["]  # "[" stands after Z
    cuts[0] = "0"
    letters = "".join(c for c in "0123456789" + LETTERS if cuts[m] <= c < cuts[m + 1])
    if not letters.strip("0123456789"):
        raise TinylaneError(f"{n} lanes; --share letters gives letters to at most 8")
    return letters


def letter_tags(n: int) -> list[str]:
    """The lane prompts `1/N, A to C:`, ... of n lanes."""
    letters = [letters_of(n, m).strip("0123456789") for m in range(n)]
    return [f"{m + 1}/{n}, {own[0]} to {own[-1]}:" for m, own in enumerate(letters)]


def spelling(item: str) -> str:
    """Under which items are compared: no case, accents, article, number in a list or plural."""
    plain = unicodedata.normalize("NFKD", item.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = " ".join(plain.replace("’", "'").replace("-", " ").split()).strip(" .;:!\"*'")
    while (shorter := MARK.sub("", plain)) != plain:
        plain = shorter
    for plural, single in PLURALS:
        if plain.endswith(plural) and len(plain) > len(plural) + 1:
            return plain[: -len(plural)] + single
    return plain[:-1] if plain.endswith("s") and not plain.endswith("ss") else plain


def written(text: str) -> list[str]:
    """The items of a lane's text, as it spells them: between commas, semicolons and line ends."""
    return [item.strip() for item in re.split(r"[,;\n]", text) if spelling(item)]


@cache
def _known(kind: str) -> Mapping[str, int]:
    return {spelling(name): k for k, item in enumerate(lists()[kind]) for name in item}


def score(problem: Problem, texts: Sequence[str], finished: Sequence[bool]) -> Scores:
    """How many different right items the lanes wrote, repeats, and items not in the list.

    The last item of a lane that was cut off counts only if it is right: the rest of it is missing.
    """
    known = _known(problem.truth)
    right, wrong = [], 0
    for text, done in zip(texts, finished, strict=True):
        items = [known.get(spelling(item)) for item in written(text)]
        right += [k for k in items if k is not None]
        cut = bool(items) and items[-1] is None and not done
        wrong += items.count(None) - cut
    distinct = len(set(right))
    counts = {"distinct right": distinct, "repeats": len(right) - distinct, "not in list": wrong}
    return Scores(numbers={name: float(x) for name, x in counts.items()})


def favourites(model: Model, kind: str) -> np.ndarray:
    """The log-probability of each item of a kind as the first that the model writes, float64."""
    prompt = encode_prompt(model, ask(kind), {"raw": True})
    prompt = [*prompt, *encode_lane_prompt(model, tags(1)[0])]
    texts = [encode_lane_prompt(model, f" {item[0]},") for item in lists()[kind]]
    return np.array([each.sum() for each in logprobs(model, prompt, texts)])
