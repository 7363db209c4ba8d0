"""One behaviour of every method in which paths begin and are joined, on a small model."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_behaviour import END, MODEL, begin, go, ids, reads, texts, write
from helpers_methods import WARM

from tinylane.core.lanes import SHARED
from tinylane.evaluate.answers import answering
from tinylane.methods import decode


def test_the_summary_of_parathinker_stands_one_behind_the_longest_path() -> None:
    d = begin("parathinker", 2, first_finish=False, max_tokens=40)
    d.give(0, [END])
    go(d)
    paths, summary = d.lanes[:2], d.lanes[2]
    longest = max(lane.positions[-1] for lane in paths)
    assert summary.start == longest + 1 + len(summary.prompt)
    assert paths[0].text.endswith("</think 1>") and paths[1].text.endswith("</think 2>")
    assert reads(d, 2) == {0, 1} and reads(d, 0) == set()


def test_parathinker_ends_all_paths_with_the_first() -> None:
    d = begin("parathinker", 2, max_tokens=60)
    d.give(0, [END])
    go(d)
    assert d.lanes[1].finish_reason == "joined" and len(d.lanes[1].tokens) < 60


def test_multiverse_opens_as_many_paths_as_its_outline_has() -> None:
    d = begin("multiverse", 3, outline_tokens=60)
    write(d, 0, "<Outline>a<Outline>b</Goal>")
    go(d, 1)
    assert len(d.lanes) == 3 and d.lanes[0].finish_reason == "closed"
    first = [lane.start - len(lane.prompt) for lane in d.lanes[1:]]
    assert len({*first}) == 1 and reads(d, 1) == {0}


def test_multiverse_opens_a_second_block_where_the_text_does() -> None:
    d = begin("multiverse", 2, outline_tokens=8, max_tokens=40)
    while len(d.lanes) < 4:
        go(d, 1)
    conclusion = d.lanes[3]
    assert reads(d, 3) == {0, 1, 2}
    write(d, conclusion.index, "</Goal>")
    d.schedule(d)
    assert len(d.lanes) == 6 and reads(d, 5) == {0, 1, 2, 3}


def test_npr_has_the_schedule_of_multiverse() -> None:
    assert texts(go(begin("npr", 2))) == texts(go(begin("multiverse", 2)))


def test_parallel_r1_joins_by_reuse_or_by_rereading() -> None:
    unseen, seen = go(begin("parallel_r1", 2)), go(begin("parallel_r1", 2, reread=True))
    assert texts(unseen)[:3] == texts(seen)[:3]
    assert reads(unseen, 3) == {0, 1, 2} and reads(seen, 3) == set()
    assert seen.lanes[3].prompt[: len(seen.lanes[0].tokens)] == seen.lanes[0].tokens
    assert unseen.lanes[3].prompt == ids("</Parallel>\n<Summary>")


def test_aspd_goes_on_behind_its_branches_without_a_word_between() -> None:
    d = go(begin("aspd", 2))
    assert d.lanes[3].prompt == ids("\n") and reads(d, 3) == {0, 1, 2}
    branches = d.lanes[1:3]
    assert {lane.start - len(lane.prompt) for lane in branches} == {d.lanes[0].positions[-1] + 1}


def test_pasta_goes_on_behind_the_promised_place_and_reads_the_branch_later() -> None:
    d = begin("pasta", 1, promised=20)
    while len(d.lanes) < 3:
        go(d, 1)
    _main, branch, after = d.lanes
    start = branch.start - len(branch.prompt)
    assert after.start - len(after.prompt) == start + 20 and reads(d, 2) == {0}
    go(d)
    assert branch.positions[-1] < start + 20
    assert reads(d, 3) == {0, 1, 2}  # behind the sync


def test_threadweaver_reads_the_text_of_its_threads_again() -> None:
    d = go(begin("threadweaver", 2))
    last = d.lanes[3]
    text = [*d.lanes[0].tokens]
    for lane in d.lanes[1:3]:
        text += [*lane.prompt, *lane.tokens]
    assert last.prompt == [*(t for t in text if t != END), *ids("</Parallel>")]
    flat = [*d.prompt, *last.prompt, *last.tokens[:-1]]
    plain = MODEL(flat, np.arange(len(flat)), [SHARED] * len(flat))[-1]
    assert float((plain - np.logaddexp.reduce(plain))[last.tokens[-1]]) == pytest.approx(
        last.logprobs[-1], abs=1e-9
    )


def test_a_child_of_apr_knows_nothing_of_its_parent() -> None:
    one = go(begin("apr", 2))
    other = go(decode(MODEL, "1 something else?", "apr", 2, max_tokens=12, sampler=WARM, seed=1))
    assert texts(one)[1:3] == texts(other)[1:3] and texts(one)[0] != texts(other)[0]
    assert one.lanes[3].prompt == [*one.reread([1, 2]), *ids("\njoin:")] and reads(one, 3) == {0}


def test_ssa_gives_all_drafts_to_one_reader() -> None:
    d = go(begin("ssa", 2))
    assert d.lanes[2].prompt == [*d.reread([0, 1]), *ids("\nGoing by these, the answer is")]
    assert d.lanes[2].start == len(d.prompt) + len(d.lanes[2].prompt)


def test_a_tree_of_thoughts_drops_all_but_the_best_of_a_level() -> None:
    rank = lambda lane: lane.index % 2  # the second of two is the best
    d = go(begin("tree_of_thoughts", 2, depth=3, score=rank))
    assert [lane.index for lane in d.lanes if lane.dropped is not None] == [0, 2, 4]
    assert reads(d, 5) == {1, 3} and len(d.lanes) == 6
    assert answering("tree_of_thoughts", d.result()) == [d.lanes[5]]
    first = go(begin("tree_of_thoughts", 2, depth=2, score=lambda lane: -lane.index))
    assert answering("tree_of_thoughts", first.result()) == [first.lanes[2]]  # though 3 came last


def test_a_line_without_a_word_closes_no_thought() -> None:
    """Many models begin with an empty line."""
    d = begin("graph_of_thoughts", 2)
    write(d, 0, "\n")
    write(d, 1, "a\n")
    d.schedule(d)
    assert [lane.finish_reason for lane in d.lanes] == [None, "closed"]
    write(d, 0, "b\n")
    d.schedule(d)
    assert d.lanes[0].finish_reason == "closed" and d.lanes[2].index == 2


def test_a_thought_that_ends_is_given_its_close_once() -> None:
    d = begin("parathinker", 2, max_tokens=40, first_finish=False)
    d.step()
    d.give(0, [END])
    go(d, 30)
    given = [event for event in d.events if event["event"] == "give" and event["lane"] == 0]
    assert [event["tokens"] for event in given[1:]] == [ids("</think 1>")]
    assert d.lanes[0].text.endswith("</think 1>") and d.lanes[0].finish_reason == "closed"


def test_a_graph_of_thoughts_has_a_root_that_reads_all() -> None:
    d = go(begin("graph_of_thoughts", 4))
    assert [reads(d, m) for m in (4, 5, 6)] == [{0, 1}, {2, 3}, {0, 1, 2, 3, 4, 5}]
    assert d.lanes[4].start == d.lanes[5].start < d.lanes[6].start
