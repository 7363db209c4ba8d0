"""The explorer's challenges, solved with its own controls; and what does not solve them."""

from __future__ import annotations

import itertools

import numpy as np
from helpers_browser import Visit
from helpers_explorer import GAME, READY, SEEDED, Shown

import tinylane
from tinylane.core.lanes import LaneMask


def begin(seen: Visit, c: int) -> None:
    seen.page.click(f"[data-challenge='{c}'] summary")
    seen.page.click(f"[data-begin='{c}']")
    seen.page.wait_for_function(READY)
    assert said(seen, c) == "Not yet."


def said(seen: Visit, c: int) -> str:
    seen.page.wait_for_function(READY)
    return seen.page.inner_text(f"[data-said='{c}']")


def test_challenge_silence_a_lane(seen: Visit, model: tinylane.Model) -> None:
    begin(seen, 0)
    seen.page.check("[data-predict='0']")
    seen.page.click("[data-see='1,0']")
    assert said(seen, 0) == "Not yet."  # lane 1 is still right
    assert seen.page.is_disabled("[data-predict='1']")  # too late to say
    seen.page.click("[data-begin='0']")
    seen.page.wait_for_function(READY)
    seen.page.check("[data-predict='1']")
    seen.page.click("[data-see='1,0']")
    assert said(seen, 0).startswith("Solved. As you said: lane 2 ends wrong.")
    assert Shown(seen, model).check() == 1


def test_challenge_change_omega_so_that_nothing_changes(seen: Visit, model: tinylane.Model) -> None:
    begin(seen, 1)
    seen.page.focus("[data-part=omega]")
    seen.page.keyboard.press("ArrowUp")  # another value: the words may stay, logits do not
    assert said(seen, 1) == "Not yet."
    seen.page.click("[data-begin='1']")
    seen.page.click("[data-part=plane-turn]")
    assert said(seen, 1).startswith("Solved. Omega changed by up to 6.28 radians")
    assert Shown(seen, model).check() == 4


def test_challenge_break_exactly_one_pair(seen: Visit, model: tinylane.Model) -> None:
    begin(seen, 2)
    seen.page.click("[data-see='2,3']")
    assert said(seen, 2) == "Not yet."
    seen.page.click("[data-see='3,2']")
    assert said(seen, 2) == "Solved. Lanes 3 and 4 are broken, the other pair is whole."
    shown = Shown(seen, model)
    shown.check()
    assert [shown.right[m, 4] for m in range(4)] == [True, True, False, False]
    seen.page.click("[data-see='3,2']")
    assert said(seen, 2) == "Not yet."  # what is said is of the page as it is now
    assert "✓" in seen.page.inner_text("[data-mark='2']")


def test_challenge_which_planes_tell_the_lanes_apart(seen: Visit, model: tinylane.Model) -> None:
    begin(seen, 3)
    seen.page.click("[data-part=fast-off]")
    assert said(seen, 3) == "Not yet."
    seen.page.click("[data-part=planes-on]")
    seen.page.click("[data-part=slow-off]")
    seen.page.wait_for_function("() => document.body.innerText.includes('Solved. 16 planes')")
    print(said(seen, 3))
    assert Shown(seen, model).check() == 4


def test_challenge_the_fewest_cells(seen: Visit, model: tinylane.Model) -> None:
    begin(seen, 4)
    for cell in ("1,0", "1,2", "2,1", "2,3", "3,2"):
        assert said(seen, 4) == "Not yet."
        seen.page.click(f"[data-see='{cell}']")
    assert said(seen, 4) == "Solved. lane 2, lane 3, lane 4: right with 5 cells. No fewer will do."
    assert Shown(seen, model).check() == 3


def test_no_four_cells_make_three_lanes_right(model: tinylane.Model) -> None:
    """Of all masks with four cells or fewer, those in which three lanes are reached by all (law 5:
    others cannot know the swaps of all), played."""
    cells = [(m, n) for m in range(4) for n in range(4) if m != n]
    moves, tried = GAME.parse(SEEDED), 0
    for count in range(5):
        for chosen in itertools.combinations(cells, count):
            see = np.eye(4, dtype=bool)
            for cell in chosen:
                see[cell] = True
            if LaneMask(see).reaches().all(axis=1).sum() < 3:
                continue
            tried += 1
            texts = tinylane.generate(
                model, GAME.prompt(moves), lanes=4, lane_prompts=GAME.lane_prompts(4),
                max_tokens=7, lane_mask=LaneMask(see),
            ).texts  # fmt: skip
            assert sum(text.split()[-1] == GAME.answer(moves) for text in texts) < 3, chosen
    assert tried > 10
