"""The page holds what the record says, says what it leaves out, stays small, and traps nothing."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_lanes import VOCAB, small
from helpers_view import HOSTILE, as_run, decoded, hostile

from tinylane import plot
from tinylane.core.decoding import Lane, Result
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.sampling import Sampler
from tinylane.files.display import printable
from tinylane.view import replay_page as paging
from tinylane.view.replay_page import Texts, page
from tinylane.view.replay_record import Record, Silence, View, record
from tinylane.view.replay_words import first_shown, sentences
from tinylane.view.run_file import Run, save_run

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures
FREE = Sampler()


def data_of(html: str) -> dict[str, Any]:
    """The page's data, found as a browser would: by its element."""

    class Finder(HTMLParser):
        inside = False
        text = ""

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.inside = tag == "script" and dict(attrs).get("id") == "data"

        def handle_data(self, data: str) -> None:
            self.text += data if self.inside else ""

    finder = Finder()
    finder.feed(html)
    return json.loads(finder.text)


def unpacked(packed: list[Any]) -> np.ndarray:
    """The numbers, by another way than the page's."""
    width, count, text = packed
    planes = zlib.decompress(base64.b64decode(text))
    assert len(planes) == width * count
    return np.array(
        [
            sum(planes[p * count + k] << 8 * p for p in range(width))
            for k in range(count)
        ]
    )  # fmt: skip


def large(lanes: int, tokens: int, layers: int, heads: int, silences: bool = True) -> Record:
    """A record that deflate can do nothing with: all numbers random, every token its own text."""
    rng = np.random.default_rng(0)
    vocab, P, keys, few = 30_000, 64, 8, 2
    Q, R = lanes * tokens, P + lanes * tokens
    drawn = rng.integers(0, vocab, (lanes, tokens))
    made = [
        Lane(m, [], P, tokens, drawn[m].tolist(), [-1.0] * tokens, "length") for m in range(lanes)
    ]
    result = Result(rng.integers(0, vocab, P).tolist(), made, tokens, 0.0, 0.0, {})
    mask, rope = LaneMask.joint(lanes), LaneRoPE(np.zeros(4))
    run = Run(result, "m", "i", "numpy", "float32", "", rope, mask, FREE, 0, "0", {})
    begins = P + tokens * np.arange(lanes + 1)

    def view(layer: int | None, head: int | None, k: int) -> View:
        shares = rng.dirichlet(np.ones(lanes + 1), Q).astype(np.float32)
        weights = np.sort(rng.random((Q, k)), axis=1)[:, ::-1] / k
        return View(layer, head, shares, rng.integers(0, R, (Q, k)).astype(np.int32), weights)

    names = [(a, b) for a in range(layers) for b in [None, *range(heads)]]
    row = np.arange(P, R)
    written = drawn.reshape(-1)
    silent = [
        Silence(m, *rng.integers(0, vocab, (2, Q)), -rng.random(Q), rng.random(Q))
        for m in range(lanes * silences)
    ]  # fmt: skip
    return Record(
        run, begins, np.repeat(np.arange(lanes), tokens), row, row - 1, np.zeros(Q, bool),
        -5 * rng.random(Q), 0.0, written, written, rng.dirichlet(np.ones(lanes + 1), (layers, heads,
        lanes)), [view(None, None, keys), *(view(a, b, few) for a, b in names)], silent,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["joint", "events", "fork", "hogwild"])
