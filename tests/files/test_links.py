"""A file that is written where a symbolic link stands: what it points at is written, it stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import small, weights

from tinylane.checkpoints.adapter import save_adapter
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.export import write_checkpoint
from tinylane.commands import shared_flags
from tinylane.core.errors import TinylaneError
from tinylane.files.writing import replacing, write_text


def linked(tmp_path: Path, target: str | Path, name: str = "link.json") -> Path:
    """A link in a folder of its own; beside it another folder."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir(exist_ok=True)
    link = tmp_path / "here" / name
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_is_written_through_in_its_target_s_folder(
    tmp_path: Path, before: str | None, absolute: bool
) -> None:
    target = tmp_path / "there" / "run.json"
    link = linked(tmp_path, target if absolute else "../there/run.json")
    again = tmp_path / "again"
    again.symlink_to(link)
    if before is not None:
        target.write_text(before)
    with replacing(again) as file:
        file.write(b"new")
        beside = [path.name for path in target.parent.iterdir() if path != target]
        assert len(beside) == 1 and beside[0].startswith(".run.json."), "it will be one rename"
        assert target.exists() == (before is not None)
    assert again.is_symlink() and link.is_symlink() and not target.is_symlink()
    assert target.read_text() == link.read_text() == "new"
    assert [*target.parent.iterdir()] == [target] and [*link.parent.iterdir()] == [link]


def test_what_breaks_off_leaves_link_and_target_as_they_were(tmp_path: Path) -> None:
    link = linked(tmp_path, "../there/run.json")
    link.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(link) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert link.is_symlink() and link.read_text() == "old"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "target, said",
    [
        ("link.json", "is a symbolic link that leads to itself"),
        ("/dev/null", "is no regular file"),
        ("/dev/fd/{pipe}", "is no regular file"),  # what /dev/stdout is in a pipeline
        ("../absent/run.json", "absent"),
        ("../there", "Is a directory"),
    ],
)
def test_a_link_to_what_cannot_be_written_is_refused_and_stays(
    tmp_path: Path, target: str, said: str
) -> None:
    read, pipe = os.pipe()
    try:
        link = linked(tmp_path, target.format(pipe=pipe))
        with pytest.raises(TinylaneError, match=said):
            write_text(link, "new")
        assert link.is_symlink() and os.readlink(link) == target.format(pipe=pipe)
        with pytest.raises(TinylaneError, match="--save"):  # the flag is checked before the work
            shared_flags.check_target("--save", str(link))
    finally:
        os.close(read)
        os.close(pipe)


def test_a_link_into_a_folder_that_may_be_written_to_is_a_target(tmp_path: Path) -> None:
    link = linked(tmp_path, "../there/run.json")
    assert shared_flags.check_target("--save", str(link)) == link


@pytest.mark.parametrize("name", ["", ".", "/", "/dev/null"])
def test_what_is_no_file_is_no_target(name: str) -> None:
    with pytest.raises(TinylaneError, match=r"--save .*expected"):
        shared_flags.check_target("--save", name)


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapter_config.json"])
def test_an_adapter_s_files_are_not_written_through_a_link_outside(
    tmp_path: Path, name: str
) -> None:
    """Who links the adapter that training begins with into its output would lose it."""
    link = victim_of(tmp_path, name)
    config = parse_config(small())
    omega = {"lane_rope.omega": np.ones(config.head_dim // 2)}
    with pytest.raises(TinylaneError, match="outside its folder"):
        save_adapter(link.parent, config, omega)
    assert link.read_text() == "kept" and [*link.parent.iterdir()] == [link]
    link.unlink()
    save_adapter(link.parent, config, omega)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_checkpoint_s_files_are_not_written_through_a_link_outside(
    tmp_path: Path, name: str
) -> None:
    link, raw = victim_of(tmp_path, name), small()
    values = weights(raw)
    with pytest.raises(TinylaneError, match="outside its folder"):
        write_checkpoint(link.parent, raw, values.__getitem__, "float32", tmp_path)
    assert link.read_text() == "kept" and [*link.parent.iterdir()] == [link]
    link.unlink()
    write_checkpoint(link.parent, raw, values.__getitem__, "float32", tmp_path)


def victim_of(tmp_path: Path, name: str) -> Path:
    link = linked(tmp_path, "../there/victim", name)
    link.write_text("kept")
    return link
