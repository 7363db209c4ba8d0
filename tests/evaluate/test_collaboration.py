"""Collaboration prompts: what a lane is given is fed, scored and replayed like what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures
from helpers_lanes import TOLERANCE, TWO, log_softmax, omega, same, small
from helpers_templates import LLAMA3
from helpers_text import byte_level
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.oracle import naive
from tinylane.core.sampling import Sampler
from tinylane.evaluate import collaboration
from tinylane.evaluate.collaboration import FOLDER, PARTS, Collaboration, Dictation, dictate, read
from tinylane.evaluate.results import copied
from tinylane.methods.decoding import Decoding
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = Tokenizer(Core.from_str(byte_level()), NAMES)
CHAT = Tokenizer(Core.from_str(byte_level()), NAMES, chat_template=LLAMA3)
VOCAB = PLAIN.vocab_size
LINES = [k for k in range(VOCAB) if b"\n" in PLAIN.token_bytes(k) or PLAIN.is_special(k)]
UNBROKEN = Sampler(temperature=1.0, logit_bias=dict.fromkeys(LINES, -np.inf))
SHORT = Collaboration(lane="{lane}/{lanes}:", nudge="\nme?", finish="\nso {", nudge_every=8)


def model_of(backend: str = "numpy", dtype: str = "float64", tokenizer: Any = PLAIN) -> Any:
    return small(backend, dtype, vocab=VOCAB, tokenizer=tokenizer, context=256)


F64 = model_of()


def run(
    model: Any,
    together: Collaboration | None,
    n: int = 3,
    kind: type[Dictation] = Dictation,
    **settings: Any,
) -> tuple[Any, Any]:
    """A finished decoding and its dictation."""
    mask = settings.pop("lane_mask", LaneMask.joint(n))
    own = settings.pop("lane_prompts", [f"{m}:" for m in range(n)])
    decoding = Decoding(
        model,
        PLAIN.encode("swap"),
        n,
        lane_prompts=own,
        lane_mask=mask,
        **{"max_tokens": 40, "sampler": UNBROKEN, "seed": 5, "lane_rope": omega(model), **settings},
    )
    dictation = None if together is None else kind(together, decoding)
    if dictation is not None:
        decoding.sampler = dictation
    for _ in decoding:
        pass
    return decoding, dictation


class Told(Sampler):
    """For the oracle, which asks for one lane's token at a time: those of `told`, else drawn."""

    def __init__(self, told: dict[tuple[int, int], int], starts: dict[int, int], P: int) -> None:
        super().__init__(**{k: getattr(UNBROKEN, k) for k in Sampler.__dataclass_fields__})
        for name, value in (("told", told), ("starts", starts), ("P", P)):
            object.__setattr__(self, name, value)

    def __call__(self, logits: Any, uniforms: Any, history: Any) -> Any:
        own = history[0][self.P :]  # the lane's prompt, which begins with a token of its own
        lane = self.starts[own[0]]
        token = self.told.get((lane, len(own) - 2))
        if token is None:
            return super().__call__(logits, uniforms, history)
        return np.array([token]), log_softmax(logits)[:, token]


def told(dictation: Dictation) -> dict[tuple[int, int], int]:
    return {
        (m, k): dictation.decoding.lanes[m].tokens[k]
        for m, ranges in enumerate(dictation.record())
        for _, start, stop in ranges
        for k in range(start, stop)
    }


