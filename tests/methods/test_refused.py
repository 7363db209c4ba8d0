"""Options and settings of a wrong kind, budgets, and who answers: what a hostile reader tried."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_methods import PROMPT, WARM, small

import tinylane
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import answering
from tinylane.methods import NAMES, checked, decode, generate, prepare, start
from tinylane.methods.beam_search import beam_search
from tinylane.view.run_file import load_run

MODEL = small()
DECODED = [name for name in NAMES if name != "beam"]


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("hogwild_steps", {"until": "["}, "until is no regular expression"),
        ("hogwild_steps", {"names": []}, "names is empty"),
        ("hogwild_steps", {"forbidden": 3}, "forbidden is 3; expected a list of texts"),
        ("multi_stream", {"given": []}, "expected an object"),
        ("gambit", {"floor": "x"}, "floor"),
        ("dynamic_lanes", {"unlikely": None}, "unlikely"),
        ("tool_lane", {"tool": "x"}, "a function"),
        ("stop", {"score": "x"}, "a function"),
        ("pasta", {"sync": 3}, "a text"),
        ("async_reasoning", {"until": 3}, "a text"),
        ("logit_averaging", {"prompts": 7}, "a list"),
        ("parathinker", {"first_finish": "no"}, "true or false"),
        ("parathinker", {"open": 5}, "open is 5; expected a text or token ids"),
        ("gambit", {"every": 0}, "every is 0; expected a whole number at least 1"),
        ("npr", {"blocks": True}, "blocks is True; expected a whole number at least 1"),
        ("budget_forcing", {"waits": -1}, "waits is -1; expected a whole number at least 0"),
        ("lace", {"scale": "x"}, "scale is 'x'; expected a number"),
        ("lace", {"omega": "x"}, "omega is 'x'; expected none"),
        ("hogwild_steps", {"check_every": "x"}, "check_every is 'x'; expected a whole number"),
    ],
)
def test_an_option_of_a_wrong_kind_is_refused_by_name(name: str, options: Any, says: str) -> None:
    for ask in (lambda: checked(name, options), lambda: prepare(MODEL, name, 3, 12, options)):
        with pytest.raises(TinylaneError, match=says.replace("[", r"\[")):
            ask()


@pytest.mark.parametrize("name", DECODED)
def test_no_method_spends_more_than_all_lanes_may(name: str) -> None:
    endless = tinylane.Sampler(1.0, logit_bias=dict.fromkeys(MODEL.tokenizer.eos_ids, -1e30))
    for total in (6, 40):
        how = {"max_tokens": 30, "seed": 3, "sampler": endless, "total_tokens": total}
        result = generate(MODEL, PROMPT, name, 3, **how)
        assert sum(len(lane.tokens) for lane in result.lanes) <= total


def test_a_dropped_lane_does_not_answer() -> None:
    for seed in range(8):
        how = {"max_tokens": 20, "seed": seed, "sampler": WARM}
        options = {"warmup": 4, "every": 4}
        result = generate(MODEL, PROMPT, "gambit", 3, options=options, **how)
        assert any(lane.dropped is not None for lane in result.lanes)
        assert tinylane.best_of(result).dropped is None
        assert all(lane.dropped is None for lane in answering("gambit", result))
    last = generate(MODEL, PROMPT, "parathinker", 2, max_tokens=20, seed=1, sampler=WARM)
    assert [lane.index for lane in answering("parathinker", last)] == [2]


def test_slot_0_is_slot_0() -> None:
    rope = prepare(MODEL, "group_think", 2, 9, {"slot": 0}).settings["lane_rope"]
    assert not rope.omega.any()


def test_a_run_whose_schedule_cannot_go_on_is_shown_and_saved(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "run.json"
    config = json.dumps({"first_finish": False, "close": "", "end": ""})
    words = ["generate", "--raw", "--prompt", "swap", "--seed", "3", "--backend", "numpy"]
    words += ["--temp", "2", "--logit-bias", '{"1":-100}', "--max-tokens", "600", "--lanes", "2"]
    code = main([*words, "--method", "parathinker", "--method-config", config, "--save", str(file)])
    said = capsys.readouterr()
    assert code == 2 and "the context ends" in said.err
    assert sum(len(lane.tokens) for lane in load_run(file).result.lanes) > 900


def test_what_is_no_file_is_not_replaced(tmp_path: Path, capsys: Any) -> None:
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = main(["generate", "--seed", "3", "--save", str(pipe)])
    assert code == 2 and "is no regular file" in capsys.readouterr().err
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--method", "lanerope", "--visibility", "[[1,1],[1,1]]", "--lanes", "3"], "2 x 2"),
        (["--method", "parathinker", "--lane-prompt", "A", "B", "C", "D"], "texts of its own"),
        (["--method", "gambit", "--method-config", '{"width": 9}'], "no 'width'"),
    ],
)
def test_flags_that_a_method_cannot_use_are_refused(
    words: list[str], says: str, capsys: Any
) -> None:
    assert main(["generate", "--raw", "--prompt", "swap", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


# What a caller gives that is called.


def test_whole_numbers_of_numpy_are_options() -> None:
    options = {"warmup": np.int64(4), "every": np.int64(4), "floor": np.float32(-1e9)}
    told = {"max_tokens": 10, "seed": 3, "sampler": WARM}
    ours, plain = (
        generate(MODEL, PROMPT, "gambit", 3, options=given, **told)
        for given in (options, {"warmup": 4, "every": 4})
    )
    assert [lane.tokens for lane in ours.lanes] == [lane.tokens for lane in plain.lanes]


@pytest.mark.parametrize("name", DECODED)
def test_a_setup_that_is_used_again_begins_anew(name: str) -> None:
    """Two decodings with one setup, step by step in turn, and a third one after them."""
    how = {"max_tokens": 20, "seed": 3, "sampler": WARM}
    expected = [lane.tokens for lane in generate(MODEL, PROMPT, name, 3, **how).lanes]
    setup = prepare(MODEL, name, 3, 20)
    both = [start(MODEL, PROMPT, setup, **how) for _ in range(2)]
    for _ in zip_longest(*both):
        pass
    third = start(MODEL, PROMPT, setup, **how)
    list(third)
    for decoding in (*both, third):
        assert [lane.tokens for lane in decoding.lanes] == expected


class Second(tinylane.Sampler):
    """A sampler of somebody's own, made otherwise than a Sampler: the second likeliest token."""

    def __init__(self, best: int) -> None:
        super().__init__(temperature=0.0)
        object.__setattr__(self, "best", best)

    def __call__(self, logits: Any, uniforms: Any, history: Any) -> tuple[Any, Any]:
        tokens = np.asarray(logits).argsort(axis=-1)[:, -self.best]
        return tokens, np.zeros(len(tokens))


