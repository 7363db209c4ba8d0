"""The program that renders chat templates in the worker process of `chat_template`.

A template is a program out of a downloaded file. Jinja's sandbox keeps it from Python's internals,
but not from a long loop or from `'a' * 200_000_000`: the worker's limits on processor time and
memory stop those (`tinylane.files.worker`). The environment is the one of `transformers`
(`utils/chat_template_utils.py`), so that templates find what they were written for. Only the
standard library may be imported at the top, and nothing of tinylane anywhere.
"""

from __future__ import annotations

import functools
import json
from typing import Any

MIB = 1 << 20
LONGEST_REPEAT = 16 * MIB  # elements that `text * number` may make
LARGEST_POWER = 1 << 16  # bits of `a ** b`


class Refusal(Exception):
    """Raised by a template's `raise_exception(...)`: it refuses these messages."""


def environment() -> Any:
    """The Jinja environment that chat templates expect. Imports jinja2."""
    from datetime import datetime

    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for training; here it is just text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A call block, as in transformers: what the body sets stays inside it.
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return caller()

    class Sandbox(ImmutableSandboxedEnvironment):
        """Refuses `*` and `**` where one call would make a huge value."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "*":
                for many, times in ((left, right), (right, left)):
                    repeats = isinstance(many, (str, list, tuple)) and isinstance(times, int)
                    if repeats and len(many) * times > LONGEST_REPEAT:
                        raise SecurityError(f"a repetition {times} times is too long")
            elif type(left) is type(right) is int and right * left.bit_length() > LARGEST_POWER:
                raise SecurityError(f"the power {right} is too large")
            return super().call_binop(context, operator, left, right)

    class PlainDict:
        """`dict(...)` without handing out the class and what hangs on it."""

        def __call__(self, *args: Any, **named: Any) -> dict:
            return dict(*args, **named)

        def fromkeys(self, *args: Any) -> dict:
            return dict.fromkeys(*args)

    class PlainNamespace(Namespace):
        """`namespace(...)` that takes no underscored names."""

        def __init__(*args: Any, **named: Any) -> None:
            values = dict(*args[1:], **named)
            for name in values:
                PlainNamespace._check(name)
            Namespace.__init__(args[0], values)

        def __setitem__(self, name: str, value: Any) -> None:
            PlainNamespace._check(name)
            super().__setitem__(name, value)

        @staticmethod
        def _check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise SecurityError(f"the namespace name {name!r} begins with an underscore")

    def raise_exception(message: Any) -> None:
        raise Refusal(str(message))

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's filter escapes for HTML, and no model was trained on that.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    env.globals["dict"] = PlainDict()
    env.globals["namespace"] = PlainNamespace
    return env


def prepare() -> None:
    """Import Jinja before any limit counts: it is not the template's cost."""
    import jinja2.sandbox  # noqa: F401


@functools.lru_cache(maxsize=1)  # many prompts, one checkpoint
def compiled(template: str) -> tuple[Any, set[str]]:
    """The template, in a new environment, and the variables that it reads."""
    from jinja2 import meta

    env = environment()
    return env.from_string(template), meta.find_undeclared_variables(env.parse(template))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`{"text", "unread"}` of a rendering, or `{"kind", "error"}` of a failed one.

    `request` has `template`, `variables`, `named` (variables to report when the template never
    reads them) and `longest` (characters of a result). Kinds: syntax, raised, unsafe, size, failed.
    Raises MemoryError.
    """
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import SecurityError, TemplateError

    try:
        template, read = compiled(request["template"])
        pieces, length = [], 0
        for piece in template.generate(**request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > request["longest"]:
                return {"kind": "size", "error": f"more than {request['longest']} characters"}
        unread = [name for name in request["named"] if name not in read]
        return {"text": "".join(pieces), "unread": unread}
    except TemplateSyntaxError as error:
        return {"kind": "syntax", "error": f"line {error.lineno}: {error.message}"}
    except SecurityError as error:
        return {"kind": "unsafe", "error": str(error)}
    except Refusal as error:
        return {"kind": "raised", "error": str(error)}
    except TemplateError as error:
        return {"kind": "failed", "error": str(error)}
    except RecursionError:
        return {"kind": "failed", "error": "it calls itself without end"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What the template's operations can raise. Anything else ends the worker, which is
        # reported as well.
        return {"kind": "failed", "error": f"{type(error).__name__}: {error}"}
