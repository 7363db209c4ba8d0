"""What a replay shows is what one dense pass gives, and silencing a lane really silences it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lanes import log_softmax, omega
from helpers_view import as_run, decoded, dense

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.core.result import Lane
from tinylane.view import replay_record as recording
from tinylane.view.replay import ReplayRows, replay, rows_of
from tinylane.view.replay_record import Record, record
from tinylane.view.replay_words import first_shown, sentences
from tinylane.view.run_file import Run, load_run, save_run

KINDS = ("joint", "lag", "hogwild", "group_think", "star", "independent", "events", "fork", "life")
EVERY = pytest.mark.parametrize("kind", KINDS)


def tokens_of(run: Run) -> list[tuple[Lane, int]]:
    return [(lane, k) for lane in run.result.lanes for k in range(len(lane.tokens))]


def query_of(run: Run, lane: Lane, k: int) -> tuple[int, int]:
    """(position, lane) of the row before a token, written out: of the lane that drew it."""
    if lane.forked is not None and lane.start + k < lane.forked[1]:
        return query_of(run, run.result.lanes[lane.forked[0]], k)
    if k == 0 and lane.follows is not None:
        sealed = run.result.lanes[lane.follows]
        return sealed.positions[-1], sealed.index
    if k == 0 and not lane.prompt:
        return len(run.result.prompt) - 1, SHARED
    return (lane.positions[k - 1] if k else lane.start - 1), lane.index


def place_of(run: Run, r: int) -> tuple[int, int]:
    """(position, lane) of row r of a record, counted one by one."""
    places = [(i, SHARED) for i in range(len(run.result.prompt))]
    for lane in run.result.lanes:
        begin = lane.start - len(lane.prompt)
        places += [(begin + k, lane.index) for k in range(len(lane.prompt))]
        places += [(i, lane.index) for i in lane.positions]
    return places[r]


def oracle_shares(w: np.ndarray, lanes: list[int], n: int) -> np.ndarray:
    """(S,) weights -> (n + 1,) sums, added one by one in float64."""
    sums = [0.0] * (n + 1)
    for value, lane in zip(w.tolist(), lanes, strict=True):
        sums[lane + 1] += value
    return np.array(sums)


def check_against_dense(found: Record, model: Any, run: Run, tolerance: float) -> None:
    w, number = dense(model, run)
    lanes = [lane for _, lane in number]
    n = len(run.result.lanes)
    for q, (lane, k) in enumerate(tokens_of(run)):
        row = number[query_of(run, lane, k)]
        assert place_of(run, found.row[q]) == (lane.positions[k], lane.index)
        assert place_of(run, found.asked[q]) == query_of(run, lane, k)
        for view in found.views:
            mine = w if view.layer is None else w[view.layer : view.layer + 1]
            mine = mine if view.head is None else mine[:, view.head : view.head + 1]
            weights = mine[:, :, row].astype(np.float64).mean(axis=(0, 1))
            np.testing.assert_allclose(
                view.shares[q], oracle_shares(weights, lanes, n), rtol=0, atol=tolerance
            )
            kept = view.keys[q] >= 0
            largest = np.sort(weights)[::-1][: kept.sum()]
            np.testing.assert_allclose(view.weights[q][kept], largest, rtol=0, atol=tolerance)
            named = [weights[number[place_of(run, r)]] for r in view.keys[q][kept]]
            np.testing.assert_allclose(named, view.weights[q][kept], rtol=0, atol=tolerance)
            assert (view.weights[q][~kept] == 0).all()
            assert abs(view.shares[q].sum() - 1) < 1e-5


@EVERY
@pytest.mark.parametrize("kept", [("numpy", "float64"), ("mlx", "float32")], ids="-".join)
def test_shares_and_keys_are_those_of_one_dense_pass(kind: str, kept: tuple[str, str]):
    """Every view of every drawn token, against sums over the dense weights written as a loop."""
    if kept[0] == "mlx":
        pytest.importorskip("mlx.core")
    model, run = decoded(kind, *kept)
    found = record(run, model, keys=5)
    assert [(v.layer, v.head) for v in found.views[:6]] == [
        (None, None), (0, None), (0, 0), (0, 1), (0, 2), (0, 3),
    ]  # fmt: skip
    assert found.views[0].keys.shape[1] == 5 and found.views[1].keys.shape[1] == 2
    check_against_dense(found, model, run, 1e-6 if kept[0] == "numpy" else 5e-6)
    assert found.difference < (1e-9 if kept[0] == "numpy" else 2e-4)


def test_shares_of_a_wrong_row_are_noticed():
    """Negative control: the attention of the token's own row instead of the row before it."""
    model, run = decoded()
    found = record(run, model)
    w, number = dense(model, run)
    lane = run.result.lanes[0]
    row = number[lane.start + 2, 0]  # not query_of
    wrong = oracle_shares(w[:, :, row].mean(axis=(0, 1)), [m for _, m in number], 3)
    assert np.abs(found.views[0].shares[2] - wrong).max() > 1e-3


