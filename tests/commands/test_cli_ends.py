"""How a command ends that could not do its work: one line, and the exit code."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from typing import Any

import pytest

from tinylane.commands.cli import Parser, main


def ending(error: BaseException | None = None) -> argparse.ArgumentParser:
    """A parser whose one command prints, and ends so."""

    def run(args: Any) -> int:
        print("begun")
        if error is not None:
            raise error
        return 1

    top = Parser(prog="study")
    top.set_defaults(run=run)
    return top


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run.json"), 2,
         "run.json: No space left on device"),
        (OSError("the disk is gone"), 2, "the disk is gone"),
        (MemoryError(), 2, "out of memory (no more is available)"),
        (MemoryError("5 GiB"), 2, "out of memory (5 GiB)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("3 of 9 are kept"), 130, "3 of 9 are kept"),
    ],
)  # fmt: skip
def test_an_accident_is_one_line_and_a_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], ending(error)) == code
    assert capsys.readouterr().err == f"tinylane: error: {says}\n"


def test_nobody_is_told_where_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], ending(BrokenPipeError())) == 141
    assert capsys.readouterr().err == ""


def test_a_check_that_failed_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], ending()) == 1 and capsys.readouterr().out == "begun\n"


def test_an_error_that_cannot_be_told_keeps_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error may be a full disk; and a stream of a notebook has no `reconfigure`."""

    class Full(io.TextIOBase):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert main([], ending(OSError("x"))) == 2


def test_without_words_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: tinylane [-h] [--version] command")