@TWO
@pytest.mark.parametrize("rotation", ["omega", "hogwild"])
def test_a_run_with_given_tokens_equals_the_naive_oracle_told_the_same(
    kind: Any, rotation: str
) -> None:
    """Fed at another place, seen a step late, or a random number too many: the lanes differ."""
    model = model_of(*kind)
    turn: Any = Hogwild() if rotation == "hogwild" else omega(model)
    decoding, dictation = run(model, SHORT, max_tokens=24, lane_rope=turn)
    given = told(dictation)
    assert {m for m, _ in given} == {0, 1, 2}
    own = [lane.prompt for lane in decoding.lanes]
    assert all(len(prompt) == 2 for prompt in own)
    slow = naive(
        model,
        decoding.prompt,
        own,
        24,
        Told(given, {prompt[0]: m for m, prompt in enumerate(own)}, len(decoding.prompt)),
        turn,
        LaneMask.joint(3),
        5,
    )
    same(decoding.lanes, slow, TOLERANCE[kind[1]])


class Careless(Dictation):
    """Gives the token, and reports the log-probability of the one that was drawn."""

    def __call__(self, logits: Any, uniforms: Any, history: Any) -> Any:
        tokens, _ = super().__call__(logits, uniforms, history)
        return tokens, Sampler.__call__(self, logits, uniforms, history)[1]


@pytest.mark.parametrize("kind", [Dictation, Careless], ids=["law", "control"])
def test_a_saved_run_with_given_tokens_replays_and_says_which_they_are(
    kind: Any, tmp_path: Path
) -> None:
    """Steps equal one pass, for tokens that nobody drew too."""
    decoding, dictation = run(F64, SHORT, kind=kind, max_tokens=60)
    save_run(tmp_path / "run.json", decoding.result(), F64, extra={"given": dictation.record()})
    loaded = load_run(tmp_path / "run.json")
    difference = replay(loaded, F64).difference
    assert (difference < 1e-10) == (kind is Dictation)
    for lane, ranges in zip(loaded.result.lanes, loaded.extra["given"], strict=True):
        said = [PLAIN.decode(lane.tokens[start:stop]) for _, start, stop in ranges]
        assert [name for name, *_ in ranges] == ["nudge", "nudge", "finish"]
        assert said == ["\nme?", "\nme?", "\nso {"]
        assert "\nme?" in lane.text and "\nso {" in lane.text


def test_nudges_come_every_n_tokens_at_the_end_of_a_line_and_the_finish_before_the_budget() -> None:
    decoding, dictation = run(F64, SHORT, max_tokens=60)
    nudge, finish = (len(PLAIN.encode(text)) for text in (SHORT.nudge, SHORT.finish))
    late = 60 - finish - 15  # a quarter of the budget stays for the answer
    expected, at = [], 0
    while at + 10 + nudge < late:  # no line ends: 8 tokens, and a quarter of that for a line
        expected.append(["nudge", at + 10, at + 10 + nudge])
        at += 10 + nudge
    expected.append(["finish", late, late + finish])
    assert dictation.record() == [expected] * 3
    assert [len(lane.tokens) for lane in decoding.lanes] == [60] * 3

    newline = next(k for k in LINES if PLAIN.token_bytes(k) == b"\n")
    always = Sampler(temperature=0.0, logit_bias={newline: 1e6})
    _, dictation = run(F64, SHORT, max_tokens=40, sampler=always)
    assert dictation.record()[0][:2] == [
        ["nudge", 8, 8 + nudge],
        ["nudge", 16 + nudge, 16 + 2 * nudge],
    ]


def test_a_lane_that_is_given_tokens_changes_no_draw_of_lanes_that_do_not_read_it() -> None:
    """Law 7 with dictation: every lane is the run of that lane alone; a shared stream is not."""
    alone = LaneMask.independent(3)
    fixed = Collaboration(nudge="\nme?", finish="\nso {", nudge_every=8)
    decoding, _ = run(F64, fixed, lane_mask=alone, max_tokens=[12, 30, 50])
    free, _ = run(F64, None, lane_mask=alone, max_tokens=[12, 30, 50])
    longest, _ = run(F64, fixed, lane_mask=alone, max_tokens=50)
    assert decoding.lanes[2].tokens == longest.lanes[2].tokens
    assert decoding.lanes[0].tokens[:4] == free.lanes[0].tokens[:4]  # until the finish
    assert decoding.lanes[0].tokens != free.lanes[0].tokens
    single, _ = run(F64, fixed, 1, lane_prompts=["0:"], max_tokens=12)
    assert single.lanes[0].tokens == decoding.lanes[0].tokens


