"""Modes by name: what each stands for, what contradicts it, and the command line's --mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_lanes import FREE, ids, model_of, omega

from tinylane import plot
from tinylane.commands import generate as command
from tinylane.commands.shared_flags import parse_omega
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.methods.decoding import generate
from tinylane.methods.modes import MODES, STARTS, check_mode, lane_rope, mode

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures
F64 = model_of("numpy", "float64")
THETA = F64.theta


def test_every_mode_is_what_its_table_says() -> None:
    alone, everybody = LaneMask.independent(3), LaneMask.joint(3)
    expected = {
        "independent": (LaneRoPE.none(THETA), alone),
        "joint": (LaneRoPE.none(THETA), everybody),  # of a model that has no Omega
        "group_think": (LaneRoPE.group_think(THETA, 64, 0), everybody),
        "hogwild": (Hogwild(), everybody),
    }
    assert tuple(expected) == MODES == command.MODES
    for name, (rope, mask) in expected.items():
        given = mode(name, F64, 3, slot=64)
        assert given[0].same_as(rope) and given[1].same_as(mask)
        for other in expected:
            same = expected[other][0].same_as(rope)
            assert same == (other == name or {other, name} == {"independent", "joint"})


def test_joint_starts_omega_anywhere() -> None:
    numbers = np.random.default_rng(0).normal(size=(2, 4))
    trained = replace(F64, lane_rope=omega(F64), visibility="joint", lag=1)
    starts = {
        "none": LaneRoPE.none(THETA),
        "group_think": LaneRoPE.group_think(THETA, 7),
        "ntk": LaneRoPE.ntk(THETA, 7, 3),
        "learned": omega(F64),
    }
    assert list(starts) == list(STARTS)
    for start, rope in starts.items():
        turned, mask = mode("joint", trained, 3, slot=7, omega=start)
        assert turned.same_as(rope) and mask.same_as(LaneMask.joint(3, lag=1))
        assert lane_rope(trained, 3, start, 7, prompt_lane=0).same_as(LaneRoPE(rope.omega, 0))
    assert mode("joint", trained, 3)[0].same_as(omega(F64))  # learned, where there is something
    assert mode("joint", F64, 3, omega=numbers)[0].same_as(LaneRoPE(numbers))
    assert mode("joint", F64, 3, slot=7, omega="ntk", scale=9)[0].same_as(LaneRoPE.ntk(THETA, 7, 9))


def test_a_mask_may_be_narrower_and_lag() -> None:
    for name in ("joint", "group_think", "hogwild"):
        mask = LaneMask.neighbours(4, 1, lag=2)
        given: dict[str, Any]
        for given in ({"visibility": "neighbours:1", "lag": 2}, {"visibility": mask}):
            assert mode(name, F64, 4, slot=9, **given)[1].same_as(mask)
    assert mode("hogwild", F64, 1)[1].n == 1  # alone is all there is


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no mode": ("both", {}, "mode is 'both'; expected independent, joint, group_think, hogwild"),
    "hogwild with Omega": ("hogwild", {"omega": "none"}, "takes no omega; 'none' was given"),
    "hogwild with numbers": ("hogwild", {"omega": np.ones(4)}, "takes no omega; another was given"),
    "hogwild with a prompt lane": ("hogwild", {"prompt_lane": "own"}, "takes no prompt_lane"),
    "hogwild unread": (
        "hogwild",
        {"visibility": "independent"},
        "give mode independent",
    ),
    "joint unread": (
        "joint",
        {"visibility": LaneMask.independent(3)},
        "give mode indep",
    ),
    "group think elsewhere": ("group_think", {"prompt_lane": "own"}, "no prompt_lane but 0"),
    "group think scaled": ("group_think", {"scale": 2.0}, "takes no scale; 2.0 was given"),
    "group think from ntk": ("group_think", {"omega": "ntk"}, "no omega but group_think"),
    "group think without a slot": ("group_think", {}, "omega group_think needs a slot"),
    "independent that reads": ("independent", {"visibility": "star"}, "no visibility but indep"),
    "independent that reads by a mask": (
        "independent",
        {"visibility": LaneMask.joint(3)},
        "no visibility but independent; another was given",
    ),
    "independent that turns": ("independent", {"omega": "ntk"}, "no omega but none"),
    "nothing was learned": ("joint", {"omega": "learned"}, "this model has none"),
    "no start": ("joint", {"omega": "spiral"}, "omega is 'spiral'; expected none, group_think"),
    "numbers of another model": ("joint", {"omega": np.ones(5)}, "Omega has shape"),
    "too many words": ("joint", {"visibility": "everybody"}, "visibility 'everybody'"),
    "a negative lag": ("joint", {"lag": -1}, "lag is -1"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_contradicts_a_mode_is_refused_in_one_line(why: str) -> None:
    name, given, words = REFUSED[why]
    with pytest.raises(TinylaneError) as caught:
        mode(name, F64, 3, **given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_saying_what_the_mode_says_anyway_is_no_contradiction() -> None:
    check_mode("independent", omega="none", prompt_lane="own", visibility="independent")
    check_mode("group_think", omega="group_think", prompt_lane="0", visibility="joint")
    check_mode("hogwild", visibility="star", omega=None)
    assert mode("independent", F64, 3, visibility=LaneMask.independent(3))[1].n == 3


def test_modes_write_different_texts_and_the_same_before_they_can_read() -> None:
    """The first token of a lane depends on the prompt alone, later ones on the mode."""
    runs = {}
    for name in MODES:
        rope, mask = mode(name, F64, 3, slot=16)
        runs[name] = generate(
            F64, ids(5), lanes=3, max_tokens=8, sampler=FREE, lane_rope=rope, lane_mask=mask
        )
    for name, run in runs.items():
        first = [lane.tokens[0] for lane in run.lanes]
        assert first == [lane.tokens[0] for lane in runs["independent"].lanes]
        for other in MODES:
            same = [x.tokens for x in run.lanes] == [x.tokens for x in runs[other].lanes]
            assert same == (other == name)


# The command line.


def test_generate_runs_every_mode_and_replays_it(ask: Any, game: str, tmp_path: Path) -> None:
    texts = set()
    for name in MODES:
        file = tmp_path / f"{name}.json"
        more = ("--mode", name, "--lanes", 4, "--seed", 1, "--temp", 1, "--save", file)
        out = helpers_cli.generate(ask, game, *more, "--prompt", "swap 1-2 1-3 2-3 1-2")
        settings = out["settings"]
        assert out["mode"] == name
        assert settings.get("rotation") == ("hogwild" if name == "hogwild" else None)
        assert ("omega" in settings) == (name != "hogwild")
        assert np.array(settings["visibility"]).all() == (name != "independent")
        assert json.loads(file.read_text())["extra"]["mode"] == name
        texts.add(tuple(lane["text"] for lane in out["lanes"]))
        code, said, _ = ask("replay", file, "--model", game)
        assert code == 0 and "agrees" in said
    assert len(texts) == len(MODES)


def test_a_mode_is_named_and_an_untrained_model_is_warned_of(ask: Any, plain: str) -> None:
    words = ("generate", "--model", plain, *helpers_cli.TEXT, "--lanes", 2, "--plain")
    code, _, said = ask(*words, "--mode", "hogwild")
    assert code == 0
    assert "2 lanes, each reads all others (hogwild)" in said
    assert "not trained to listen to other lanes; expect degraded or corrupt text" in said
    code, _, said = ask(*words, "--mode", "independent")
    assert code == 0 and "--visibility joint lets them" not in said


BAD = {
    "--mode hogwild --omega ntk": "mode hogwild takes no omega; 'ntk' was given",
    "--mode hogwild --slot 5": "--slot needs --mode group_think",
    "--mode hogwild --prompt-lane 0": "mode hogwild takes no prompt_lane; '0' was given",
    "--mode hogwild --visibility [[1,0],[0,1]]": "no lane reads another; give mode independent",
    "--mode independent --visibility joint": "takes no visibility but independent",
    "--mode joint --visibility independent": "give mode independent",
    "--mode joint --visibility bridge": "visibility bridge, but this model has no bridge",
    "--mode group_think --visibility bridge": "visibility bridge, but this model has no bridge",
    "--method lanerope --visibility bridge": "visibility bridge, but this model has no bridge",
    "--mode joint --omega-scale 2": "--omega-scale needs --omega ntk",
    "--mode group_think --omega-scale 2": "takes no scale",
    "--mode group_think --prompt-lane own": "takes no prompt_lane but 0",
    "--mode hogwild --omega @nothing.json": "nothing.json: cannot be read",
    "--mode all": "invalid choice: 'all'",
    "--mode joint --beams 2": "--beams does not use --mode",
}


@pytest.mark.parametrize("words", BAD)
def test_a_contradiction_is_one_line_and_exit_2(ask: Any, plain: str, words: str) -> None:
    lanes = () if "--beams" in words else ("--lanes", 2)
    code, out, err = ask("generate", "--model", plain, *helpers_cli.TEXT, *lanes, *words.split())
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("tinylane: note")]
    assert len(lines) == 1 and lines[0].startswith("tinylane: error: ") and BAD[words] in lines[0]


def test_omega_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "omega.json").write_text("[0.5, 1, -2, 0]")
    assert parse_omega(f"@{tmp_path}/omega.json").tolist() == [0.5, 1, -2, 0]
    assert parse_omega("ntk") == "ntk" and parse_omega(None) is None
    with pytest.raises(TinylaneError, match="cannot be read"):
        parse_omega("@nt")
    with pytest.raises(TinylaneError, match="expected none, group_think, ntk, learned or @file"):
        parse_omega("fast")


# The picture.


def test_the_picture_of_a_mask_can_say_how_far_back_keys_stand() -> None:
    positions, lanes = np.array([0, 1, 2, 2, 3, 3]), np.array([SHARED, SHARED, 0, 1, 0, 1])
    rows, joint = (positions, lanes), LaneMask.joint(2)
    assert "from 0 to 5 positions" in plot.alt(
        plot.mask(joint, *rows, lane_rope=Hogwild(), theta=THETA)
    )
    far = plot.mask(joint, *rows, lane_rope=LaneRoPE.group_think(THETA, 9, 0), theta=THETA)
    assert "from -9 to 12 positions" in plot.alt(far)
    shown = [text.get_text() for text in far.axes[0].texts]
    assert len(shown) == joint.visible(*rows, *rows).sum() and "-9" in shown
    assert "positions before" not in plot.alt(plot.mask(joint, *rows))
    for given in ({"key_positions": positions, "key_lanes": lanes, "theta": THETA}, {}):
        with pytest.raises(TinylaneError, match="the same rows"):
            plot.mask(joint, *rows, lane_rope=Hogwild(), **given)
