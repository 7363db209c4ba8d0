"""What a server answers is what the library computes: texts, probabilities, ends, usage."""

from __future__ import annotations

import threading
from itertools import groupby
from pathlib import Path
from typing import Any

import helpers_serve
import numpy as np
import pytest
from helpers_serve import GAME, Server, joined

import tinylane
from tinylane import methods
from tinylane.core.lanes import SHARED, LaneMask

inside = helpers_serve.inside  # a fixture
PLAIN = {"prompt": GAME, "n": 3, "seed": 5, "max_tokens": 6, "temperature": 3}


@pytest.fixture(scope="module")
def model() -> Any:
    return tinylane.load(Path(__file__).parents[2] / "weights" / "shell-game", backend="numpy")


def drawn(model: Any, n: int, seed: int, max_tokens: int, **settings: Any) -> Any:
    """Independent samples, by the library."""
    usual = {
        "lane_mask": LaneMask.independent(n),
        "lane_prompts": [""] * n,
        "sampler": tinylane.Sampler(temperature=3),
    }
    return tinylane.generate(
        model, GAME, lanes=n, seed=seed, max_tokens=max_tokens, **{**usual, **settings}
    )


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def test_choices_are_the_samples_that_the_library_draws(inside: Server, model: Any) -> None:
    """Without `lanes` they are independent, although this model was trained to read others."""
    answer, alone = inside.text(PLAIN), drawn(model, 3, 5, 6)
    assert texts(answer) == alone.texts and len(set(alone.texts)) == 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    reasons = {"stop": "stop", "length": "length"}
    assert [c["finish_reason"] for c in answer["choices"]] == [
        reasons[lane.finish_reason] for lane in alone.lanes
    ]
    counted = sum(len(lane.tokens) for lane in alone.lanes)
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (23, counted)
    assert usage["total_tokens"] == 23 + counted


def test_lanes_read_each_other_where_a_request_asks_for_it(inside: Server, model: Any) -> None:
    """The model inside is right only if they do."""
    ask = {"prompt": GAME, "n": 4, "temperature": 0, "max_tokens": 7}
    joint = inside.text({**ask, "lanes": True})
    assert {text.split()[-1] for text in texts(joint)} == {"ACDB"}
    spelled = inside.text({**ask, "lanes": {"method": "joint", "visibility": "joint"}})
    assert texts(spelled) == texts(joint)
    tags = [f"{m}/4" for m in (1, 2, 3, 4)]
    blind = inside.text({**ask, "lanes": {"visibility": "independent", "prompts": tags}})
    alone = drawn(model, 4, 0, 7, lane_prompts=tags, sampler=tinylane.Sampler(temperature=0))
    assert texts(blind) == alone.texts != texts(joint)
    matrix = {"visibility": np.eye(4, dtype=int).tolist()[::-1], "prompts": tags}
    odd = LaneMask(np.eye(4)[::-1])
    other = drawn(
        model, 4, 0, 7, lane_prompts=tags, sampler=tinylane.Sampler(temperature=0), lane_mask=odd,
        lane_rope=model.lane_rope,
    )  # fmt: skip
    assert texts(inside.text({**ask, "lanes": matrix})) == other.texts


def test_penalties_count_what_a_lane_has_drawn(inside: Server, model: Any) -> None:
    """OpenAI's formula, token by token, on the model alone; the prompt does not count."""
    penalties = {"frequency_penalty": 1.5, "presence_penalty": 0.5}
    ban = {"1": -100}  # no end
    ask = {"prompt": GAME, "n": 2, "temperature": 0, "max_tokens": 30, "logit_bias": ban}
    plain, answer = (texts(inside.text({**ask, **more})) for more in ({}, penalties))
    ids = model.tokenizer.prompt_ids(GAME, raw=True)
    drawn: list[int] = []
    for _ in range(30):
        rows = [*ids, *drawn]
        places = np.arange(len(rows)), np.full(len(rows), SHARED)
        logits = np.asarray(model(rows, *places))[-1].astype(np.float64)
        logits[1] -= 100
        counts = np.bincount(drawn, minlength=len(logits))
        drawn.append(int((logits - 1.5 * counts - 0.5 * (counts > 0)).argmax()))
    assert answer == [model.tokenizer.decode(drawn)] * 2 != plain
    sampled = {**ask, **penalties, "temperature": 1, "seed": 4}
    one, other = texts(inside.text(sampled)), texts(inside.text(sampled))
    assert one == other and one[0] != one[1]


