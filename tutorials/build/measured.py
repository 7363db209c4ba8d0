"""The tables and figures of the page "What lanes are good for", from the study's JSON files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tinylane.files.io import read_json
from tutorials.study.figures import LIMIT, trials
from tutorials.study.real import likelihood, of_others, of_task, wrong
from tutorials.study.tables import by_answer, example, games
from tutorials.study.untuned import texts

FOLDER = Path(__file__).parents[1] / "study"


def measured(name: str) -> dict[str, Any]:
    """The JSON of a table."""
    return read_json(FOLDER / f"{name}.json", LIMIT)


def real(task: str) -> str:
    """The real model on a task; or "likelihood", what the adapter costs; "wrong", where the sums go
    wrong; "texts", what it wrote on GSM8K, untuned."""
    found, others = measured("real"), {"likelihood": likelihood, "wrong": wrong, "texts": texts}
    return others[task](found) if task in others else of_task(found, task)


def otherwise(task: str) -> str:
    """The real model on a task, with adapters that are not committed."""
    return of_others(measured("real"), task)


def cells(name: str) -> str:
    """A table of cells trained from scratch."""
    return games(measured(name))


def distances(name: str) -> str:
    """A table of cells of frontier, by the distance of the goal."""
    return by_answer(measured(name))


def further(group: str) -> str:
    """A model in what it was not trained for: "inside" or "one-tag"."""
    return games(trials(measured("beyond"))[group])


def explored() -> str:
    """A graph that a frontier model explored."""
    return example(measured("beyond"))


def drawn(name: str, alt: str) -> str:
    """A figure of the study inside the page: white, so that it can be read in dark colours too."""
    data = base64.b64encode((FOLDER / f"{name}.svg").read_bytes()).decode()
    image = f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
    return f'<figure class="plot white">{image}</figure>'
