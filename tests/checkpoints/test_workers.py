"""Claims about the programs that tinylane starts, run as programs: JSON in, JSON out, then an end.

`tinylane.evaluate.tasks.mathematics` has its own run in an interpreter that takes nothing from its
surroundings, where no coverage can be measured; `python tutorials/bench` kills its own. Here what
they compute is called directly.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinylane.commands.bench_engine import BenchCase, random_prompt
from tinylane.commands.bench_shapes import shape, write_random
from tinylane.evaluate.tasks import math_worker
from tinylane.files.worker import Limits, Worker, WorkerEnded
from tutorials.bench import engines
from tutorials.bench.engines import build

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


# ------------------------------------------------------------------------------------ mathematics


def test_answers_are_read_and_compared_whatever_the_parser_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text that a parser fails on is no mathematics; it must not end the process."""
    pytest.importorskip("math_verify")
    import math_verify

    def fails(*args: Any, **named: Any) -> Any:
        raise RecursionError("maximum depth")

    key = lambda text: math_worker.answer([text, False])
    assert key("\\frac{1}{2}") == key("2^{-1}") != key("2^{-2}")
    assert key("x+1") == key("1+x") != key("x+2")
    monkeypatch.setattr(math_verify, "parse", fails)
    assert key("x+1") is None


def test_one_process_makes_many_comparisons_and_ends_at_a_limit() -> None:
    """A limit that did not hold would leave a comparison running without end."""
    pytest.importorskip("math_verify")
    worker = Worker(Path(math_worker.__file__), lambda: [p for p in sys.path if p])
    limits = Limits(cpu_seconds=20.0, wall_seconds=60.0, memory=1 << 30)
    half = worker.ask(["\\frac{1}{2}", False], limits)
    assert half == worker.ask(["2^{-1}", False], limits) is not None
    process = worker._process
    assert worker.ask(["x", False], limits) != half
    assert worker._process is process
    if hasattr(signal, "setitimer"):
        with pytest.raises(WorkerEnded) as ended:
            worker.ask(["10^{10^{10}}", False], limits._replace(cpu_seconds=0.05))
        assert ended.value.why == "processor" and worker._process is None
    assert worker.ask(["\\frac{1}{2}", False], limits) == half
    worker.close()


# ---------------------------------------------------------------------------------------- bench


def test_an_engine_s_program_answers_every_line_and_ends_with_its_input(tmp_path: Path) -> None:
    """Load, a case, a profile and the bandwidth; an error is an answer, and what follows counts."""
    write_random(shape("tiny"), tmp_path)
    case = BenchCase(random_prompt(512, 5, 0), 2, 4, "joint")
    load = {"do": "load", "name": "tinylane numpy", "dtype": "float32", "threads": 1}
    code, replies, _ = program(
        engines,
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
    assert run["step_bytes"] == engine.step_bytes(case)
    assert profile["build"] is None and profile["step"] > 0
    assert bandwidth["bandwidth"] > 0