def test_a_step_that_was_interrupted_gives_the_same_token_again() -> None:
    whole, _ = run(F64, SHORT)
    interrupted = [11, 12, 20]

    class Shaky(Dictation):
        def __call__(self, logits: Any, uniforms: Any, history: Any) -> Any:
            found = super().__call__(logits, uniforms, history)
            if interrupted and len(self.decoding.lanes[0].tokens) == interrupted[0]:
                interrupted.pop(0)
                raise KeyboardInterrupt
            return found

    decoding = Decoding(
        F64,
        PLAIN.encode("swap"),
        3,
        lane_prompts=[f"{m}:" for m in range(3)],
        lane_mask=LaneMask.joint(3),
        lane_rope=omega(F64),
        max_tokens=40,
        sampler=UNBROKEN,
        seed=5,
    )
    decoding.sampler = dictation = Shaky(SHORT, decoding)
    while decoding.live:
        try:
            decoding.step()
        except KeyboardInterrupt:
            continue
    assert not interrupted and dictation.record()
    same(decoding.lanes, whole.lanes, 1e-10)


def test_a_fork_inherits_what_its_source_was_given() -> None:
    """Else it would be nudged at once, or asked for its answer twice."""
    decoding = Decoding(
        F64, "swap", lane_mask=LaneMask.independent(2), max_tokens=40, sampler=UNBROKEN
    )
    dictation = dictate(SHORT, decoding)
    for _ in range(11):
        decoding.step()
    decoding.fork(0)
    for _ in decoding:
        pass
    assert [kind for kind, *_ in dictation.record()[1]] == ["nudge", "finish"]
    assert [r[:2] for r in dictation.record()[1]] == [r[:2] for r in dictation.record()[0]]


def test_off_is_off() -> None:
    """No text, no difference: not in a token, not in a log-probability."""
    with_, dictation = run(F64, Collaboration(system="x", lane="y"))
    without, _ = run(F64, None)
    assert dictation.record() == [[], [], []]
    same(with_.lanes, without.lanes, 0.0)
    assert with_.result().settings == without.result().settings


def test_the_texts_inside_explain_lanes_and_ask_for_a_boxed_answer() -> None:
    found = read()
    assert "{lanes}" in found.system and "repeat" in found.nudge
    assert found.finish.endswith("\\boxed{") and found.nudge_every == 256
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{p}.txt" for p in PARTS)
    assert collaboration.lane_prompts(found, 2) == [
        "I am lane 1 of 2.\n",
        "I am lane 2 of 2.\n",
    ]


def test_texts_are_files_that_can_be_edited_and_parts_switched_off(tmp_path: Path) -> None:
    (tmp_path / "nudge.txt").write_bytes("Wiederhole ich mich?\r\n".encode("utf-8-sig"))
    (tmp_path / "finish.txt").write_text("")
    assert read(tmp_path) == Collaboration(nudge="Wiederhole ich mich?")
    (tmp_path / "system.txt").write_text("You are {lanes}.\n")
    assert read(tmp_path, without=["nudge"], finish_at=9) == Collaboration(
        system="You are {lanes}.", finish_at=9
    )