@pytest.mark.parametrize("name", ["logit_averaging", "hogwild_steps"])
def test_a_sampler_of_one_s_own_draws_in_every_method(name: str) -> None:
    """The first token is the second likeliest; with Tied it is that of the mean."""
    options = {"forbidden": []} if name == "hogwild_steps" else {}
    first = []
    for sampler in (Second(1), Second(2)):
        d = decode(MODEL, PROMPT, name, 2, max_tokens=5, options=options, sampler=sampler)
        d.schedule(d) if d.schedule else None
        m = d.live[0].index
        logits = np.mean([d.peek(x.index) for x in d.live], axis=0) if not options else d.peek(m)
        d.step()
        first.append((d.lanes[m].tokens[0], int(logits.argsort()[-sampler.best])))  # type: ignore[attr-defined]
    assert all(ours == expected for ours, expected in first) and first[0] != first[1]


@pytest.mark.parametrize("name", [None, "logit_averaging", "hogwild_steps", "gambit"])
@pytest.mark.parametrize("sampler", [lambda *x: ([1], [0.0]), tinylane.Sampler, 5])
def test_what_is_no_sampler_is_refused_by_every_method(name: str | None, sampler: Any) -> None:
    with pytest.raises(TinylaneError, match=r"sampler is .*; expected a Sampler, or of a class"):
        if name is None:
            tinylane.generate(MODEL, PROMPT, max_tokens=3, sampler=sampler)
        else:
            generate(MODEL, PROMPT, name, 2, max_tokens=3, sampler=sampler)


