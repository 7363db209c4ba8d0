"""`assert_all`: a decoder of one's own, in one call; and the how-to page about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.testing import EXTRA, LAWS, LawViolation, assert_all, example_case
from tinylane.testing.every import NEEDS
from tinylane.testing.subjects import plain

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tutorials" / "site" / "how-to" / "own_decoder.md"
CASE = next(c for c in map(example_case, range(99)) if c.config.layers == 2)
MODEL, EXACT = CASE.model("numpy", "float32"), CASE.model()


def asked(*args: Any, **settings: Any) -> list[str]:
    """Names of the laws that were asked; each compared something."""
    reports = assert_all(*args, cases=8, **settings)
    assert all(report.compared and report.worst <= report.allowed for report in reports)
    return [report.law for report in reports]


def of_tokens(tokens: Any) -> Any:
    return MODEL(tokens, np.arange(len(tokens)), np.zeros(len(tokens), dtype=int))


def of_positions(tokens: Any, positions: Any) -> Any:
    return MODEL(tokens, positions, np.zeros(len(tokens), dtype=int))


def of_lanes(tokens: Any, positions: Any, lanes: Any, lane_mask: Any) -> Any:
    return MODEL(tokens, positions, lanes, lane_mask=lane_mask)


def of_omega(tokens: Any, positions: Any, lanes: Any, *, lane_mask: Any, lane_rope: Any) -> Any:
    return MODEL(tokens, positions, lanes, lane_rope, lane_mask)


def optional_omega(
    tokens: Any, positions: Any, lanes: Any, lane_mask: Any, lane_rope: Any = None
) -> Any:
    return MODEL(tokens, positions, lanes, lane_rope, lane_mask)


LANES = ["storage order", "isolation", "company", "lane shift", "shared prompt", "permuted paths",
         "permutation"]  # fmt: skip
PLAIN = ["one lane", "independent", "fork join", "one path", "reread"]


@pytest.mark.parametrize(
    "f, settings, laws",
    [
        (of_tokens, {}, []),
        (of_positions, {}, ["token shift"]),
        (of_lanes, {}, ["token shift", *LANES]),
        (of_lanes, {"plain": plain(MODEL)}, ["token shift", *LANES, *PLAIN]),
        (
            of_omega,
            {"plain": plain(MODEL), "theta": MODEL.theta},
            ["token shift", *LANES, *PLAIN, "periodicity", "group think"],
        ),
        (optional_omega, {}, ["token shift", *LANES]),
    ],
)
def test_what_a_decoder_takes_says_what_it_is_asked(f: Any, settings: Any, laws: Any) -> None:
    assert {*asked(f, **settings)} == {"causality", "chain rule", *laws}


def test_with_a_cache_and_a_float64_twin_it_is_asked_laws_8_and_12() -> None:
    def start() -> Any:
        cache = MODEL.new_cache()

        def feed(tokens: Any) -> Any:
            rows = np.arange(len(tokens))
            return MODEL(tokens, rows + len(cache), 0 * rows, cache=cache)

        return feed

    twin = lambda tokens: EXACT(tokens, np.arange(len(tokens)), np.zeros(len(tokens), dtype=int))
    laws = asked(of_tokens, start=start, exact=twin)
    assert {*laws} == {"causality", "chain rule", "steps", "backends"}


def test_a_cache_of_lanes_gets_the_mask_and_the_rotation() -> None:
    def start(lane_mask: Any, lane_rope: Any) -> Any:
        cache = MODEL.new_cache(lane_rope, lane_mask)
        return lambda tokens, positions, lanes: MODEL(tokens, positions, lanes, cache=cache)

    assert "steps" in asked(of_omega, start=start, theta=MODEL.theta)


def test_a_model_of_tinylane_is_asked_everything() -> None:
    assert asked(EXACT) == [*LAWS, *EXTRA]
    assert asked(MODEL) == [law for law in (*LAWS, *EXTRA) if law != "decoding"]
    assert NEEDS.keys() <= {*LAWS, *EXTRA}


@pytest.mark.parametrize(
    "f, words",
    [
        (lambda *rows: 0, "f does not say what it takes"),
        (lambda: 0, "f does not say what it takes"),
        (3, "f is 3; expected a function of tokens"),
        (lambda tokens, positions, lanes: 0, "no keyword lane_mask"),
        (of_omega, "f needs a lane_rope; give theta"),
        (lambda tokens: np.zeros(5), "the shape (5,); expected (1, V)"),
        (lambda tokens: np.zeros((1, 1, 5)), "the shape (1, 1, 5); expected (1, V)"),
        (lambda tokens: np.zeros((1, 5), dtype=np.int32), "f's logits are 'int32'; give dtype"),
        (lambda tokens: None, "f: logits are None; expected an array (T, V)"),
        (lambda tokens: "logits", "f: logits are 'logits'; expected an array (T, V)"),
        (lambda tokens: [[1.0], [2.0, 3.0]], "f: logits are [[1.0], [2.0, 3.0]]; expected an"),
        (lambda tokens: {"logits": 1}, "f: logits are {'logits': 1}; expected an array"),
        (lambda tokens: (yield), "f: logits are <generator object"),
        (lambda tokens: 1 / 0, "f failed (ZeroDivisionError: division by zero); expected logits"),
        (lambda tokens: {}[3], "f failed (KeyError: 3); expected logits (1, V)"),
        (lambda tokens, *, heads: 0, "f failed (TypeError: "),
        (lambda tokens: np.zeros((len(tokens), 1)), "f's logits are 1 wide; expected a vocabulary"),
        (lambda tokens: np.zeros((len(tokens), 0)), "f's logits are 0 wide; expected a vocabulary"),
        (lambda tokens: np.zeros((1, 5)), "tokens have the shape (1, 5); expected ("),
        (lambda tokens: np.zeros((len(tokens), 4 + len(tokens))), ", 5)"),
    ],
)
def test_what_is_no_decoder_is_told_in_one_line(f: Any, words: str) -> None:
    with pytest.raises(TinylaneError) as caught:
        assert_all(f)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"plain": 5}, "plain is 5; expected a function"),
        ({"start": "x"}, "start is 'x'; expected a function"),
        ({"exact": []}, "exact is []; expected a function"),
        ({"dtype": ["float32"]}, "dtype is ['float32']; expected one of float"),
        ({"dtype": "int8"}, "f's logits are 'int8'; give dtype, one of"),
        ({"theta": "fast"}, "theta is 'fast'; expected numbers"),
        ({"cases": 0}, "cases is 0; expected a whole number at least 1"),
        ({"seed": "x"}, "seed is 'x'; expected a whole number at least 0"),
        ({"start": lambda **x: 5}, "what start gave is 5; expected a function that feeds rows"),
        ({"start": lambda **x: lambda *rows: None}, "start: logits are None; expected an array"),
        ({"start": lambda: 1 / 0}, "start failed (TypeError: "),
        ({"plain": lambda *rows, **x: np.zeros(3)}, "the shape (3,); expected ("),
        ({"plain": lambda *rows, **x: rows[7]}, "plain failed (IndexError: tuple index out of ra"),
        ({"exact": lambda *rows, **x: "no"}, "exact: logits are 'no'; expected an array (T, V)"),
    ],
)
def test_what_is_given_beside_a_decoder_is_told_in_one_line_too(settings: Any, words: str) -> None:
    with pytest.raises(TinylaneError) as caught:
        assert_all(of_lanes, **{"cases": 8, **settings})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_f_is_kept_as_the_cause() -> None:
    with pytest.raises(TinylaneError, match="f failed") as caught:
        assert_all(lambda tokens: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_rows_of_one_lane_are_one_text() -> None:
    for seed in range(20):
        sample = example_case(seed, lanes=1).sample
        assert sample.positions.tolist() == [*range(len(sample.tokens))] and len(sample.tokens) > 1
        assert not sample.lanes.any() and sample.mask.n == 1
    assert {example_case(seed, lanes=3).sample.mask.n for seed in range(9)} == {3}
    with pytest.raises(TinylaneError, match="lanes is 0"):
        example_case(0, lanes=0)


def test_positions_stay_in_a_short_context() -> None:
    seen = []

    def f(tokens: Any, positions: Any) -> Any:
        seen.append(int(np.max(positions)))
        return of_positions(tokens, positions)

    assert_all(f, context=64, cases=30)
    assert 7 < max(seen) < 64


# ------------------------------------------------------------------- a GPT of one's own, in torch


def gpt(torch: Any, bug: str = "") -> Any:
    """A small GPT-2-like decoder: learned positions, LayerNorm, GELU; optionally with a bug."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            B, T, C = x.shape
            q, k, v = (
                y.view(B, T, self.heads, -1).transpose(1, 2)
                for y in self.qkv(self.before(x)).split(C, dim=2)
            )
            scores = q @ k.transpose(2, 3) / (C // self.heads) ** 0.5
            hidden = torch.ones(T, T).triu(2 if bug == "mask" else 1).bool()
            if bug != "no mask":
                scores = scores.masked_fill(hidden, float("-inf"))
            x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))
            return x + self.back(functional.gelu(self.wide(self.after(x))))

    class GPT(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self, vocab: int = 40, context: int = 32, width: int = 32) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block(width, 4) for _ in range(2))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)

        def forward(self, idx: Any) -> Any:
            x = self.tokens(idx) + self.places(torch.arange(idx.shape[1]))
            for block in self.blocks:
                x = block(x)
            if bug == "norm":  # over all positions: what comes later changes what came before
                x = x - x.mean(dim=1, keepdim=True)
            return self.head(self.norm(x))

    torch.manual_seed(0)
    return GPT().eval()


