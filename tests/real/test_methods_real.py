"""Every method on SmolLM2, a few tokens each: saved, and computed again from its events.

The four modes are in `test_commands.py`, with more tokens and on both backends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_real
import pytest

import tinylane
from tinylane.evaluate.answers import answering
from tinylane.methods import NAMES, generate
from tinylane.methods.modes import MODES
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

pytestmark = pytest.mark.real
smollm2 = helpers_real.smollm2  # fixture
BLOCKS = ("multiverse", "npr", "parallel_r1", "aspd", "threadweaver")
JOINING = ("parathinker", "ssa", "graph_of_thoughts", "plain_lanes", "apr")
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"outline_tokens": 2, "blocks": 1} for name in BLOCKS},
    "hogwild_steps": {"answer_tokens": 2},
    "async_reasoning": {"ask_every": 2},
    "multi_stream": {"given": {"0": " Go"}},
    "pasta": {"promised": 8, "stretch": 2},
    "apr": {"spawn_after": 2},
    "tree_of_thoughts": {"depth": 2},
    "gambit": {"warmup": 2, "every": 2},
    "stop": {"prefix": 2},
    "leap": {"every": 1, "summary": 1, "ask": "\n", "told": "", "close": ""},
    "budget_forcing": {"answer": " So", "answer_tokens": 1},
    "dynamic_lanes": {"unlikely": -0.1},
    "cpt": {"told": "{fact}"},
    "tool_lane": {"tool": lambda texts: " 46" if len(texts[0]) > 3 else None},
}
EVENTS = {  # of those whose lanes have a life: what must have happened
    "hogwild_steps": {"finish", "join", "arrange"},
    "async_reasoning": {"finish", "join", "read", "arrange", "pause"},
    "multi_stream": {"give"},
    "pasta": {"give", "join"},
    "gambit": {"drop", "fork"},
    "stop": {"drop"},
    "leap": {"give"},
    "budget_forcing": {"give"},
    "dynamic_lanes": {"fork"},
    "tool_lane": {"pause", "resume", "give"},
    "tree_of_thoughts": {"drop", "join"},
    **{name: {"join"} for name in JOINING},
    **{name: {"give", "join"} for name in BLOCKS},
}


@pytest.fixture(scope="module")
def model(smollm2: Path) -> tinylane.Model:
    return tinylane.load(smollm2, "numpy", dtype="float32")


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in (*MODES, "lanerope", "beam")]
)
def test_a_method_writes_and_its_events_say_all(
    name: str, model: tinylane.Model, tmp_path: Path
) -> None:
    prompt = model.tokenizer.encode("Seven fruits: an apple,")
    warm = tinylane.Sampler(temperature=0.8)
    result = generate(
        model, prompt, name, 2, max_tokens=5, options=SHORT.get(name), sampler=warm, seed=2
    )
    assert all(lane.finish_reason for lane in result.lanes)
    assert any(lane.text.strip() for lane in answering(name, result)), name
    happened = {event["event"] for event in result.settings.get("events", ())}
    assert happened >= EVENTS.get(name, set())
    save_run(tmp_path / "run.json", result, model)
    run = load_run(tmp_path / "run.json")
    assert run.result == result
    assert 0 < replay(run, model).difference < 1e-3
