"""`tinylane view`: pages and figures of saved runs; bad inputs are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_view import data_of, hostile, unpacked

from tinylane.view import replay_page as paging
from tinylane.view.run_file import save_run

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures


@pytest.fixture
def saved(tmp_path: Path, ask: Any, game: str) -> Path:
    code, _, _ = ask("generate", "--model", game, "--lanes", 2, "--seed", 3, "--save",
                     tmp_path / "run.json", "--quiet", "--plain")  # fmt: skip
    assert code == 0
    return tmp_path / "run.json"


def test_a_saved_run_becomes_a_page_and_pictures(saved: Path, ask: Any):
    code, out, err = ask("view", saved, "--influence")
    assert code == 0 and saved.with_suffix(".html").is_file()
    assert "attention" in out and "run.html: 0.0" in out and "layers and heads" in err
    png, svg = saved.parent / "a.png", saved.parent / "a.svg"
    saved.with_suffix(".html").unlink()
    code, out, _ = ask("view", saved, "--png", png, "--svg", svg, "--quiet")
    assert code == 0 and not saved.with_suffix(".html").exists()
    assert png.read_bytes()[:4] == b"\x89PNG" and b"<svg" in svg.read_bytes()
    code, _, _ = ask("view", saved, "--png", png, "-o", saved.parent / "other.html", "--quiet")
    assert code == 0
    data = data_of((saved.parent / "other.html").read_text())
    assert data["format"] == "tinylane view 1" and not data["silences"]
    names = {"run.json", "a.png", "a.svg", "other.html"}
    assert {path.name for path in saved.parent.iterdir()} == names


def test_a_page_of_one_backend_is_that_of_the_other(saved: Path, ask: Any):
    pytest.importorskip("mlx.core")
    pages = []
    for backend in ("numpy", "mlx"):
        path = saved.parent / f"{backend}.html"
        assert ask("view", saved, "--backend", backend, "-o", path, "--quiet")[0] == 0
        pages.append(data_of(path.read_text()))
    a, b = (unpacked(data["views"][0]["shares"]) for data in pages)
    assert np.abs(a.astype(int) - b).max() <= 2


def spoiled(path: Path, **changes: Any) -> Path:
    raw = json.loads(path.read_text())
    for name, value in changes.items():
        raw["model"][name] = value
    target = path.with_name("spoiled.json")
    target.write_text(json.dumps(raw))
    return target


def test_bad_inputs_are_one_line_and_exit_2_and_write_nothing(
    saved: Path,
    ask: Any,
    game: str,
):
    folder = saved.parent
    (folder / "damaged.json").write_text(saved.read_text()[:-40])
    (folder / "no.json").write_text("{}")
    raw = json.loads(saved.read_text())
    for lane in raw["lanes"]:
        lane["tokens"], lane["logprobs"], lane["spans"] = [], [], []
    (folder / "empty.json").write_text(json.dumps(raw))
    cases = [
        (("view", folder / "absent.json"), "absent.json"),
        (("view", folder / "damaged.json"), "damaged.json"),
        (("view", folder / "no.json"), "not a run"),
        (("view", folder / "empty.json"), "no tokens"),
        (("view", folder), "not a regular file"),
        (("view", spoiled(saved, source=str(folder / "gone"))), "gone"),
        (("view", spoiled(saved, source="")), "the run is of model"),  # the model inside
        (
            ("view", spoiled(saved, identity="x"), "-o", folder / "a.html"),
            "the run is of model 'x'",
        ),
        (("view", saved, "-o", folder), "is a folder"),
        (("view", saved, "-o", folder / "a" / "b.html"), "no folder"),
        (("view", saved, "-o", saved), "is the run itself"),
        (("view", saved, "--png", folder / "a.jpg"), "ends in .png"),
        (("view", saved, "--svg", folder / "a.png"), "ends in .svg"),
        (("view", saved, "-o", folder / "a.png", "--png", folder / "a.png"), "the same name"),
        (("view", saved, "--keys", 0), "--keys is 0"),
        (("view", saved, "--size", "nan"), "--size is nan"),
        (("view", saved, "--size", -1), "--size is -1"),
    ]
    before = {path.name for path in folder.iterdir()} | {"spoiled.json"}
    for words, expected in cases:
        if str(words[1]).endswith("spoiled.json"):
            source = "" if expected == "the run is of model" else game
            changes = {"source": str(folder / "gone")} if expected == "gone" else {"source": source}
            changes |= {"identity": "x"} if "'x'" in expected else {}
            spoiled(saved, **changes)
        code, out, err = ask(*words)
        assert code == 2 and out == "", words
        assert err.count("\n") == 1 and expected in err, (words, err)
    assert {path.name for path in folder.iterdir()} == before


def test_a_page_that_fails_leaves_the_old_one(
    saved: Path,
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    target = saved.with_suffix(".html")
    target.write_text("old")
    monkeypatch.setattr(paging, "_view", lambda *_: (_ for _ in ()).throw(MemoryError()))
    code, _, err = ask("view", saved)
    assert code == 2 and "out of memory" in err and target.read_text() == "old"
    assert {path.name for path in saved.parent.iterdir()} == {"run.json", "run.html"}


def test_a_run_file_with_a_hostile_name_and_text_prints_nothing_a_terminal_obeys(
    tmp_path: Path, capsys: Any
):
    from tinylane.commands import common, view

    model, run = hostile(lanes=2)
    save_run(tmp_path / "run.json", run.result, model, "x\x1b]0;title\x07")
    original = common.load_saved
    common.load_saved = lambda args, run: model
    try:
        from argparse import Namespace

        out = tmp_path / "a\x1b[2J.html"
        args = Namespace(file=str(tmp_path / "run.json"), output=str(out), png=None, svg=None,
                         keys=8, influence=True, size=2.0, quiet=False)  # fmt: skip
        assert view.run(args) == 0
    finally:
        common.load_saved = original
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said and "\u202e" not in said and "\x07" not in said
    assert data_of(out.read_text())["about"][0][1].startswith("x\\x1b")


def test_a_run_that_this_model_would_not_have_given_is_viewed_with_a_note(
    ask: Any, game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "run.json"
    assert ask("generate", "--model", game, "--save", saved, "--quiet")[0] == 0
    assert "differ" not in ask("view", saved)[2]
    monkeypatch.setattr("tinylane.commands.replay.TOLERANCE", {"float32": 1e-30})
    code, out, err = ask("view", saved)
    assert code == 0 and "attention" in out
    assert "log-probabilities differ from" in err and "the replay's are shown" in err