def test_the_same_request_gives_the_same_whatever_the_server_holds_and_does(inside: Server) -> None:
    """To the bit: with and without an earlier prompt's rows, alone and among others."""
    ask = {**PLAIN, "prompt": f"{GAME} 1/4", "logprobs": 1}
    first, again = inside.text(ask), inside.text(ask)
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}  # of GAME, before
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}
    results: list[Any] = []
    others = [
        threading.Thread(target=lambda s=s: results.append(inside.text({**ask, "seed": s})))
        for s in (5, 6, 5, 7)
    ]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    with helpers_serve.serving("--prefill-step-size", 8, "--prompt-cache-bytes", 0) as fresh:
        cold = fresh.text(ask)
        assert fresh.text(ask)["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    same = [answer for answer in results if answer["tinylane"]["seed"] == 5]
    assert len(same) == 2 and len(results) == 4
    for answer in (again, cold, *same):
        assert answer["choices"] == first["choices"]


def test_a_seed_is_told_and_gives_the_same_again(inside: Server) -> None:
    ask = {"prompt": GAME, "n": 2, "max_tokens": 6, "temperature": 3}
    one, two = inside.text(ask), inside.text(ask)
    assert one["tinylane"]["seed"] != two["tinylane"]["seed"]
    assert texts(inside.text({**ask, "seed": one["tinylane"]["seed"]})) == texts(one)
    assert texts(inside.text({**ask, "seed": -1})) == texts(inside.text({**ask, "seed": 2**64 - 1}))


def test_a_stream_is_the_answer_in_pieces_and_its_choices_interleave(inside: Server) -> None:
    whole = inside.text(PLAIN)
    pieces = list(
        inside.stream("/v1/completions", {**PLAIN, "stream_options": {"include_usage": True}})
    )
    assert joined(pieces[:-1]) == dict(enumerate(texts(whole)))
    assert (
        pieces[-1]["choices"] == []
        and pieces[-1]["usage"]["completion_tokens"] == (whole["usage"]["completion_tokens"])
    )
    assert all(piece["usage"] is None for piece in pieces[:-1])
    order = [piece["choices"][0]["index"] for piece in pieces[:-1]]
    assert len(list(groupby(order))) > 6  # a run for each choice would be 3
    ends = {
        piece["choices"][0]["index"]: piece["choices"][0]["finish_reason"]
        for piece in pieces[:-1]
        if piece["choices"][0]["finish_reason"]
    }
    assert ends == {c["index"]: c["finish_reason"] for c in whole["choices"]}
    assert len({piece["id"] for piece in pieces}) == 1


def test_several_prompts_are_answered_as_each_alone(inside: Server) -> None:
    other = "cups ABCD, swap 1-2 1-2: where?"
    both = inside.text({**PLAIN, "n": 2, "prompt": [GAME, other]})
    alone = [inside.text({**PLAIN, "n": 2, "prompt": prompt}) for prompt in (GAME, other)]
    assert texts(both) == texts(alone[0]) + texts(alone[1])
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]


def test_echoed_probabilities_are_those_of_one_pass(inside: Server, model: Any) -> None:
    """Over blocks and the rest, with the likeliest beside them; as token ids and as text."""
    ids = model.tokenizer.encode(GAME)
    logits = np.asarray(model(ids, range(len(ids)), [SHARED] * len(ids)), dtype=np.float64)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = logits[np.arange(len(ids) - 1), ids[1:]]
    ask = {"max_tokens": 1, "logprobs": 3, "echo": True, "temperature": 0}
    for prompt in (GAME, ids):
        choice = inside.text({**ask, "prompt": prompt})["choices"][0]
        told = choice["logprobs"]
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        assert len(told["tokens"]) == len(ids) + 1
        np.testing.assert_allclose(told["token_logprobs"][1:-1], expected, atol=1e-5)
        best = [max(top.values()) for top in told["top_logprobs"][1:-1]]
        np.testing.assert_allclose(best, logits[:-1].max(axis=-1), atol=1e-5)
        assert told["token_logprobs"][-1] == max(told["top_logprobs"][-1].values())  # greedy
    only = inside.text({"prompt": GAME, "echo": True, "max_tokens": 0, "logprobs": 0})
    assert only["choices"][0]["finish_reason"] == "length"
    assert only["usage"]["completion_tokens"] == 0
    assert only["choices"][0]["text"] == model.tokenizer.decode(ids, skip_special=False)
    np.testing.assert_allclose(
        only["choices"][0]["logprobs"]["token_logprobs"][1:], expected, atol=1e-5
    )


def test_asking_for_probabilities_changes_no_text(inside: Server) -> None:
    plain = texts(inside.text(PLAIN))
    assert texts(inside.text({**PLAIN, "logprobs": 20})) == plain
    echoed = inside.text({**PLAIN, "logprobs": 1, "echo": True})
    begin = inside.text({"prompt": GAME, "echo": True, "max_tokens": 0})["choices"][0]["text"]
    assert [text.removeprefix(begin) for text in texts(echoed)] == plain


