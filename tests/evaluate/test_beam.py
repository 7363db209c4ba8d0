"""Beam search: what transformers' gives, and with beams enough the best of all texts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers_lanes import BACKENDS, EOS, ids, log_softmax, model_of, small
from helpers_text import byte_level
from record_beam import FILE
from record_beam import model_of as recorded_model
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError
from tinylane.files.io import read_json
from tinylane.methods.beam_search import beam_search

CASES = read_json(FILE)["cases"]
ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)


@ANY
def test_the_hypotheses_are_those_of_transformers(kind):
    """Recorded by record_beam.py: tokens and scores, over penalties, stopping and end ids."""
    cases = CASES if kind[0] == "numpy" else CASES[::3]
    for case in cases:
        found = beam_search(
            recorded_model(case, *kind),
            case["prompt"],
            case["beams"],
            case["max_tokens"],
            length_penalty=case["length_penalty"],
            early_stopping=case["early_stopping"],
        )
        assert [done.tokens for done in found] == [x["tokens"] for x in case["hypotheses"]], case
        if case["beams"] > 1:  # transformers calls one beam greedy and gives no score
            scores = [x["score"] for x in case["hypotheses"]]
            np.testing.assert_allclose([x.score for x in found], scores, rtol=0, atol=1e-4)
    assert any(x["tokens"][-1] in case["ends"] for case in CASES for x in case["hypotheses"])


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0])
def test_with_beams_enough_it_finds_the_best_of_all_texts(penalty):
    """Brute force over a vocabulary of 5, by uncached passes; token 3 ends a text."""
    model, prompt, longest = small(vocab=5, eos_ids=(EOS,)), ids(3, vocab=5), 3
    scores = {}
    for tokens in itertools.product(range(5), repeat=longest):
        rows = len(prompt) + longest
        logprobs = log_softmax(model([*prompt, *tokens], range(rows), [0] * rows))
        length = tokens.index(EOS) + 1 if EOS in tokens else longest
        own = [logprobs[len(prompt) - 1 + k, tokens[k]] for k in range(length)]
        scores[tokens[:length]] = sum(own) / length**penalty
    best = sorted(scores.items(), key=lambda item: -item[1])
    found = beam_search(model, prompt, 125, longest, length_penalty=penalty, early_stopping="never")
    assert [tuple(done.tokens) for done in found] == [tokens for tokens, _ in best]
    np.testing.assert_allclose([x.score for x in found], [x for _, x in best], rtol=0, atol=1e-9)
    narrow = beam_search(model, prompt, 1, longest, length_penalty=penalty)
    assert narrow[0].score <= found[0].score + 1e-12


@ANY
def test_one_beam_is_greedy(kind):
    model, prompt = model_of(*kind), ids(6)
    text = list(prompt)
    for _ in range(8):
        logits = model(text, range(len(text)), [0] * len(text), rows=[len(text) - 1])
        text.append(int(np.asarray(logits)[0].argmax()))
        if text[-1] == EOS:
            break
    assert beam_search(model, prompt, 1, 8)[0].tokens == text[6:]


def test_scores_are_those_of_one_uncached_pass():
    """Beams forked and dropped many times still have the rows of their own text."""
    model, prompt = model_of("numpy", "float64"), ids(6)
    for done in beam_search(model, prompt, 6, 20, length_penalty=0.0):
        rows = len(prompt) + len(done.tokens)
        logprobs = log_softmax(model([*prompt, *done.tokens], range(rows), [0] * rows))
        own = logprobs[range(len(prompt) - 1, rows - 1), done.tokens].sum()
        assert done.score == pytest.approx(own, abs=1e-9)


def test_beams_have_text_without_the_end_token_and_stop_at_the_context():
    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    model = small(vocab=tokenizer.vocab_size, tokenizer=tokenizer, context=12)
    prompt = tokenizer.prompt_ids("swap")
    found = beam_search(model, "swap", 3, 99, early_stopping="never")
    assert len(found) == 3 and max(len(x.tokens) for x in found) <= 12 - len(prompt)
    assert [x.text for x in found] == [tokenizer.decode(x.tokens) for x in found]


def test_a_prompt_longer_than_a_chunk_is_cached_whole(monkeypatch):
    model = model_of("numpy", "float64")
    expected = beam_search(model, ids(9), 3, 5)
    monkeypatch.setattr("tinylane.methods.beam_search.CHUNK", 2)
    found = beam_search(model, ids(9), 3, 5)
    assert [x.tokens for x in found] == [x.tokens for x in expected]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"beams": 10_000}, "beams is 10000"),
        ({"beams": True}, "beams is True"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"prompt": []}, "empty"),
        ({"prompt": [1] * 512}, "context is 512"),
    ],
)
def test_settings_out_of_range_are_refused(more, named):
    with pytest.raises(TinylaneError, match=named):
        beam_search(model_of("numpy", "float64"), **{"prompt": [1], **more})
