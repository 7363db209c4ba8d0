"""The method page has numbered sections and laws, and every citation of one leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinylane import testing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tutorials" / "site" / "method.md").read_text(encoding="utf-8")
ANCHORS = set(re.findall(r"""(?:\{ #|id=")([\w-]+)[" ]""", PAGE))

GAP = r"[\s#]+"  # a citation may go on in the next line of a comment
LIST = rf"\d[\d.]*(?:(?:,|{GAP}and|{GAP}to){GAP}\d[\d.]*)*"
SECTIONS = re.compile(rf"\bmethod,{GAP}sections?{GAP}({LIST})", re.IGNORECASE)
LAWS = re.compile(rf"\blaws?{GAP}({LIST})", re.IGNORECASE)


def cited(text: str) -> Iterator[tuple[str, str]]:
    """(citation, anchor) of every section and law of the method that a text cites."""
    for kind, pattern in (("section", SECTIONS), ("law", LAWS)):
        for citation in pattern.finditer(text):
            for number in re.findall(r"\d+(?:\.\d+)*", citation[1]):
                yield citation[0], f"{kind}-{number.replace('.', '-')}"


def files() -> list[Path]:
    """Code and pages that people write: no generated page, nothing that git ignores."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "weights" / "README.md"]
    for folder in ("tinylane", "tests", "tutorials"):
        for suffix in ("py", "md", "js", "html"):
            paths += (ROOT / folder).rglob(f"*.{suffix}")
    made = ROOT / "tutorials" / "site" / "tutorials"
    return [path for path in paths if path.is_file() and made not in path.parents]


def test_the_sections_are_numbered_in_order_and_their_anchors_say_so() -> None:
    headings = re.findall(r"^##+ (\d[\d.]*?)\.? .+ \{ #(\S+) \}$", PAGE, re.MULTILINE)
    assert len(headings) == len(re.findall(r"^##", PAGE, re.MULTILINE))
    assert [anchor for _, anchor in headings] == [
        f"section-{number.replace('.', '-')}" for number, _ in headings
    ]
    numbers = [tuple(map(int, number.split("."))) for number, _ in headings]
    assert numbers == sorted(set(numbers)) and {n[0] for n in numbers} == set(range(1, 8))


def test_the_laws_of_the_page_are_those_of_the_tests() -> None:
    rows = re.findall(r'^\| <span id="law-(\d+)">(\d+)</span> \| ([\w ]+) \|', PAGE, re.MULTILINE)
    assert [int(anchor) for anchor, _, _ in rows] == [int(number) for _, number, _ in rows]
    page = {int(number): name.lower() for number, _, name in rows}
    asked = {law.number: law.name.replace("_", " ") for law in testing.LAWS.values()}
    assert page == asked and list(page) == list(range(1, 26))


def test_every_section_and_law_that_is_cited_is_on_the_page() -> None:
    citations = [
        (path.relative_to(ROOT).as_posix(), *citation)
        for path in files()
        for citation in cited(path.read_text(encoding="utf-8"))
        if path != Path(__file__)
    ]
    assert [citation for citation in citations if citation[2] not in ANCHORS] == []
    for kind, least in (("section", 10), ("law", 30)):
        assert sum(anchor.startswith(kind) for _, _, anchor in citations) >= least


@pytest.mark.parametrize(
    "text, anchors",
    [
        ("see the method, section 2.1.", ["section-2-1"]),
        ("# Method,\n# sections 2 and 9: that", ["section-2", "section-9"]),
        ("laws 6, 7 and 14, law\n3; flaw 2", ["law-6", "law-7", "law-14", "law-3"]),
    ],
)
def test_citations_are_found_where_lines_break_and_in_lists(text: str, anchors: list[str]) -> None:
    assert [anchor for _, anchor in cited(text)] == anchors


def test_no_page_that_is_not_in_the_repository_is_cited() -> None:
    word = "SP" + "EC"
    assert [path for path in files() if re.search(rf"\b{word}\b", path.read_text("utf-8"))] == []
