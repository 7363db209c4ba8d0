"""The other methods in the explorer: played by the page, or by the package before."""

from __future__ import annotations

import json

from helpers_browser import Visit
from helpers_explorer import GAME, SEEDED, Shown

import tinylane
from tinylane.methods import NAMES, prepare
from tinylane.methods import start as start_method
from tutorials.build import methods


def shown_word(word: str) -> str:
    return "end" if word == "<end>" else word


def test_every_method_can_be_chosen_and_is_the_packages(seen: Visit, model: tinylane.Model) -> None:
    """Where the page plays it, its words are those of `tinylane.methods`; of others, what is shown
    is a run of the package. All have their choices in words; untrained ones say so."""
    table = json.loads(methods.FILE.read_text(encoding="utf-8"))["methods"]
    assert [row["name"] for row in table] == list(NAMES)
    prompt, live = GAME.prompt(GAME.parse(SEEDED)), []
    assert not seen.page.is_visible("[data-part=chosen]")  # before one is chosen
    for row in table:
        seen.page.select_option("[data-part=method]", row["name"])
        shown = Shown(seen, model)
        text = seen.page.inner_text("[data-part=chosen]")
        assert all(row[key] in text for key in ("place", "sees", "life", "draws", "source"))
        assert ("was not trained for it" in text) == (row["name"] != "lanerope")
        cells = seen.page.eval_on_selector_all(
            ".recorded tbody td", "all => all.map((x) => x.innerText.split(/\\s+/)[0])"
        )
        if row["run"] is None:
            assert row["name"] == "beam"
            assert "cannot play it: it has a search" in seen.page.inner_text("[data-part=plays]")
            continue
        more = {"lane_prompts": GAME.lane_prompts(4), "sampler": tinylane.Sampler(temperature=0.0)}
        setup = prepare(model, row["name"], 4, 7)
        decoding = start_method(model, prompt, setup, max_tokens=7, **more)
        for _ in decoding:
            pass
        result = decoding.result()
        if row["live"]:
            live.append(row["name"])
            assert "plays it" in seen.page.inner_text("[data-part=plays]") and cells == []
            shown.check()
            words = [[w for (m, _), w in sorted(shown.text.items()) if m == n] for n in range(4)]
            assert [lane[: len(x.tokens)] for lane, x in zip(words, result.lanes, strict=True)] == [
                [shown_word(GAME.vocabulary[token]) for token in x.tokens] for x in result.lanes
            ]
        else:
            expected = [
                shown_word(GAME.vocabulary[x]) for lane in result.lanes for x in lane.tokens
            ]
            assert sorted(filter(None, cells)) == sorted(expected), row["name"]
            plays = seen.page.inner_text("[data-part=plays]")
            assert row["beyond"] and all(words in plays for words in row["beyond"])
    asked = {"independent", "best_of_n", "lanerope", "group_think", "multi_stream", "bridge"}
    assert asked <= set(live) and not {"hogwild", "plain_lanes", "parathinker"} & set(live)
    seen.page.select_option("[data-part=method]", "group_think")
    seen.page.fill("[name=lag]", "2")
    Shown(seen, model).check()
    assert "other settings" in seen.page.inner_text("[data-part=plays]")
