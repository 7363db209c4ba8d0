"""The corpus of `hostile.py`: every hostile input by category and name, written to a folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_adapters
import hostile_files
import hostile_lines
import hostile_templates
import hostile_texts
from helpers_cli import write_checkpoint


def folders(base: Path) -> dict[str, Callable[[], Iterator[tuple[str, Any]]]]:
    """Categories whose inputs are folders: a checkpoint, or an adapter of the base."""
    return {
        "weights": lambda: hostile_files.weights(base),
        "index": lambda: hostile_files.indexes(base),
        "config": lambda: hostile_texts.configs(base),
        "tokenizer": lambda: hostile_texts.tokenizers(base),
        "template": lambda: hostile_templates.templates(base),
        "adapter": lambda: hostile_adapters.adapters(base),
        "own adapter": own_adapters(base),
    }


def own_adapters(base: Path) -> Callable[[], Iterator[tuple[str, Any]]]:
    def cases() -> Iterator[tuple[str, Any]]:
        def linked(folder: Path) -> None:
            shutil.rmtree(folder / "adapter")
            (folder / "adapter").symlink_to(base / "adapter")

        def itself(folder: Path) -> None:
            shutil.rmtree(folder / "adapter")
            (folder / "adapter").symlink_to(folder)
            shutil.copy(base / "adapter" / "adapter_config.json", folder)

        yield "a link outside", linked
        yield "a link to the checkpoint", itself

    return cases


def make(
    root: Path, wanted: Callable[[str, str], bool] = lambda category, name: True
) -> dict[str, dict[str, str]]:
    """Write the corpus, or what is wanted of it; {category: {name: path}}, also in `corpus.json`.

    FOLDER/base is the good checkpoint, FOLDER/good has a cache, a run and an evaluation of it.
    """
    base = write_checkpoint(root / "base")
    good = root / "good"
    good.mkdir()
    good_files(base, good)
    corpus: dict[str, dict[str, str]] = {}

    def place(category: str, name: str) -> Path | None:
        if not wanted(category, name):
            return None
        known = corpus.setdefault(category, {})
        while name in known:
            name += "'"
        path = root / category / f"{len(known):03}"
        known[name] = str(path)
        path.parent.mkdir(exist_ok=True)
        return path

    for category, cases in folders(base).items():
        for name, change in cases():
            if folder := place(category, name):
                if category == "adapter":
                    folder.mkdir()
                else:
                    shutil.copytree(base, folder, copy_function=os.link)
                change(folder)
    for category, files in (
        ("prefix", hostile_files.prefixes()),
        ("safetensors", hostile_files.headers()),
        ("prompt", hostile_lines.PROMPTS.items()),
        ("matrix", hostile_lines.MATRICES.items()),
    ):
        for name, data in files:
            if path := place(category, name):
                hostile_texts.put(path, data)
    for category, changes in (
        ("cache", hostile_adapters.caches(good / "cache.safetensors")),
        ("run", hostile_lines.runs(good / "run.json")),
        ("problems", hostile_lines.problems()),
        ("transcripts", hostile_lines.transcripts()),
        ("results", hostile_lines.results(good / "eval")),
    ):
        for name, change in changes:
            if path := place(category, name):
                change(path)
    (root / "corpus.json").write_text(json.dumps(corpus))
    return corpus


def good_files(base: Path, good: Path) -> None:
    """A cache, a run and an evaluation of the good checkpoint."""
    from tinylane.checkpoints.load import load
    from tinylane.commands.cli import main as main_of_tinylane
    from tinylane.methods.decoding import Decoding
    from tinylane.view.run_file import save_run

    model = load(base, backend="numpy")
    decoding = Decoding(model, "cups ABC, swap 1-2 : where?", 2, max_tokens=3, seed=1)
    for _ in decoding:
        pass
    decoding.cache.save(good / "cache.safetensors")
    save_run(good / "run.json", decoding.result(), model, str(base))
    words = ["eval", "shell-game", "--model", base, "--backend", "numpy", "--lanes", 2]
    words += ["--count", 1, "--quiet", "--json", "--out", good / "eval"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main_of_tinylane([str(word) for word in words]) == 0
