"""Claims about the programs that tinylane starts, run as programs: JSON in, JSON out, then an end.

`tinylane.checkpoints.chat_template` and `tinylane.evaluate.tasks.mathematics` start theirs in an interpreter that takes nothing
from its surroundings, where no coverage can be measured; `tutorials.bench` kills its own. Here the
same modules run in an ordinary interpreter, and what they compute is called directly.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinylane.checkpoints import chat_template_worker
from tinylane.commands.bench_shapes import shape, write_random
from tinylane.evaluate.tasks import math_worker
from tutorials.bench import worker as bench_worker
from tutorials.bench.engines import Case, build, random_prompt

MIB = 1 << 20


def program(module: Any, *lines: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
    """Run a module on lines of JSON, to the end of its input: exit code, replies, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", module.__name__],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


# -------------------------------------------------------------------------------- chat templates


def rendered(template: str, named: tuple[str, ...] = (), **variables: Any) -> dict[str, Any]:
    request = {"template": template, "variables": variables, "named": named, "longest": 1000}
    return chat_template_worker.answer(request)


SAID = {
    "{{ x }}{% generation %}, {{ x }}{% endgeneration %}": {"text": "3, 3", "unread": ["y"]},
    "{{ y | tojson }}": {"text": '["é", "<"]', "unread": ["x"]},
    "{{ y | tojson(ensure_ascii=True, indent=1) }}": {
        "text": '[\n "\\u00e9",\n "<"\n]',
        "unread": ["x"],
    },
    "{{ dict(a=x) }}{{ dict.fromkeys('b') }}": {
        "text": "{'a': 3}{'b': None}",
        "unread": ["y"],
    },
    "{% set n = namespace(v=x) %}{% set n.v = n.v ** 2 * 2 %}{{ n.v }}": {
        "text": "18",
        "unread": ["y"],
    },
    "{% for c in y %}{% continue %}{% endfor %}": {"text": "", "unread": ["x"]},
    "a\n{% if %}": {"kind": "syntax", "error": "line 2: Expected an expression, got 'end of "},
    "{{ raise_exception('roles') }}": {"kind": "raised", "error": "roles"},
    "{{ x.__class__.__mro__ }}": {"kind": "unsafe", "error": "access to attribute '__class__'"},
    "{% set n = namespace(_v=1) %}": {"kind": "unsafe", "error": "the namespace name '_v' begins"},
    "{% set n = namespace() %}{% set n._v = 1 %}": {
        "kind": "unsafe",
        "error": "the namespace name '_v' begins",
    },
    "{{ 'ab' * 8388609 }}": {"kind": "unsafe", "error": "a repetition 8388609 times is too"},
    "{{ 8388609 * 'ab' }}": {"kind": "unsafe", "error": "a repetition 8388609 times is too"},
    "{{ 2 ** 32769 }}": {"kind": "unsafe", "error": "the power 32769 is too large"},
    "{{ nothing.at.all }}": {"kind": "failed", "error": "'nothing' is undefined"},
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": {
        "kind": "failed",
        "error": "it calls itself without end",
    },
    "{{ 1 / 0 }}": {"kind": "failed", "error": "ZeroDivisionError: division by zero"},
    "{{ 'x' + 1 }}": {"kind": "failed", "error": "TypeError: "},
    "{{ 'x' * 999 }}{{ 'xx' }}": {"kind": "size", "error": "more than 1000 characters"},
}


@pytest.mark.parametrize("template", list(SAID))
def test_a_template_gives_its_text_or_what_is_wrong_by_kind(template: str) -> None:
    """The kind decides which line the user reads; mixed up, they would blame the wrong one."""
    found, expected = rendered(template, ("x", "y"), x=3, y=["é", "<"]), SAID[template]
    assert found.keys() == expected.keys()
    if "error" in expected:
        assert found["kind"] == expected["kind"]
        assert found["error"].startswith(expected["error"])
    else:
        assert found == expected


def test_the_longest_result_and_product_and_power_pass() -> None:
    """One less of each than is refused above."""
    assert rendered("{{ 'x' * 999 }}{{ 'x' }}")["text"] == "x" * 1000
    assert rendered("{{ ('ab' * 8388608) | length }}")["text"] == str(16 * MIB)
    assert rendered("{{ (2 ** 32768) % 7 }}")["text"] == str(2**32768 % 7)