def page_code() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return code


@pytest.mark.parametrize("bug", ["", "mask", "no mask", "norm"])
def test_the_code_of_the_page_checks_a_gpt_and_catches_a_planted_bug(bug: str, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    names = {"model": gpt(torch, bug)}
    code = compile(page_code(), str(PAGE), "exec")
    if bug:
        with pytest.raises(LawViolation, match=r"^causality: row \d differs by"):
            exec(code, names)
        return
    exec(code, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["causality", "chain rule"]
    assert len(page_code().strip().splitlines()) <= 12


def test_the_chain_rule_alone_catches_a_bidirectional_model() -> None:
    torch = pytest.importorskip("torch")
    from tinylane.testing import assert_chain_rule

    def f(model: Any) -> Any:
        def run(tokens: Any, positions: Any, lanes: Any) -> Any:
            with torch.no_grad():
                return model(torch.from_numpy(tokens)[None])[0]

        return run

    sample = example_case(1, lanes=1).sample
    rows = range(len(sample.tokens))[1:4]
    assert_chain_rule(f(gpt(torch)), sample, rows, [1, 2, 3])
    with pytest.raises(LawViolation, match="add up to"):
        assert_chain_rule(f(gpt(torch, "no mask")), sample, rows, [1, 2, 3])


def test_the_laws_need_numpy_and_nothing_else() -> None:
    """`tinylane[laws]` is for checking; the rest of the package's needs are not imported."""
    code = (
        "import sys\n"
        "for name in ('mlx', 'tokenizers', 'huggingface_hub', 'jinja2', 'rich', 'filelock',\n"
        "             'torch', 'transformers', 'matplotlib', 'hypothesis'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from tinylane.testing import assert_all, example_case\n"
        "model = example_case(3).model('numpy', 'float32')\n"
        "print(len(assert_all(model, cases=2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(LAWS) + len(EXTRA) - 1


def test_nothing_is_asked_twice_and_a_model_is_a_model() -> None:
    assert isinstance(MODEL, Model)
    laws = asked(of_lanes, plain=plain(MODEL))
    assert len({*laws}) == len(laws)
