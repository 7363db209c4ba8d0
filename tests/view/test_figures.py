"""Figures say in words what they show, and show what the package computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinylane
from tinylane import SHARED, LaneMask, LaneRoPE, TinylaneError, plot
from tinylane.core.rope import rotate, table
from tinylane.testing import example_case
from tinylane.testing.checks import bound
from tinylane.view.attention import attention_weights, difference_scores

RNG = np.random.default_rng(0)
THETA = 10000.0 ** (-np.arange(4) / 4)
POSITIONS = np.array([0, 1, 2, 2, 3, 3])
LANES = np.array([SHARED, SHARED, 0, 1, 0, 1])


def result() -> tinylane.Result:
    case = example_case(3)
    return tinylane.generate(case.model(), [1, 2, 3], lanes=2, max_tokens=4)


def figures() -> dict:
    q, k = RNG.standard_normal((2, 8))
    return {
        "mask": plot.mask(LaneMask.joint(2), POSITIONS, LANES),
        "angles": plot.angles({"theta": THETA, "none": 0 * THETA}),
        "turns": plot.turns({"q": q, "k": k}),
        "scores": plot.scores(q, k, THETA, 2 * THETA, range(-9, 10), range(-1, 2)),
        "attention": plot.attention([[1, 0], [0.25, 0.75]], ["a", "b"], ["c", "d"]),
        "lanes": plot.lanes(result()),
        "lines": plot.lines({"up": [1, 2, 3]}, [0, 1, 2], "x", "y", "Growth"),
    }


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_every_figure_is_drawn_and_carries_its_alt_text(tmp_path: Path, suffix: str) -> None:
    for name, figure in figures().items():
        path = plot.save(figure, tmp_path / f"{name}.{suffix}")
        assert len(plot.alt(figure)) > 30, name
        data = path.read_bytes()
        assert len(data) > 3000
        if suffix != "pdf":  # a PDF's is compressed
            assert plot.alt(figure)[:25].encode() in data.replace(b"&#x27;", b"'"), name
    assert len(list(tmp_path.iterdir())) == 7  # no temporary file is left behind


def test_the_same_figure_gives_the_same_file(tmp_path: Path) -> None:
    a, b = (plot.save(figures()["mask"], tmp_path / f"{k}.png") for k in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_a_format_that_is_not_known_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match=r"\.png, \.svg or \.pdf"):
        plot.save(figures()["mask"], tmp_path / "mask.bmp")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TinylaneError, match="cannot be written"):
        plot.save(figures()["mask"], tmp_path / "nowhere" / "mask.png")


def test_a_mask_s_figure_has_a_mark_for_every_visible_pair() -> None:
    lane_mask = LaneMask.star(2, lag=1)
    seen = lane_mask.visible(POSITIONS, LANES, POSITIONS, LANES)
    marks = plot.mask(lane_mask, POSITIONS, LANES).axes[0].collections
    by_name = {str(m.get_label()): {tuple(x) for x in np.asarray(m.get_offsets())} for m in marks}
    hidden = by_name.pop("hidden")
    assert sorted(by_name) == ["other lane", "own", "shared"]
    assert set().union(*by_name.values()) == {(s, t) for t, s in np.argwhere(seen)}
    assert hidden == {(s, t) for t, s in np.argwhere(~seen)}


def test_text_from_a_model_is_drawn_as_it_is_not_read_as_mathematics(tmp_path: Path) -> None:
    words = ["$x^{", "a\nb", "\x1b[31m", "", "long " * 20]
    figure = plot.attention(np.eye(5), words, words)
    plot.save(figure, tmp_path / "words.png")
    assert "\x1b" not in plot.alt(figure) and "\n" not in plot.alt(figure)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TinylaneError, match="1 queries and 2 keys"):
        plot.attention(np.eye(2), ["a"], ["b", "c"])
    with pytest.raises(TinylaneError, match=r"expected \(D/2,\)"):
        plot.angles({"per layer": np.ones((2, 4))})
    with pytest.raises(TinylaneError, match=r"expected \(D,\)"):
        difference_scores(np.ones(8), np.ones(8), np.ones(3), np.ones(3), [0], [0])


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_attention_weights_are_zero_where_hidden_and_one_together(backend: str) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    for seed in range(12):
        case = example_case(seed)
        model, sample = case.model(backend, "float32"), case.sample
        before = np.asarray(bound(model, sample)(*sample.rows))
        weights = attention_weights(model, *sample.rows, sample.rope, sample.mask)
        T = len(sample.tokens)
        assert weights.shape == (model.config.layers, model.config.heads, T, T)
        assert np.allclose(weights.sum(axis=-1), 1, atol=1e-5)
        seen = sample.mask.visible(*sample.rows[1:], *sample.rows[1:])
        assert (weights[..., ~seen] == 0).all()
        assert np.array_equal(before, np.asarray(bound(model, sample)(*sample.rows)))


def test_attention_weights_of_a_16_bit_model_are_those_of_its_values_widened() -> None:
    """NumPy has no bfloat16: float32 is handed out, of weights each rounded as the model does."""
    pytest.importorskip("mlx.core")
    gaps = []
    for seed in range(6):
        case = example_case(seed)
        asked = (*case.sample.rows, case.sample.rope, case.sample.mask)
        models = (case.model("mlx", dtype) for dtype in ("bfloat16", "float32"))
        half, whole = (attention_weights(model, *asked) for model in models)
        assert half.dtype == np.float32 and np.allclose(half.sum(axis=-1), 1, atol=2**-7)
        gaps.append(np.abs(half - whole).max())
    assert 0 < max(gaps) < 0.1


def test_a_score_by_difference_is_that_of_the_rotated_vectors() -> None:
    q, k = RNG.standard_normal((2, 8))
    rope = LaneRoPE(RNG.uniform(-3, 3, 4))
    for (i, m), (j, n) in [((5, 0), (3, 2)), ((1, 3), (9, 1))]:
        angles = np.array([[i], [j]]) * THETA + rope.angles(np.array([m, n]), 0)
        a, b = rotate(np.stack([q, k]), *table(angles, dtype=np.float64))
        found = difference_scores(q, k, THETA, rope.omega, [j - i], [n - m])
        assert found.shape == (1, 1) and np.isclose(found[0, 0], a @ b)


def test_importing_plot_does_not_import_matplotlib() -> None:
    code = "import sys, tinylane.plot; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


WRONG = [None, 1.5, 10**400, "4", b"4", [], [None], [[1]], {}, {"a": 1}, object(), np.array("x")]
Q = RNG.standard_normal(8)
CALLS = {
    "mask": {"lane_mask": LaneMask.joint(2), "positions": POSITIONS, "lanes": LANES,
             "lane_rope": LaneRoPE.none(THETA), "theta": THETA, "plane": 0},
    "angles": {"frequencies": {"theta": THETA}},
    "turns": {"vectors": {"q": Q}},
    "scores": {"query": Q, "key": Q, "theta": THETA, "omega": THETA, "positions": [0, 1],
               "lanes": [0, 1]},
    "attention": {"weights": [[1, 0]], "queries": ["a"], "keys": ["b", "c"],
                  "names": ("q", "k", "w")},
    "lines": {"series": {"a": [1, 2]}, "x": [1, 2]},
    "lanes": {"result": result(), "tokenizer": None},
    "save": {"figure": plot.angles({"theta": THETA}), "path": "/nowhere/x.png"},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_cannot_be_drawn_is_one_clear_line(name: str) -> None:
    words = {"xlabel": "x", "ylabel": "y", "title": "t"} if name == "lines" else {}
    for argument in CALLS[name]:
        for value in WRONG:
            try:
                getattr(plot, name)(**{**CALLS[name], argument: value}, **words)
            except TinylaneError as error:
                assert len(str(error)) > 10 and "\n" not in str(error)