def test_the_program_replies_once_and_a_memory_limit_is_a_reply_too() -> None:
    """A MemoryError must not end the program without a word."""
    import jinja2
    import markupsafe

    folders = [str(Path(module.__file__).parents[1]) for module in (jinja2, markupsafe)]
    limits = {"path": folders, "cpu_seconds": 20, "memory": 64 * MIB}
    limits |= {"variables": {"x": "é"}, "named": [], "longest": 100}
    run = lambda text: program(chat_template_worker, limits | {"template": text})
    assert run("{{ x }}!") == (0, [{"text": "é!", "unread": []}], "")
    memory = {"kind": "memory", "error": "MemoryError"}
    if sys.platform == "linux":  # macOS does not keep such a limit
        assert run("{{ 'x'.ljust(500000000) }}") == (0, [memory], "")
        # The result fits and its JSON, six times as long, does not.
        more = limits | {"longest": 1 << 40, "template": "{{ x * 16000000 }}"}
        assert program(chat_template_worker, more) == (0, [memory], "")


# ------------------------------------------------------------------------------------ mathematics


def test_answers_are_read_and_compared_whatever_the_parser_raises() -> None:
    """Text that a parser fails on is no mathematics; it must not end the process."""
    pytest.importorskip("math_verify")
    from math_verify import parse, verify

    def compared(*texts: str, parse: Any = parse, verify: Any = verify) -> dict[str, Any]:
        return math_worker.answer({"texts": texts}, parse, verify)

    def fails(*args: Any, **named: Any) -> Any:
        raise RecursionError("maximum depth")

    assert compared("\\frac{1}{2}", "0.5") == {"readable": [True, True], "same": True}
    assert compared("x+1", "x+2") == {"readable": [True, True], "same": False}
    assert compared("x+1") == {"readable": [True], "same": False}
    assert compared("x", "x", parse=fails) == {"readable": [False, False], "same": False}
    assert compared("x", "x", verify=fails) == {"readable": [True, True], "same": False}


def test_the_mathematics_program_serves_to_its_input_s_end_and_ends_at_a_limit() -> None:
    """A limit that did not hold would leave a comparison running for ever."""
    pytest.importorskip("math_verify")
    start = {"path": [p for p in sys.path if p], "memory": 1 << 30, "cpu_seconds": 20.0}
    same = {"texts": ["1/2", "0.5"]}
    code, replies, _ = program(math_worker, start, same, {"texts": ["x"]})
    assert (code, replies[0]) == (0, {})
    assert replies[1:] == [
        {"readable": [True, True], "same": True},
        {"readable": [True], "same": False},
    ]
    if hasattr(signal, "setitimer"):
        limit = start | {"cpu_seconds": 0.05}
        code, replies, _ = program(math_worker, limit, {"texts": ["10^{10^{10}}", "2"]})
        assert code == -signal.SIGPROF and replies == [{}]


# ---------------------------------------------------------------------------------------- bench


def test_a_contestant_s_program_answers_every_line_and_ends_with_its_input(tmp_path: Path) -> None:
    """Load, a case, a profile and the bandwidth; an error is an answer, and what follows counts."""
    write_random(shape("tiny"), tmp_path)
    case = Case(random_prompt(512, 5, 0), 2, 4, "joint")
    load = {"do": "load", "name": "tinylane numpy", "dtype": "float32", "threads": 1}
    code, replies, _ = program(
        bench_worker,
        load | {"folder": str(tmp_path / "none"), "adapter": None},
        load | {"folder": str(tmp_path), "adapter": None},
        {"do": "run", "case": case.__dict__},
        {"do": "profile", "case": case.__dict__},
        {"do": "bandwidth", "threads": 1, "backend": "numpy", "size": MIB},
    )
    assert code == 0 and len(replies) == 5
    wrong, loaded, run, profile, bandwidth = replies
    assert "none" in wrong["error"] and loaded["dtype"] == "float32"
    engine = build("tinylane numpy", tmp_path, "float32", 1)
    assert run["tokens"] == engine.run(case).tokens and len(run["steps"]) == 3
    assert run["step_bytes"] == engine.step_bytes(case)  # type: ignore[attr-defined]
    assert profile["build"] is None and profile["step"] > 0
    assert bandwidth["bytes_per_second"] > 0
