"""Texts with tags as lanes: read, placed, checked by a model, and written back to the character."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers_methods import PROMPT, small
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run
from tinylane.view.tagged import NAMES, TAG, pieces, read_tags, write_tags

MULTIVERSE = (
    "Two ways. <Parallel><Goal><Outline>a</Outline></Goal>\n<Path> one two </Path>\n"
    "<Path> three </Path>\n<Conclusion> so 46 </Conclusion></Parallel> And now"
    "<Parallel><Path>x</Path><Path>y</Path></Parallel> the end."
)
PARATHINKER = "<think 1> 12 and 34 </think 1><think 2> 46 </think 2>\n<summary> 46</summary>"
THREADS = "<Parallel><Outlines>..</Outlines><Thread>1 a</Thread> <Thread>2 b</Thread></Parallel> c"
MODEL = small()


@pytest.mark.parametrize("text", [MULTIVERSE, PARATHINKER, THREADS, "no tags at all"])
def test_a_text_with_tags_comes_back_to_the_character(text: str, tmp_path: Path) -> None:
    result = read_tags(text, MODEL, PROMPT)
    save_run(tmp_path / "run.json", result, MODEL)
    run = load_run(tmp_path / "run.json")
    assert write_tags(run.result, MODEL.tokenizer) == text
    assert replay(run, MODEL).difference < 1e-9


def test_paths_begin_together_and_what_follows_stands_behind_the_longest() -> None:
    lanes = read_tags(MULTIVERSE, MODEL, PROMPT).lanes
    assert [pieces(MULTIVERSE)[k].block for k in range(7)] == [0, 1, 1, 0, 2, 2, 0]
    begins = [lane.start - len(lane.prompt) for lane in lanes]
    assert begins[1] == begins[2] == lanes[0].positions[-1] + 1
    assert begins[3] == 1 + max(lanes[1].positions[-1], lanes[2].positions[-1])


def test_the_log_probabilities_are_those_of_one_flat_pass() -> None:
    """By hand: the ancestors' mask, the positions, and the plain model."""
    result = read_tags(PARATHINKER, MODEL, PROMPT)
    first, second, summary = result.lanes
    P, rows = len(result.prompt), [(t, i, SHARED) for i, t in enumerate(result.prompt)]
    for lane in result.lanes:
        at = lane.start - len(lane.prompt)
        rows += [(t, at + k, lane.index) for k, t in enumerate([*lane.prompt, *lane.tokens])]
    assert first.start - len(first.prompt) == second.start - len(second.prompt) == P
    tokens, positions, lanes = np.array(rows).T

    class Ancestors(type(MODEL.mask(3))):  # type: ignore[misc]
        def visible(self, i, m, j, n):  # type: ignore[no-untyped-def]
            same = (m[:, None] == n[None, :]) | (n == SHARED)[None, :] | (m == 2)[:, None]
            return same & (j[None, :] <= i[:, None])

    mask = Ancestors(np.eye(3, dtype=bool))
    logits = MODEL(tokens, positions, lanes, lane_mask=mask)
    last = int(np.flatnonzero(lanes == 2)[-2])
    row = logits[last] - np.logaddexp.reduce(logits[last])
    assert summary.logprobs[-1] == pytest.approx(float(row[summary.tokens[-1]]), abs=1e-9)


@pytest.mark.parametrize(
    "text, says",
    [
        ("a <Path> b", "<Path> at character 2"),
        ("a </Thread> b", "</Thread> at character 2"),
        ("<Path> a <Path> b </Path> c", "<Path> at character 9"),
        ("<think 1> a </think 2>", "<think 1> at character 0"),
    ],
)
def test_tags_that_do_not_close_are_refused_with_their_place(text: str, says: str) -> None:
    with pytest.raises(TinylaneError, match=says):
        read_tags(text, MODEL, PROMPT)


def test_an_empty_text_and_one_beyond_the_context_are_refused() -> None:
    with pytest.raises(TinylaneError, match="0 lanes"):
        read_tags("", MODEL, PROMPT)
    with pytest.raises(TinylaneError, match="this model's context is 2048"):
        read_tags("<Path>" + "abc " * 3000 + "</Path>", MODEL, PROMPT)


WORDS = st.text(st.sampled_from("ab 1\n"), max_size=6)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=3)), max_size=3), WORDS)
def test_pieces_are_the_text(blocks: list[tuple[str, list[str]]], end: str) -> None:
    text = "".join(
        before + "".join(f"<Path>{path}</Path>" for path in paths) for before, paths in blocks
    )
    assert "".join(piece.text for piece in pieces(text + end)) == text + end


NAMED = ("Path", "Thread", "think", "think 1", "think 2")
MARKS = [mark for name in NAMED for mark in (f"<{name}>", f"</{name}>")]
LINE = st.lists(st.sampled_from([*MARKS, "</", "a", " "])).map("".join)


@given(LINE)
def test_pieces_are_what_a_regular_expression_finds(text: str) -> None:
    """The oracle looks for a path's end anew from every tag: 20,000 open ones took 16 s."""
    path = re.compile(rf"<({NAMES})>(.*?)</\1>\s*", re.DOTALL)
    outside = path.sub("|", text)
    if TAG.search(outside) or any(TAG.search(found[2]) for found in path.finditer(text)):
        with pytest.raises(TinylaneError, match="is not closed, not opened, or stands inside"):
            pieces(text)
    else:
        inner = [piece.text for piece in pieces(text) if TAG.match(piece.text)]
        assert inner == [found[0] for found in path.finditer(text)]


@pytest.mark.parametrize("text", ["<Path>" * 100_000, "<Path>" + "<think 1>" * 100_000])
def test_many_tags_that_do_not_close_are_refused_too(text: str) -> None:
    with pytest.raises(TinylaneError, match="<Path> at character 0 is not closed"):
        pieces(text)
