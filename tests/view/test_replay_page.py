"""The page holds what the record says, says what it leaves out, stays small, and traps nothing."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from helpers_lanes import VOCAB, small
from helpers_view import HOSTILE, data_of, decoded, hostile, large, unpacked

from tinylane.files.display import printable
from tinylane.view import replay_page as paging
from tinylane.view.replay_page import Texts, page
from tinylane.view.replay_record import record
from tinylane.view.replay_words import first_shown, sentences


@pytest.mark.parametrize("kind", ["joint", "events", "fork", "hogwild", "lives"])
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
    assert f"Of the other {10 - len(kept)} layers and heads" in said
    views = list(enumerate(found.views))[1:]
    rank = {(v.layer, v.head): round(found.to_others(k).mean(), 9) for k, v in views}
    left = set(rank) - kept
    assert min(rank[name] for name in kept) >= max(rank[name] for name in left)
    html, said = page(found, size=0)  # the mean is there whatever it takes
    assert len(data_of(html)["views"]) == 1 and "the same for" not in said


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
