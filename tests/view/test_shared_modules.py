"""The pages' modules: each is there once, plain, and the same wherever a page gets it from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import visit

from tinylane.view.inlined import inlined

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "tinylane" / "view" / "shared"
PAGES = [ROOT / "tinylane" / "view" / "page", ROOT / "tinylane" / "serve" / "page"]
SITE = ROOT / "tutorials" / "site"
IMPORTED = re.compile(r'^import .* from "([^"]+)";$', re.MULTILINE)


def modules(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.glob("*.js"))


@pytest.mark.parametrize("file", modules(SHARED, *PAGES), ids=lambda file: file.stem)
def test_a_module_is_plain_and_short(file: Path) -> None:
    """Lines that can be read; nothing fetched from elsewhere, evaluated or set as HTML."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 300 and max(map(len, lines)) <= 100
    assert np.mean([len(line) for line in lines]) < 60  # not crammed
    assert lines[0].startswith("// ")
    for word in ("import(", "eval(", "innerHTML", "Function(", "https:", "http://"):
        assert word not in text.replace("http://www.w3.org/2000/svg", ""), word


def test_what_pages_share_is_used_by_all_of_them_and_no_module_is_there_twice() -> None:
    """Each shared module serves two of site, replay and play; none is only copied."""
    site = modules(SITE / "assets", SITE / "explorer")
    users = {"site": site, "replay": modules(PAGES[0]), "play": modules(PAGES[1])}
    used = {name: set[str]() for name in users}
    for name, files in users.items():
        for file in files:
            for path in IMPORTED.findall(file.read_text(encoding="utf-8")):
                if "shared/" in path:
                    used[name].add(path.rpartition("/")[2])
    for file in modules(SHARED):
        assert sum(file.name in names for names in used.values()) >= 2, file.name
    assert not {file.name for file in site} & {file.name for file in modules(SHARED)}


# One script of many modules.

FILES = {
    "page/main.js": """import { add, Box as Kept } from "../shared/a.js";
import {
  twice,
} from "./b.js";
const secret = "main";
globalThis.found = [add(2, 3), twice(4), new Kept(5).value, secret];
""",
    "page/b.js": """import { add } from "../shared/a.js";
const secret = "b";
export const twice = (x) => add(x, x);
""",
    "shared/a.js": """const secret = "a";
export function add(x, y) {
  return x + y;
}
export class Box {
  constructor(value) {
    this.value = `${secret}${value}`;
  }
}
""",
}


def test_one_script_does_what_the_modules_do(browser: Any, tmp_path: Path) -> None:
    """In a browser: as modules, and as one script. Names of two modules do not meet."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    icon = "<!doctype html><link rel=icon href=data:,>"
    script = inlined("page/main.js", FILES.__getitem__)
    (tmp_path / "one.html").write_text(f"{icon}<script>{script}</script>")
    (tmp_path / "many.html").write_text(f"{icon}<script type=module src=page/main.js></script>")
    for page in ("one.html", "many.html"):
        with visit(browser, tmp_path, page) as seen:
            seen.page.wait_for_function("window.found")
            assert seen.page.evaluate("found") == [5, 8, "a5", "main"]
            seen.settled()
    assert script.count("function add") == 1  # imported twice


@pytest.mark.parametrize(
    "old, new",
    [
        ("export const twice", "export default"),
        ("export const twice", "export let twice"),
        ("export const twice", "export const [twice]"),
        ('import { add } from "../shared/a.js";', 'import * as a from "../shared/a.js";'),
        ('import { add } from "../shared/a.js";', 'import "../shared/a.js";'),
        ('import { add } from "../shared/a.js";', 'import { add } from "./main.js";'),  # a circle
    ],
)
def test_a_form_that_is_not_known_is_refused(old: str, new: str) -> None:
    assert old in FILES["page/b.js"]
    changed = {**FILES, "page/b.js": FILES["page/b.js"].replace(old, new)}
    with pytest.raises(AssertionError):
        inlined("page/main.js", changed.__getitem__)


# What the modules say, in a browser.


@pytest.fixture(scope="module")
def ask(browser: Any) -> Any:
    """ask(module, expression): `m` is the module."""
    with visit(browser, SHARED, "look.css") as seen:

        def answer(module: str, expression: str) -> Any:
            body = f"async () => {{ const m = await import('/{module}'); return {expression}; }}"
            return json.loads(json.dumps(seen.page.evaluate(body)))

        yield answer


def test_shares_are_never_none_nor_all_unless_they_are(ask: Callable[..., Any]) -> None:
    said = ask("numbers.js", "[0, 0.0001, 0.005, 0.374, 0.994, 0.996, 0.9996, 1].map(m.percent)")
    assert said == ["0%", "under 1%", "1%", "37%", "99%", "over 99%", "100%", "100%"]
    assert ask("numbers.js", "[0, 0.003, 0.0094, 0.0096, 1].map(m.finely)") == [
        "0%", "0.3%", "0.9%", "1%", "100%",
    ]  # fmt: skip
    chances = ask("numbers.js", "[0, 0.6931472, 4.6, 20].map(m.chance)")
    assert chances == ["100.00%", "50.0%", "1.01%", "under 0.01%"]


@pytest.mark.parametrize(
    "text, quoted, exact, box",
    [
        (" a", "“a”", "␣a", [" ", "a"]),
        ("a", "“a”", "a", ["", "a"]),
        ("  ", "“␣␣”", "␣␣", ["", "  "]),
        ("\n", "“↵”", "↵", ["", "↵\n"]),
        ("\tx", "“x”", "⇥\tx", ["⇥\t", "x"]),
        ("", "“·”", "·", ["", "·"]),
        ("<b>", "“<b>”", "<b>", ["", "<b>"]),
    ],
)
def test_a_token_can_be_seen_and_pressed(
    ask: Callable[..., Any], text: str, quoted: str, exact: str, box: list[str]
) -> None:
    given = json.dumps(text)
    assert ask("tokens.js", f"[m.quoted({given}), m.exact({given})]") == [quoted, exact]
    drawn = f"m.tokenBox({given}).map((x) => x.textContent ?? x)"
    assert ask("tokens.js", drawn) == box