def test_a_run_in_many_small_passes_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    model, run = decoded("events")
    whole = record(run, model, influence=True)
    monkeypatch.setattr(recording, "PASS", 4 * 40)  # rows of a pass: 1 or 2, and their position
    parts = record(run, model, influence=True)
    for a, b in zip(whole.views, parts.views, strict=True):
        np.testing.assert_allclose(a.shares, b.shares, rtol=0, atol=1e-6)
        np.testing.assert_allclose(a.weights, b.weights, rtol=0, atol=1e-6)
        assert np.array_equal(a.keys, b.keys)
    np.testing.assert_allclose(whole.heard, parts.heard, rtol=0, atol=1e-6)
    for a, b in zip(whole.silences, parts.silences, strict=True):
        np.testing.assert_allclose(a.kl, b.kl, rtol=0, atol=1e-9)


@EVERY
def test_averages_of_heads_are_means_over_what_each_lane_wrote_itself(kind: str):
    model, run = decoded(kind)
    found = record(run, model)
    for view in found.views:
        if view.head is None:
            continue
        for m in range(found.n):
            mine = (found.of == m) & ~found.copied
            expected = view.shares[mine].mean(axis=0) if mine.any() else np.zeros(found.n + 1)
            np.testing.assert_allclose(found.heard[view.layer, view.head, m], expected, atol=1e-6)
    mean = found.heard.mean(axis=(0, 1))
    np.testing.assert_allclose(np.nan_to_num(found.lane_shares()), mean, atol=1e-6)
    others = [1 - s[0] - s[m + 1] for s, m in zip(found.views[0].shares, found.source, strict=True)]
    np.testing.assert_allclose(found.to_others(), others, atol=1e-6)


@EVERY
def test_the_same_random_numbers_draw_the_same_tokens_again(kind: str):
    """What was drawn follows from the file: also a fork's, and a lane's that joined late."""
    model, run = decoded(kind)
    found = record(run, model)
    assert found.redrawn.tolist() == [lane.tokens[k] for lane, k in tokens_of(run)]
    np.testing.assert_allclose(
        found.logprobs, [p for x in replay(run, model).logprobs for p in x], atol=1e-9
    )


def silent_oracle(model: Any, run: Run, lane: int | None) -> np.ndarray:
    """(Q, V) log-probabilities from one dense pass, the lane's column of visibility cleared."""
    rows = rows_of(run, model)
    seen = np.array(run.lane_mask.visibility)
    if lane is not None:
        seen[:, lane] = False
    history = copy.copy(rows.history)
    object.__setattr__(history, "visibility", seen)
    logits = model(rows.tokens, rows.positions, rows.lanes, run.lane_rope, history)
    places = list(zip(rows.positions.tolist(), rows.lanes.tolist(), strict=True))
    asked = [places.index(query_of(run, x, k)) for x, k in tokens_of(run)]
    return log_softmax(logits)[asked]


@EVERY
def test_silence_is_a_dense_pass_without_the_lane(kind: str):
    """Log-probabilities, top tokens, and KL, added up with math.fsum."""
    model, run = decoded(kind)
    found = record(run, model, influence=True)
    as_it_was = silent_oracle(model, run, None)
    written = [lane.tokens[k] for lane, k in tokens_of(run)]
    changed = 0
    for silence in found.silences:
        without = silent_oracle(model, run, silence.lane)
        for q, token in enumerate(written):
            assert abs(silence.logprobs[q] - without[q, token]) < 1e-9
            assert silence.likeliest[q] == without[q].argmax()
            p, r = as_it_was[q].tolist(), without[q].tolist()
            kl = math.fsum(math.exp(a) * (a - b) for a, b in zip(p, r, strict=True))
            assert abs(silence.kl[q] - kl) < 1e-9
        changed += int((silence.kl > 1e-4).sum())
    assert (changed > 0) == (kind != "independent")


def test_a_silenced_lane_s_text_does_not_matter_and_otherwise_it_does():
    """Silence really silences: its tokens can be any. The control: without silence they matter."""
    model, run = decoded("joint")
    other = copy.deepcopy(run)
    other.result.lanes[1].tokens[:] = [(t + 7) % 29 for t in other.result.lanes[1].tokens]
    a, b = (record(r, model, influence=True) for r in (run, other))
    mine = a.of != 1
    assert np.array_equal(a.silences[1].logprobs[mine], b.silences[1].logprobs[mine])
    assert np.array_equal(a.silences[1].likeliest[mine], b.silences[1].likeliest[mine])
    assert np.abs(a.logprobs[mine] - b.logprobs[mine]).max() > 1e-3
    assert np.abs(a.silences[0].logprobs[mine] - b.silences[0].logprobs[mine]).max() > 1e-3


def test_a_silence_that_silences_nobody_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Negative control: the oracle differs from passes under the run's own mask."""
    model, run = decoded("joint")
    monkeypatch.setattr(ReplayRows, "silenced", lambda self, lane: self.history)
    found = record(run, model, influence=True)
    without = silent_oracle(model, run, 1)
    mine = [t for lane in run.result.lanes for t in lane.tokens]
    expected = without[np.arange(len(mine)), mine]
    assert (found.silences[1].kl < 1e-12).all()
    assert np.abs(found.silences[1].logprobs - expected).max() > 1e-2


