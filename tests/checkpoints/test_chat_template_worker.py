"""Claims about what the worker computes for a chat template, called directly in this process.

The worker itself runs in an interpreter that takes nothing from its surroundings, where no coverage
can be measured.
"""

from __future__ import annotations

from typing import Any

import pytest

from tinylane.checkpoints import chat_template_worker

MIB = 1 << 20


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


def test_what_is_imported_before_a_limit_counts_is_there():
    chat_template_worker.prepare()
    assert rendered("{{ 1 }}") == {"text": "1", "unread": []}