BEFORE = "{lanes} of you"


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "template", "expected"),
    [
        (PLAIN, "hi", None, ("2 of you\n\nhi", None)),
        (CHAT, "hi", {"raw": True}, ("2 of you\n\nhi", {"raw": True})),
        (CHAT, "hi", None, ("hi", {"system": "2 of you"})),
        (CHAT, "hi", {"system": "Be kind."}, ("hi", {"system": "2 of you\n\nBe kind."})),
        (
            CHAT,
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
            None,
            (
                [
                    {"role": "system", "content": "2 of you\n\nBe kind."},
                    {"role": "user", "content": "hi"},
                ],
                None,
            ),
        ),
    ],
)
def test_the_system_text_goes_where_the_checkpoint_has_a_place_for_it(
    tokenizer: Any, prompt: Any, template: Any, expected: Any
) -> None:
    model = model_of(tokenizer=tokenizer)
    found = collaboration.with_system(Collaboration(system=BEFORE), model, prompt, 2, template)
    assert found == expected
    Decoding(model, found[0], 2, template=found[1])


def test_without_a_system_role_the_system_text_goes_before_the_prompt() -> None:
    """Gemma's template raises for a system message; the text must not be lost, nor the run."""
    refuses = (
        "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{%- endif %}{%- for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{%- endfor %}"
    )
    model = model_of(tokenizer=Tokenizer(Core.from_str(byte_level()), NAMES, chat_template=refuses))
    found = collaboration.with_system(Collaboration(system=BEFORE), model, "hi", 2)
    assert found == ("2 of you\n\nhi", None)
    messages = [{"role": "user", "content": "hi"}]
    found = collaboration.with_system(Collaboration(system=BEFORE), model, messages, 2)
    assert found[0] == [{"role": "user", "content": "2 of you\n\nhi"}]


@pytest.mark.parametrize(
    ("texts", "settings", "expected"),
    [
        ({"finish": "so {"}, {"max_tokens": 3}, "do not fit: lane 0 has 3 in all"),
        ({"finish": "so {", "finish_at": 38}, {}, "finish_at is 38"),
        ({"finish": "so {"}, {"total_tokens": 9}, "has 3 in all"),
        ({"nudge": "enough</s>"}, {}, "an end token, which ends a lane"),
        ({"nudge": "any END yet?"}, {"stop": ["END"]}, "the stop text 'END'"),
        ({"nudge_every": 0}, {}, "nudge_every is 0"),
        ({"finish_at": True}, {}, "finish_at is True"),
    ],
)
def test_what_cannot_be_said_is_an_error_before_the_first_step(
    texts: Any, settings: Any, expected: str
) -> None:
    with pytest.raises(TinylaneError, match=expected) as error:
        decoding = Decoding(F64, "swap", 3, **{"max_tokens": 40, **settings})
        dictate(Collaboration(**texts), decoding)
    assert "\n" not in str(error.value)


def test_folders_that_hold_no_prompts_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match="begin with a copy of"):
        read(tmp_path)
    (tmp_path / "nudge.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TinylaneError, match=r"nudge.txt: not UTF-8 text"):
        read(tmp_path)
    (tmp_path / "nudge.txt").write_bytes(b"x" * 100_000)
    with pytest.raises(TinylaneError, match=r"nudge.txt"):
        read(tmp_path)
    (tmp_path / "system.txt").mkdir()
    with pytest.raises(TinylaneError, match="not a regular file"):
        read(tmp_path, without=["nudge"])
    with pytest.raises(TinylaneError, match="no part 'lanes'"):
        read(without=["lanes"])
    with pytest.raises(TinylaneError, match="token ids takes no system text"):
        collaboration.with_system(Collaboration(system="x"), F64, [1, 2], 2)


def test_what_all_lanes_were_given_is_no_repetition_between_them() -> None:
    """The nudge is the same text in every lane: it would make any two of them look alike."""
    lanes = [[1, 2, 3, 4, 5, 50, 51, 52, 53], [6, 7, 8, 9, 50, 51, 52, 53, 54]]
    assert copied(lanes) == 2 / 12
    assert copied(lanes, given=[[(5, 9)], [(4, 8)]]) == 0.0
    same = [[1, 2, 3, 4, 50], [1, 2, 3, 4, 50]]
    assert copied(same, given=[[(4, 5)], [(4, 5)]]) == 1.0
