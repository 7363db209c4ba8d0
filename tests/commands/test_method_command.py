"""`tinylane methods` and `tinylane generate --method`: every method on the model inside."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers_methods import small

import tinylane
from tinylane.commands.cli import main
from tinylane.commands.generate_method import same_texts
from tinylane.core.errors import TinylaneError
from tinylane.methods import METHODS, NAMES, decode, prepare
from tinylane.methods.beam_search import as_result, beam_search
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run

WEIGHTS = Path(__file__).parents[2] / "weights" / "shell-game"
DECODED = [name for name in NAMES if name != "beam"]


@pytest.fixture(scope="module")
def inside() -> tinylane.Model:
    return tinylane.load(WEIGHTS, adapter=WEIGHTS / "adapter", backend="numpy")


def generate(capsys: Any, *words: str) -> tuple[int, str, str]:
    code = main(["generate", "--seed", "3", *words])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", DECODED)
def test_a_saved_run_of_any_method_is_replayed(
    name: str, inside: tinylane.Model, tmp_path: Path, capsys: Any
) -> None:
    """From its events alone; greedy, in float32."""
    file = tmp_path / "run.json"
    words = ["--method", name, "--backend", "numpy", "--plain", "--max-tokens", "9"]
    code, out, _ = generate(capsys, *words, "--save", str(file))
    assert code == 0 and "lane" in out
    run = load_run(file)
    assert run.extra["method"] == name
    assert replay(run, inside).difference < 2e-4


def test_beam_is_the_beam_search_that_there_is(capsys: Any) -> None:
    by_flag = generate(capsys, "--beams", "3", "--quiet")
    assert generate(capsys, "--method", "beam", "--quiet") == by_flag and by_flag[0] == 0


@pytest.mark.parametrize("asked", [("--method", "beam"), ("--beams", "3")])
def test_saved_beams_are_lanes_that_are_replayed(
    asked: tuple[str, str], inside: tinylane.Model, tmp_path: Path, capsys: Any
) -> None:
    """Their log-probabilities, whose means are the scores; how the search came to them is gone."""
    file = tmp_path / "run.json"
    code, out, _ = generate(capsys, *asked, "--quiet", "--json", "--save", str(file))
    run, beams = load_run(file), json.loads(out)["beams"]
    assert code == 0 and run.extra["method"] == "beam" and len(beams) == 3
    assert [lane.tokens for lane in run.result.lanes] == [beam["tokens"] for beam in beams]
    for lane, beam in zip(run.result.lanes, beams, strict=True):
        assert beam["score"] == pytest.approx(sum(lane.logprobs) / len(lane.tokens))
    assert replay(run, inside).difference < 2e-4
    assert main(["view", str(file), "-o", str(tmp_path / "run.html"), "--quiet"]) == 0
    assert (tmp_path / "run.html").stat().st_size > 10_000


def test_beams_of_a_model_with_embeddings_of_lanes_are_no_lanes() -> None:
    model = small(extra="lane_embed")
    with pytest.raises(TinylaneError, match="every beam has the first lane's"):
        as_result(model, "1+2=", beam_search(model, "1+2=", 2, 4))


def test_the_document_names_the_method_and_what_happened(capsys: Any) -> None:
    code, out, _ = generate(capsys, "--method", "parathinker", "--json", "--lanes", "2")
    document = json.loads(out)
    assert code == 0 and document["method"] == "parathinker"
    assert "join" in [event["event"] for event in document["settings"]["events"]]
    assert len(document["lanes"]) == 3


def test_events_are_told_while_it_runs(tmp_path: Path, capsys: Any) -> None:
    _, _, err = generate(capsys, "--method", "parathinker", "--plain")
    assert "this model has no lane_kv" in err


@pytest.mark.parametrize(
    "words, says",
    [
        (["--method", "nothing"], "method 'nothing'; expected one of"),
        (["--method", "joint", "--mode", "joint"], "--mode joint and --method lanerope"),
        (["--method", "ssa", "--omega", "ntk"], "method ssa takes no --omega"),
        (["--method", "ssa", "--visibility", "joint"], "method ssa takes no --visibility"),
        (["--method", "ssa", "--method-config", "{"], "--method-config is no JSON"),
        (["--method", "ssa", "--method-config", "[]"], "--method-config is []; expected an object"),
        (["--method", "ssa", "--method-config", '{"x": 1}'], "method ssa has no 'x'"),
        (["--method-config", "{}"], "--method-config without --method"),
        (
            ["--method", "hogwild", "--lag", "1", "--method-config", '{"lag": 0}'],
            "--lag, and lag in --method-config; expected one of them",
        ),
        (["--method", "ssa", "--beams", "2"], "--beams and --method"),
    ],
)
def test_flags_that_contradict_a_method_are_refused_by_name(
    words: list[str], says: str, capsys: Any
) -> None:
    code, out, err = generate(capsys, *words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


def test_the_table_has_a_row_for_every_method(capsys: Any) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(NAMES)
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert [row["name"] for row in rows] == list(NAMES)
    assert main(["methods", "pasta"]) == 0
    assert "arXiv:2502.11517" in capsys.readouterr().out
    assert main(["methods", "pasata"]) == 2


EARLY = [
    ("gambit", '{"every": 0}', "every is 0; expected a whole number at least 1"),
    ("gambit", '{"floor": "low"}', "floor is 'low'; expected a number"),
    ("parathinker", '{"first_finish": 1}', "first_finish is 1; expected true or false"),
    ("parathinker", '{"summary": ""}', "summary is empty; method parathinker needs one"),
    ("multiverse", '{"join": ""}', "join is empty; expected a text or token ids, or reread"),
    ("multi_stream", '{"given": {"one": "x"}}', "given has stream 'one'; expected numbers"),
    ("multi_stream", '{"given": {"0": 5}}', "given 0 is 5; expected a text or token ids"),
    ("hogwild_steps", '{"until": "["}', "until is no regular expression"),
    ("logit_averaging", '{"prompts": [5]}', "prompts 0 is 5; expected a text or token ids"),
    ("lanerope", '{"visibility": "all"}', "visibility 'all'; expected independent, joint"),
    ("lanerope", '{"omega": "some"}', "omega is 'some'; expected none"),
    ("group_think", '{"slot": "wide"}', "slot is 'wide'; expected a number"),
    ("hogwild", '{"lag": -1}', "lag is -1; expected a whole number"),
    ("hogwild", '{"lagg": 1}', "method hogwild has no 'lagg'; it has visibility, lag"),
]


@pytest.mark.parametrize("name, config, says", EARLY)
def test_an_option_that_no_model_could_make_right_is_refused_before_one_is_loaded(
    name: str, config: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def load(*args: Any, **more: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tinylane.commands.common.load", load)
    code, out, err = generate(capsys, "--method", name, "--method-config", config, "--prompt", "x")
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words, says",
    [
        (
            ["--method", "beam", "--temp", "1"],
            "--method beam does not use --temp; leave",
        ),
        (["--method", "beam", "--top-k", "5"], "--method beam does not use --top-k; leave"),
        (["--beams", "2", "--temp", "1"], "--beams does not use --temp; leave --temp out"),
    ],
)
def test_what_beam_search_does_not_use_is_told_by_the_flags_that_were_given(
    words: list[str], says: str, capsys: Any
) -> None:
    code, out, err = generate(capsys, *words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


SAME = {
    "independent": True, "gambit": True, "bridge": True, "multi_stream": True, "hogwild": True,
    "parallel_r1": True, "dynamic_lanes": True, "lanerope": True, "tool_lane": True,
    "group_think": False, "parathinker": False, "tree_of_thoughts": False, "multiverse": False,
    "async_reasoning": False, "hogwild_steps": False, "plain_lanes": False,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_greedy_lanes_that_would_be_the_same_are_known(name: str) -> None:
    """From what a method begins with; a trained table of lanes tells them apart."""
    model, args = small(), SimpleNamespace(method=name)
    same = lambda m: same_texts(args, m, prepare(m, name, 3, 9), ["", "", ""])
    assert same(model) is SAME[name]
    if not METHODS[name].alike:
        assert not same(small(extra="lane_embed"))
    if name == "independent":
        assert not same_texts(args, model, prepare(model, name, 3, 9), ["a", "b", "c"])
    if SAME[name]:
        d = decode(model, "7+8=", name, 3, max_tokens=6, sampler=tinylane.Sampler(temperature=0.0))
        assert list(d)
        written = [lane.text for lane in d.lanes[:3]]
        assert METHODS[name].alike or len({*written}) == 1


def test_lace_s_lanes_are_told_apart_by_what_they_read_there() -> None:
    model, args = small(extra="lace"), SimpleNamespace(method="lace")
    assert not same_texts(args, model, prepare(model, "lace", 3, 9), [""] * 3)
    assert same_texts(args, small(), prepare(small(), "lace", 3, 9), [""] * 3)