def test_the_page_s_numbers_are_the_record_s(kind: str):
    """Log-probabilities within half a thousandth, shares and weights within a step of rounding;
    shares add up to exactly one."""
    model, run = decoded(kind)
    found = record(run, model, influence=True)
    data = data_of(page(found)[0])
    Q, N = len(found.of), found.n
    np.testing.assert_allclose(unpacked(data["logprob"]) / -1000, found.logprobs, atol=0.00051)
    assert np.array_equal(unpacked(data["asked"]), found.asked)
    assert len(data["views"]) == len(found.views)
    for packed, view in zip(data["views"], found.views, strict=True):
        assert (packed["layer"], packed["head"]) == (view.layer, view.head)
        top = packed["top"]
        shares = unpacked(packed["shares"]).reshape(N + 1, Q).T
        assert (shares.sum(axis=1) == top).all()
        np.testing.assert_allclose(shares / top, view.shares, atol=1.01 / top)
        keys = unpacked(packed["keys"]).reshape(-1, Q).T - 1
        assert np.array_equal(keys, view.keys)
        weights = unpacked(packed["weights"]).reshape(-1, Q).T
        np.testing.assert_allclose(weights / top, view.weights, atol=0.51 / top)
    texts = data["texts"]
    for packed, silence in zip(data["silences"], found.silences, strict=True):
        np.testing.assert_allclose(unpacked(packed["kl"]) / 1000, silence.kl, atol=0.00051)
        written = [t for lane in found.lanes for t in lane.tokens]
        for q, code in enumerate(unpacked(packed["drawn"])):
            same = silence.drawn[q] == written[q]
            assert (code == 0) == same and (same or texts[code - 1] == str(silence.drawn[q]))
    assert data["first"] == first_shown(found) and data["sentences"] == sentences(found)


def test_eight_lanes_of_512_tokens_stay_below_2_mb_even_if_nothing_deflates():
    """Random numbers and texts, 4 layers of 4 heads, every lane silenced: the worst there is."""
    html, said = page(large(8, 512, 4, 4))
    size = len(html.encode())
    assert size < 2_000_000
    assert len(data_of(html)["views"]) > 4, said


def test_a_page_of_any_size_keeps_the_heads_that_listened_and_says_what_is_missing():
    found = large(3, 40, 2, 4, silences=False)
    full, said = page(found)
    assert "for 10 of 10 layers and heads" in said and "only averages" not in said
    bound = len(full) - 3000
    html, said = page(found, size=bound / 1e6)
    data = data_of(html)
    kept = {(view["layer"], view["head"]) for view in data["views"][1:]}
    assert len(html) <= bound and 0 < len(kept) < 10
    assert f"for {len(kept)} of 10 layers and heads" in said and data["kept"] == said
    assert f"of the other {10 - len(kept)} layers and heads" in said
    views = list(enumerate(found.views))[1:]
    rank = {(v.layer, v.head): round(found.to_others(k).mean(), 9) for k, v in views}
    left = set(rank) - kept
    assert min(rank[name] for name in kept) >= max(rank[name] for name in left)
    html, said = page(found, size=0)  # the mean is there whatever it takes
    assert len(data_of(html)["views"]) == 1 and "and for" not in said


@pytest.mark.parametrize("top", [255, 65535])
def test_rounded_shares_add_up_and_are_each_within_one_step(top: int):
    shares = np.random.default_rng(0).dirichlet(np.ones(9) * 0.1, 500)
    whole = paging._whole_shares(shares, top)
    assert (whole.sum(axis=1) == top).all() and np.abs(whole / top - shares).max() < 1 / top


@pytest.mark.parametrize("values", [[], [0], [255, 0], [256], [65535, 1], [65536, 0, 1 << 31]])
def test_packed_numbers_come_back(values: list[int]):
    packed = paging._packed(np.array(values, dtype=np.int64))
    assert unpacked(packed).tolist() == values
    assert packed[0] == (1 if max(values, default=0) < 256 else 2 if max(values) < 65536 else 4)


# Text.


def test_no_text_of_a_model_reaches_the_page_as_html():
    model, run = hostile()
    html, _ = page(record(run, model, influence=True), model.tokenizer)
    for trap in ("window.hacked", "onerror"):  # there, but inside of the JSON only
        assert trap in html
    before, _, rest = html.partition('<script id="data" type="application/json">')
    inside, _, after = rest.partition("</script>")
    assert inside.isascii() and not re.search("[<>&\x00-\x1f\x7f]", inside)
    assert "hacked" not in before and "hacked" not in after
    texts = data_of(html)["texts"]
    for word in HOSTILE:
        shown = printable(word)
        assert (shown if len(shown) <= 120 else f"{shown[:119]}…") in texts
    joined = "".join(texts)
    assert not set(joined) & set("\x1b\x00\x9b\u202e\u2066\u2028") and "\\u202e" in joined