def lazy(*given: Any) -> Any:
    yield 1.0


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("gambit", {"score": lambda lane: "high"}, "the score of lane 0 is 'high'; expected a num"),
        ("stop", {"score": lambda lane: None}, "the score of lane 0 is None; expected a number"),
        ("stop", {"score": lambda lane: np.nan}, "the score of lane 0 is NaN; expected a number"),
        ("tree_of_thoughts", {"score": lambda lane: [1, 2]}, r"the score of lane \d is \[1, 2\]"),
        (
            "tool_lane",
            {"tool": lambda texts: 5},
            "the tool's answer is 5; expected a text",
        ),
        ("tool_lane", {"tool": lazy}, "tool is a generator or coroutine function"),
        ("stop", {"score": lazy}, "score is a generator or coroutine function"),
    ],
)
def test_a_function_that_gives_what_it_should_not_is_told_so(
    name: str, options: Any, says: str
) -> None:
    options |= {"prefix": 2} if name == "stop" else {}
    options |= {"warmup": 2, "every": 2} if name == "gambit" else {}
    with pytest.raises(TinylaneError, match=says):
        generate(MODEL, PROMPT, name, 3, max_tokens=6, options=options, sampler=WARM, seed=1)


def test_a_tool_that_has_nothing_to_say_may_say_so() -> None:
    result = generate(MODEL, PROMPT, "tool_lane", 1, max_tokens=4, options={"tool": lambda x: None})
    assert result.lanes[1].tokens == []


ODD: list[Any] = [None, True, -1, 1.5, "4", [], {}, object(), [None], np.array([1]), np.int64(2)]
CALLS: dict[str, Any] = {
    "lanes": lambda x: generate(MODEL, PROMPT, "gambit", x, max_tokens=2),
    "max_tokens": lambda x: generate(MODEL, PROMPT, "gambit", 2, max_tokens=x),
    "options": lambda x: generate(MODEL, PROMPT, "gambit", 2, max_tokens=2, options=x),
    "method": lambda x: generate(MODEL, PROMPT, x, 2, max_tokens=2),
    "model": lambda x: generate(x, PROMPT, "gambit", 2, max_tokens=2),
    "prompt": lambda x: generate(MODEL, x, "apr", 2, max_tokens=2),
    "on_step": lambda x: generate(MODEL, PROMPT, "gambit", 2, max_tokens=2, on_step=x),
    "setup": lambda x: start(MODEL, PROMPT, x),
    "beams": lambda x: beam_search(MODEL, PROMPT, x, 2),
    "beam's max_tokens": lambda x: beam_search(MODEL, PROMPT, 2, x),
    "length_penalty": lambda x: beam_search(MODEL, PROMPT, 2, 2, length_penalty=x),
    "early_stopping": lambda x: beam_search(MODEL, PROMPT, 2, 2, early_stopping=x),
    "beam's model": lambda x: beam_search(x, PROMPT, 2, 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_value_of_a_wrong_kind_is_one_line_or_is_taken(name: str) -> None:
    for value in ODD:
        try:
            CALLS[name](value)
        except TinylaneError as error:
            assert len(str(error)) > 10 and "\n" not in str(error), (value, str(error))


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("nothing", {}, "expected one of independent"),
        ("gambit", {"flor": 1}, "no 'flor'; it has warmup, every, swap"),
        ("stop", {"keep": 0}, "keep is 0; expected a whole number at least 1"),
        ("multi_stream", {"given": {"7": "x"}}, "given has stream 7"),
        ("async_reasoning", {"no": ""}, "no is empty; method async_reasoning needs one"),
        ("independent", {"x": 1}, "it has none"),
    ],
)
def test_what_a_method_does_not_have_is_refused_by_name(
    name: str, options: Any, words: str
) -> None:
    with pytest.raises(TinylaneError, match=words):
        prepare(MODEL, name, 3, 12, options)


def test_what_a_method_decides_is_not_given_beside_it() -> None:
    with pytest.raises(TinylaneError, match="method ssa decides schedule; leave it out"):
        generate(MODEL, PROMPT, "ssa", schedule=lambda d: None)


@pytest.mark.parametrize("kind", ["lane_embed", "lane_kv", "bridge", "p_match", "lace"])
def test_parameters_for_lanes_of_another_width_are_refused(kind: str) -> None:
    """Also those that somebody has put into a model in Python."""
    model = small(layers=3, extra=kind)
    prepare(model, "independent", 2, 4)
    for name in (name for name in model.params if f".{kind}." in name):
        wrong = replace(model, params={**model.params, name: model.params[name][..., :-1]})
        with pytest.raises(TinylaneError, match=r"model\.\S+ (is|are) .*expected"):
            prepare(wrong, "independent", 2, 4)