def test_who_cannot_be_reached_is_not_changed_by_a_bit():
    """In the star only lane 0 reads: silencing 1 changes lane 0 alone, silencing 0 nobody."""
    model, run = decoded("star")
    found = record(run, model, influence=True)
    assert (found.silences[0].kl == 0).all()
    assert np.array_equal(found.silences[0].logprobs, found.logprobs)
    assert (found.silences[1].kl[found.of != 0] == 0).all()
    assert found.silences[1].kl[found.of == 0].max() > 1e-4


def test_logits_too_many_to_keep_are_computed_again(monkeypatch: pytest.MonkeyPatch):
    model, run = decoded("events")
    kept = record(run, model, influence=True)
    monkeypatch.setattr(recording, "LOGITS", 0)
    again = record(run, model, influence=True)
    for a, b in zip(kept.silences, again.silences, strict=True):
        np.testing.assert_allclose(a.kl, b.kl, rtol=0, atol=1e-12)
        assert np.array_equal(a.drawn, b.drawn)


def test_greedy_runs_would_have_written_the_likeliest_token():
    from tinylane.core.sampling import Sampler

    model, run = decoded("joint", sampler=Sampler(temperature=0.0))
    found = record(run, model, influence=True)
    for silence in found.silences:
        assert np.array_equal(silence.drawn, silence.likeliest)


def test_copied_tokens_are_known_and_not_counted():
    model, run = decoded("fork")
    found = record(run, model)
    fork = run.result.lanes[3]
    assert fork.forked == (1, fork.start + 2)
    assert found.copied[found.of == 3].tolist() == [True, True] + [False] * (len(fork.tokens) - 2)
    assert not found.copied[found.of != 3].any()


def test_memory_bounds_leave_heads_out_then_layers_then_refuse(monkeypatch: pytest.MonkeyPatch):
    model, run = decoded("joint")
    said: list[str] = []
    per = len(tokens_of(run)) * (4 * 4 + 8 * 2)
    for bound, views in ((10 * per, 11), (10 * per - 1, 3), (2 * per - 1, 1)):
        monkeypatch.setattr(recording, "KEPT", bound)
        said.clear()
        assert len(record(run, model, keys=2, note=said.append).views) == views
        assert bool(said) == (views < 11)
    monkeypatch.setattr(recording, "KEPT", per - 1)
    with pytest.raises(TinylaneError, match="do not fit"):
        record(run, model, keys=2)


def test_what_cannot_be_viewed_is_refused_in_one_line():
    model, run = decoded("joint")
    for keys in (0, -1, 5000):
        with pytest.raises(TinylaneError, match="--keys"):
            record(run, model, keys=keys)
    empty = copy.deepcopy(run)
    for lane in empty.result.lanes:
        lane.tokens, lane.logprobs = [], []
    with pytest.raises(TinylaneError, match="no tokens"):
        record(empty, model)
    forked = copy.deepcopy(run)
    forked.result.lanes[1].forked = (0, forked.result.lanes[1].start)
    with pytest.raises(TinylaneError, match="lane 1 was forked from lane 0, but begins with other"):
        record(forked, model)


def test_sentences_say_what_the_numbers_say():
    model, run = decoded("joint")
    found = record(run, model, influence=True)
    said = sentences(found, str)
    shares = found.lane_shares()[:, 1:]
    others = [(shares[m, n], m, n) for m in range(3) for n in range(3) if m != n]
    share, m, n = max(others)
    assert f"Lane {m + 1} listened to lane {n + 1} most: {100 * share:.0f}% of" in said[1]
    assert said[0].startswith(f"{100 * found.to_others().mean():.0f}% of all attention")
    worst = max(range(len(found.of)), key=lambda q: max(s.kl[q] for s in found.silences))
    assert first_shown(found) == worst and f"lane {found.of[worst] + 1} would" in said[3]
    alone = sentences(record(decoded("independent")[1], model, influence=True))
    assert alone[0].startswith("No lane listened to another")
    one = sentences(record(*reversed(decoded("joint", lanes=1, lane_prompts=None, max_tokens=4))))
    assert len(one) == 1 and one[0].startswith("One lane has no other")


@pytest.mark.parametrize("kind", ["none", "random"])
def test_omega_of_one_row_for_all_layers_is_viewed_too(kind: str):
    model, run = decoded("joint", lane_rope=omega(decoded()[0], kind))
    check_against_dense(record(run, model), model, run, 1e-6)


def test_as_run_is_what_a_file_gives(tmp_path: Path):
    """The helper of these tests makes the run that `load_run` would."""
    model, run = decoded("hogwild")
    save_run(tmp_path / "run.json", run.result, model)
    loaded = load_run(tmp_path / "run.json")
    assert loaded.lane_rope == run.lane_rope and loaded.result == as_run(model, run.result).result
