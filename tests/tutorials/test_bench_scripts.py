"""The scripts behind single figures of the pages, with small numbers: what they make and print."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tinylane.commands.cli import main
from tutorials.bench import many_results, preparing, sampling
from tutorials.study import lanes_data, lanes_more

BACKENDS = ["numpy"] + ["mlx"] * (importlib.util.find_spec("mlx") is not None)


def test_a_made_run_goes_on_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 problems in two modes, all but the last six results there: `eval` adds these six."""
    assert many_results.make(tmp_path, 20) == 34
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["problem"] for row in rows] == [str(k // 2) for k in range(34)]
    words = ["--count", "20", "--lanes", "4", "--mode", *many_results.MODES]
    assert main(["eval", "shell-game", *words, "--out", str(tmp_path), "--quiet"]) == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 40
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    assert "20 problems" in capsys.readouterr().out


@pytest.mark.parametrize("backend", BACKENDS)
def test_times_of_the_draw_are_a_table(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "VOCAB", 600)
    monkeypatch.setattr(sampling, "STEPS", 2)
    sampling.main([backend])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(sampling.SETTINGS)
    for row, name in zip(rows, sampling.SETTINGS, strict=True):
        assert re.fullmatch(rf"{backend} +{re.escape(name)} +[\d.]+ \([\d.]+ to [\d.]+\)", row)


class Letters:
    """A tokenizer of one token a character."""

    encode = staticmethod(lambda text: [ord(c) for c in text])
    decode = staticmethod(lambda ids: "".join(map(chr, ids)))


def test_lanes_of_naming_are_cut_to_one_length() -> None:
    rows = [
        {"prompt": "p", "lanes": ["a" * 25, "b" * 19]},  # 16 is the longest that both have
        {"prompt": "p", "lanes": ["a" * 40, "b" * 11]},  # one is too short: left out
        {"prompt": "p", "lanes": ["a" * 28, "b" * 30]},
    ]
    tokenizer: Any = Letters()
    (one, two) = list(lanes_data.cut(rows, tokenizer, random.Random(1)))
    assert one["lanes"] == ["a" * 16, "b" * 16] and one["finished"] == [False, False]
    assert two["lanes"] == ["a" * 28, "b" * 28] and two["lane_ids"][0] == [ord("a")] * 28
    many = list(lanes_data.cut(rows * 500, tokenizer, random.Random(1)))
    whole = [row for row in many if "lane_ids" not in row]
    assert 10 <= len(whole) <= 60  # 1,500 rows, one in fifty stays as it is


def test_additions_near_a_carry_are_found() -> None:
    text = "53+52=105+30=135+14=149;149+081=230;230+259=489"
    pairs = [(53, 52), (105, 30), (135, 14), (149, 81), (230, 259)]
    assert lanes_more.additions(text) == pairs
    # 5+4 and 9+1 and 0+9 are 9 or 10 in the ones; no tens add up to 9 (5+5, 0+3, 3+1, 4+8, 3+5).
    assert [lanes_more.near_a_carry(a, b) for a, b in pairs] == [0, 0, 1, 1, 1]
    assert lanes_more.near_a_carry(45, 55) == 2
    assert lanes_more.hard({"lanes": [text, "1+1=02"]}) == 3


def test_sums_are_written_by_the_command(tmp_path: Path) -> None:
    words = ("sums", "--numbers", 8, "--count", 6, "--seed", 1)
    rows = lanes_data.transcripts(tmp_path / "s.jsonl", *words, lanes=(2,))
    assert len(rows) == 6 and all(len(row["lanes"]) == 2 for row in rows)
    with pytest.raises(SystemExit):
        lanes_data.transcripts(tmp_path / "t.jsonl", "sums", "--numbers", 7, lanes=(2,))


def test_chats_to_time_are_the_same_each_time() -> None:
    one = preparing.transcript(3)
    assert one == preparing.transcript(3) != preparing.transcript(4)
    assert len(one["lanes"]) == 4 and len(one["messages"][0]["content"].split()) == 41
