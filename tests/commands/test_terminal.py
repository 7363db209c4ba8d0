"""Lanes side by side: all are labelled, nothing is lost, model text cannot steer a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tinylane.commands.terminal import Columns, LaneView, Lines, side_by_side


def console(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, record=True)


def shown(views: list[LaneView], width: int = 80, height: int | None = None) -> str:
    out = console(width)
    out.print(side_by_side(views, out, height))
    return out.export_text()


def views(n: int, words: int = 12) -> list[LaneView]:
    return [
        LaneView(f"lane {m}", " ".join(f"w{m}.{k}" for k in range(words)), "foot") for m in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 4, 5, 8, 16, 64])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_final_view_holds_every_label_and_every_word(n: int, width: int) -> None:
    text = shown(views(n), width)
    for m in range(n):
        assert f"lane {m}" in text
        for k in range(12):
            assert f"w{m}.{k}" in text, (m, k)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("n", [1, 4, 5, 16, 64, 300])
@pytest.mark.parametrize("width", [10, 40, 80])
@pytest.mark.parametrize("height", [5, 12, 24, 50])
def test_the_live_view_never_exceeds_the_screen(n: int, width: int, height: int) -> None:
    lines = shown(views(n, words=400), width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_live_view_shows_the_end_of_a_long_text() -> None:
    text = shown(views(2, words=5000), 80, 24)
    assert "w0.4999" in text and "w1.4999" in text and "w0.100 " not in text


def test_lines_of_the_live_view_do_not_flow_at_every_token() -> None:
    """A cut of the text that moves with its end would wrap every line anew at each step."""
    text = "".join(f"word{k:04} " for k in range(2000))
    one = shown([LaneView("a", text), LaneView("b")], 80, 24).splitlines()
    two = shown([LaneView("a", text + "more"), LaneView("b")], 80, 24).splitlines()
    assert len(set(one) & set(two)) > 15


def test_lanes_that_do_not_fit_are_counted() -> None:
    assert "and 61 more lanes" in shown(views(64), 40, 4)


def test_model_text_is_neutralised_and_no_markup_is_read() -> None:
    evil = "\x1b[2J\x1b]0;title\x07[bold red]x[/] \u202e \r\x08"
    out = console()
    out.print(side_by_side([LaneView(evil, evil, evil), LaneView("b", "fine")], out))
    out.print(side_by_side([LaneView(evil, evil, evil)] * 50, out, 10))
    raw = out.file.getvalue()  # type: ignore[attr-defined]
    for part in ("\x1b[2J", "\x1b]0", "\x07", "\u202e", "\r", "\x08"):
        assert part not in raw
    assert "[bold red]x[/]" in out.export_text()


def test_lanes_differ_by_colour_and_by_label_and_without_colour_by_label() -> None:
    out = console()
    out.print(side_by_side(views(2), out))
    raw = out.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;94m" in raw and "\x1b[1;31m" in raw
    grey = Console(file=io.StringIO(), width=80, no_color=True, color_system=None)
    grey.print(side_by_side(views(2), grey))
    assert "lane 0" in grey.file.getvalue()  # type: ignore[attr-defined]


def test_wide_characters_do_not_break_the_frame() -> None:
    text = shown([LaneView("a", "杯子游戏 " * 40), LaneView("b", "🥤👩‍🚀 " * 40)], 60, 20)
    assert all(line[-1] in "╮│┤╯" for line in text.rstrip().splitlines())


def test_columns_draw_while_they_run_and_leave_the_whole_text() -> None:
    out = console(80, 12)
    some = [LaneView("lane 0"), LaneView("lane 1")]
    with Columns(some, out) as view:
        for k in range(300):
            some[0].text += f"a{k} "
            some[1].text += f"b{k} "
            view.draw()
    final = out.export_text()
    assert all(f"a{k} " in final and f"b{k} " in final for k in range(300))


def test_columns_leave_the_text_at_an_interrupt_and_nothing_at_an_error() -> None:
    for error, left in ((KeyboardInterrupt, True), (ValueError, False)):
        out = console(80, 12)
        with pytest.raises(error), Columns([LaneView("lane 0", "text"), LaneView("lane 1")], out):
            raise error
        assert ("text" in out.export_text()) == left


def test_one_lane_streams_as_it_comes() -> None:
    out = io.StringIO()
    lines = Lines(["lane 0"], out)
    lines.add(["a\nb"])
    assert out.getvalue() == "a\nb"
    lines.add([" c\x1b"])
    lines.close()
    assert out.getvalue() == "a\nb c\\x1b\n"


def test_several_lanes_are_whole_lines_behind_their_labels() -> None:
    out = io.StringIO()
    lines = Lines(["lane 0", "lane 1"], out)
    lines.add(["one ", "x\ny"])
    lines.add(["two\n", "z"], {1: "stop"})
    lines.add(["three", ""])
    lines.close()
    expected = ["lane 1 | x", "lane 0 | one two", "lane 1 | yz", "lane 0 | three"]
    assert out.getvalue().splitlines() == expected


def test_lanes_too_narrow_for_columns_keep_their_whole_text_and_their_foot() -> None:
    """Behind the last step nothing may be cut: a narrow terminal scrolls."""
    out = Console(file=io.StringIO(), width=6, record=True)
    cells = [LaneView("a", " ".join(f"w{k}" for k in range(9)), "done"), LaneView("b", "")]
    out.print(side_by_side(cells, out), soft_wrap=True)
    lines = out.export_text().split("\n")
    assert lines[0] == "a: w0 w1 w2 w3 w4 w5 w6 w7 w8  [done]" and lines[1] == "b: ..."


def test_a_single_lane_s_empty_step_prints_nothing() -> None:
    """A token that is half a character has no text yet."""
    out = io.StringIO()
    lines = Lines(["lane"], out)
    for text in ("ab", "", "c"):
        lines.add([text])
    lines.close()
    assert out.getvalue() == "abc\n"
