"""Hostile chat templates for `hostile.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hostile_texts import Make, text

CANARY = "TINYLANE_CANARY"  # in the environment of the process that reads the corpus

TEMPLATES = {
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals by attr": "{{ raise_exception|attr('__glob' ~ 'als__') }}",
    "globals by item": "{{ raise_exception['__globals__']['os'] }}",
    "globals by map": "{{ ([raise_exception]|map(attribute='__globals__')|first).os }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "globals of joiner": "{{ joiner.__init__.__globals__['os'].environ }}",
    "globals of namespace": "{{ namespace.__init__.__globals__.sys }}",
    "globals of lipsum": "{{ lipsum.__globals__.os.system('touch CANARY') }}",
    "globals of strftime": "{{ strftime_now.__globals__ }}",
    "globals of a method": "{{ messages[0].get.__self__.__class__ }}{{ messages.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "bases by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "bases by format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "bases by an aliased format": "{{ ('{0.__class__}'|attr('format'))('') }}",
    "format through map": "{{ ['{0.__class__.__init__}']|map('format', 1)|list|first.x }}",
    "self": "{{ self.__init__.__globals__ }}",
    "the loop's class": "{% for a in [1] %}{{ loop.__class__.__init__ }}{% endfor %}",
    "the code of a macro": "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
    "a generator's frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "an include": "{% include '/etc/passwd' %}",
    "a parent": "{% extends '../../etc/passwd' %}",
    "a private name": "{{ messages[0]._x.y }}",
    "a changed list": "{{ messages.append(1) }}",
    "a changed dictionary": "{{ messages[0].update({'a': 1}) }}",
    "an endless call": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "an endless pair": "{% macro a() %}{{ b() }}{% endmacro %}"
    "{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a huge range": "{% for i in range(10**12) %}x{% endfor %}",
    "a large range as a list": "{{ range(10**8)|list }}",
    "ranges in ranges": "{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a search without end": "{% set n = namespace(i=0) %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% set n.i = n.i + 1 %}{% endfor %}{% endfor %}{{ n.i }}",
    "a long repetition": "{{ 'a' * 200000000 }}",
    "a repetition by steps": "{% set n = namespace(s='a') %}{% for i in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "a list by steps": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "a wide column": "{{ 'a'|center(10**10) }}",
    "a wide format": "{{ '%1000000000d'|format(1) }}",
    "a wide format by method": "{{ '{:>1000000000}'.format(1) }}",
    "a deep indent": "{{ 'a\\nb'|indent(10**10) }}",
    "a long text": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "a great power": "{{ 9**(9**9) }}",
    "many powers": "{% set n = namespace(i=7) %}{% for i in range(99) %}"
    "{% set n.i = n.i * n.i %}{% endfor %}{{ n.i }}",
    "lorem ipsum": "{{ lipsum(n=10**7) }}",
    "batches": "{{ [1]|batch(10**9, 'x')|list }}",
    "slices": "{{ [1]|slice(10**9)|list }}",
    "a word wrap": "{{ ('a' * 1000000)|wordwrap(1) }}",
    "its own refusal": "{{ raise_exception('no\\n\\x1b[31m such role') }}",
    "division by zero": "{{ 1 / 0 }}",
    "an unknown filter": "{{ messages|rm }}",
    "no end": "{% if messages %}",
    "no expression": "{{ }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long sum": "{{ 1" + "+1" * 20000 + " }}",
    "a long chain": "{{ a" + ".b" * 20000 + " }}",
    "nested loops": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60 + "{{ nothing.x }}",
    "nested conditions": "{% if 1 %}" * 300 + "{% endif %}" * 300 + "{{ nothing.x }}",
    "nothing's attribute": "{{ None.x }}{{ nothing.x.y }}",
    "half a surrogate": "{{ '\\ud800' }}{{ nothing.x }}",
    "2 MiB": "x" * (2 << 20),
}


def templates(base: Path) -> Iterator[tuple[str, Make]]:
    for what, template in TEMPLATES.items():
        yield what, text("chat_template.jinja", template)
    names = {"no default template": "tool", "a template's name in a list": ["default"]}
    for what, name in names.items():
        settings = {"chat_template": [{"name": name, "template": "x"}]}
        yield what, text("tokenizer_config.json", json.dumps(settings))