def test_the_page_asks_for_nothing_and_runs_only_its_own_script():
    html, _ = page(record(decoded()[1], decoded()[0]))
    frame = re.sub(r'(?s)<script id="data".*?</script>', "", html)
    for harmless in ("http://www.w3.org/2000/svg", "data:,"):  # a name; the empty icon
        frame = frame.replace(harmless, "")
    assert not re.search(r"https?:|://|@import|url\(|\bsrc=|fetch\(", frame)
    assert "default-src 'none'" in html and "unsafe-eval" not in html
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    import hashlib

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in script


def test_characters_split_over_tokens_count_to_the_last_and_special_tokens_have_names():
    from helpers_text import byte_level
    from tokenizers import Tokenizer as Core

    from tinylane.checkpoints.tokenizer import Tokenizer

    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    model = small(vocab=tokenizer.vocab_size + 3, tokenizer=tokenizer)
    ball = tokenizer.encode("🎾 x")
    _, run = decoded(model=model, lane_prompts=[ball, [tokenizer.vocab_size + 1], []])
    texts = Texts(record(run, model), tokenizer)
    P = len(run.result.prompt)
    mine = [texts.table[k] for k in texts.number[P : P + len(ball)]]
    assert "".join(mine).replace("·", "") == "🎾 x" and mine[0] == "·"
    padded = texts.number[P + len(ball) + 6]
    assert texts.table[padded] == f"[{tokenizer.vocab_size + 1}]" and padded in texts.special
    end = tokenizer.core.token_to_id("</s>")
    assert texts.shown(end) == "</s>"
    assert "\\xf0" in texts.shown(ball[0])  # by itself: the bytes that it has


def test_without_a_tokenizer_ids_are_shown():
    model, run = decoded()
    data = data_of(page(record(run, model))[0])
    assert data["ids_only"] and data["special"] == []
    written = [data["texts"][k] for k in unpacked(data["text"])]
    expected = [*run.result.prompt]
    for lane in run.result.lanes:
        expected += [*lane.prompt, *lane.tokens]
    assert written == [str(t) for t in expected] and len(expected) > VOCAB // 2


# Pictures.


@pytest.mark.parametrize(("kind", "influence"), [("events", True), ("fork", False)])
def test_the_panel_is_drawn_and_says_in_words_what_it_shows(
    kind: str, influence: bool, tmp_path: Path
):
    model, run = decoded(kind)
    found = record(run, model, influence=influence)
    figure = plot.replay(found)
    assert len(figure.axes) == 4 + influence  # two panels, a scale, and a table or two
    assert plot.alt(figure).endswith(" ".join(sentences(found)))
    assert plot.save(figure, tmp_path / "a.svg").stat().st_size > 5000


def test_the_panel_s_bands_are_the_record_s_shares():
    model, run = decoded("joint")
    found = record(run, model)
    bands = plot.shares(found).axes[0].lines
    curves = [line for line in bands if len(line.get_xdata()) > 2]
    for m, line in enumerate(curves):
        height = (m + 0.45 - np.asarray(line.get_ydata()))[::2] / 0.9
        np.testing.assert_allclose(height, found.to_others()[found.of == m], atol=1e-9)
    assert len(curves) == 3


def test_a_long_run_is_drawn_without_words(tmp_path: Path):
    found = large(8, 200, 1, 1)
    figure = plot.replay(found)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == [] and plot.save(figure, tmp_path / "long.png").stat().st_size > 20_000


# The command line.


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
        lane["tokens"], lane["logprobs"] = [], []
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


def test_as_run_is_what_a_file_gives(tmp_path: Path):
    """The helper of these tests makes the run that `load_run` would."""
    from tinylane.view.run_file import load_run

    model, run = decoded("hogwild")
    save_run(tmp_path / "run.json", run.result, model)
    loaded = load_run(tmp_path / "run.json")
    assert loaded.lane_rope == run.lane_rope and loaded.result == as_run(model, run.result).result
