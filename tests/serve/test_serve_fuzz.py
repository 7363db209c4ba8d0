"""Any JSON at all: a request is understood, or refused in a line; nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers_serve import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler
from tinylane.files.io import Fields, parse_json
from tinylane.methods.decoding import Decoding
from tinylane.serve.asked import CHAT, SWITCHED_OFF, TEXT, WITHOUT_EFFECT, Defaults, read

LANES = ("method", "mode", "visibility", "omega", "slot", "scale", "prompt_lane", "lag", "prompts",
         "lanes", "options")  # fmt: skip
WORDS = ("joint", "independent", "star", "hogwild", "parathinker", "own", "ntk", "a", "", "1-2")
plain = (
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.integers(-2, 30)
    | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(WORDS)
    | st.text(max_size=5)
)  # fmt: skip
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from((*LANES, "role", "content", "type", "1", "x")), inner)
    ),
    max_leaves=8,
)
lanes = st.fixed_dictionaries({}, optional=dict.fromkeys(LANES, values))
fields = sorted((CHAT | TEXT | WITHOUT_EFFECT | {*SWITCHED_OFF}) - {"prompt", "messages"})
bodies = st.fixed_dictionaries(
    {"prompt": st.just("1-2") | values},
    optional={name: lanes | values if name == "lanes" else values for name in fields},
)


@given(bodies, st.booleans())
@example({"prompt": "1-2", "lanes": {"visibility": [[1, 0], [1]]}}, False)
@example({"prompt": "1-2", "best_of": [1]}, False)
@example({"prompt": "1-2", "frequency_penalty": {}}, False)
def test_a_request_is_understood_or_refused(body: dict[str, Any], chat: bool) -> None:
    """As it comes over the wire."""
    if chat:
        body = {**body, "messages": body.pop("prompt")}
    try:
        raw = parse_json(json.dumps(body).encode(), "the request")
        asked = read(raw, chat, Defaults(Sampler()))
    except TinylaneError as error:
        assert "\n" not in str(error)
    else:
        assert asked.n >= 1 and asked.prompts and asked.chat is chat


@pytest.fixture(scope="module")
def model() -> Any:
    return tinylane.load(ROOT / "weights" / "shell-game", backend="numpy")


@given(lanes, st.integers(1, 4))
@example({"method": "joint", "omega": "ntk", "scale": 1e-300}, 2)
@example({"method": "joint", "omega": [[]]}, 2)
def test_whatever_lanes_ask_for_is_done_or_refused(
    model: Any, lanes: dict[str, Any], n: int
) -> None:
    body = {"prompt": "1-2", "n": n, "lanes": lanes}
    try:
        asked = read(parse_json(json.dumps(body).encode(), "x"), False, Defaults(Sampler()))
        if asked.lanes is None:
            return
        if asked.lanes.joined:
            asked.lanes.setup(model, 5)
        else:
            Decoding(model, [2, 3], n, **asked.lanes.settings(model, n, 5)).step()
    except TinylaneError as error:
        assert "\n" not in str(error)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(
    ("lane", "index", "token", "of", "yes", "text", "visibility", "method", "pace"), values
)), st.data())  # fmt: skip
def test_whatever_a_page_asks_for_is_done_or_refused(
    model: Any, body: dict[str, Any], data: st.DataObject
) -> None:
    pytest.importorskip("starlette")
    from tinylane.serve.opening import Start, begin
    from tinylane.serve.routes import OPERATIONS

    session = begin(model, Start("1-3 " * 15 + "1-3", 2, "learned", "joint", max_tokens=6, seed=1))
    session.step()
    for name in data.draw(st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=6)):
        try:
            OPERATIONS[name](session, Fields({"lane": 0, "index": 0, **body}))
        except TinylaneError as error:
            assert "\n" not in str(error)
    assert json.dumps(session.state())