def test_drawn_tokens_come_with_their_probability_and_the_likeliest(
    inside: Server, model: Any
) -> None:
    told = inside.text({**PLAIN, "logprobs": 2})["choices"]
    lanes = drawn(model, 3, 5, 6).lanes
    for choice, lane in zip(told, lanes, strict=True):
        count = len(choice["logprobs"]["tokens"])  # an end token is not told
        np.testing.assert_allclose(
            choice["logprobs"]["token_logprobs"], lane.logprobs[:count], atol=1e-5
        )
        for token, top in zip(
            choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"], strict=True
        ):
            assert token in top and 2 <= len(top) <= 3


def test_a_bias_bans_a_token_and_a_stop_ends_a_text(inside: Server, model: Any) -> None:
    greedy = {"prompt": GAME, "temperature": 0, "max_tokens": 5}
    first = texts(inside.text(greedy))[0].split()
    token = model.tokenizer.encode(first[0])[0]
    assert (
        texts(inside.text({**greedy, "logit_bias": {str(token): -100}}))[0].split()[0] != (first[0])
    )
    ended = inside.text({**greedy, "stop": [first[1]]})["choices"][0]
    assert ended["text"].strip() == first[0] and ended["finish_reason"] == "stop"
    by_id = inside.text({**greedy, "stop_token_ids": [model.tokenizer.encode(first[1])[0]]})[
        "choices"
    ][0]
    assert by_id["text"].strip() == first[0]
    assert len(texts(inside.text({**greedy, "max_tokens": 2}))[0].split()) == 2


@pytest.mark.parametrize("method", ["parathinker", "best_of_n", "hogwild_steps", "plain_lanes"])
def test_the_lanes_of_a_method_work_on_one_answer(inside: Server, model: Any, method: str) -> None:
    """The text that the method's rule takes, and every lane's; a stream has it at the end."""
    ask = {"prompt": GAME, "seed": 5, "max_tokens": 6, "temperature": 3}
    ask["lanes"] = {"method": method, "lanes": 2}
    alone = methods.generate(
        model, GAME, method, 2, max_tokens=6, seed=5, sampler=tinylane.Sampler(temperature=3)
    )
    answer = inside.text(ask)
    (told,) = answer["tinylane"]["lanes"]
    assert [lane["text"] for lane in told["lanes"]] == alone.texts
    rule = methods.METHODS[method].answer
    by_rule = {
        "last": alone.texts[-1],
        "text": "\n".join(alone.texts),
        "best": tinylane.best_of(alone).text,
    }
    assert rule == "vote" or texts(answer) == [by_rule[rule]]
    assert texts(answer)[0] in by_rule["text"]
    assert answer["usage"]["completion_tokens"] == sum(len(lane.tokens) for lane in alone.lanes)
    pieces = list(inside.stream("/v1/completions", ask))
    assert joined(pieces) == {0: texts(answer)[0]} and len(pieces) == 1


def test_mlx_serves_in_its_own_thread(inside: Server, model: Any) -> None:
    """Prompts in blocks, kept blocks, joint lanes: greedy texts and probabilities as of NumPy."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    ask = {"prompt": GAME, "n": 4, "temperature": 0, "max_tokens": 7, "lanes": True, "logprobs": 1}
    with helpers_serve.serving("--backend", "mlx", "--prefill-step-size", 8) as server:
        for expected in (0, 16):
            answer = server.text(ask)
            assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": expected}
            same = inside.text(ask)["choices"]
            assert texts(answer) == [choice["text"] for choice in same]
            for got, other in zip(answer["choices"], same, strict=True):
                np.testing.assert_allclose(
                    got["logprobs"]["token_logprobs"],
                    other["logprobs"]["token_logprobs"],
                    atol=1e-4,
                )


def test_the_model_says_its_name(inside: Server) -> None:
    status, listed = inside.ask("GET", "/v1/models")
    assert status == 200 and [card["id"] for card in listed["data"]] == ["shell-game"]
    assert listed["data"][0]["context_length"] == 512
    assert inside.ask("GET", "/v1/models/shell-game")[0] == 200
    status, answer = inside.ask("POST", "/v1/completions", {**PLAIN, "model": "gpt-4"})
    assert status == 404 and answer["error"]["code"] == "model_not_found"
    assert "shell-game" in answer["error"]["message"]


def test_fields_without_effect_are_taken(inside: Server) -> None:
    more = {"user": "x", "metadata": {"a": "b"}, "frequency_penalty": 0, "suffix": None}
    assert texts(inside.text({**PLAIN, **more})) == texts(inside.text(PLAIN))
