"""The program that reads expressions in the worker process of `mathematics.Judge`.

math-verify's grammar makes a sympy expression of model text, and sympy may compute 10^10^10 if it
is asked to. Here the worker's limits stop it (`tinylane.files.worker`). Nothing of tinylane may be
imported.

The answer is a key: equal for expressions that are equal. math-verify's own `verify` is no help
there: it is not symmetric, takes 1/3 for 0.333333, and compares small numbers with an absolute
tolerance. So an expression is evaluated to DIGITS digits, its variables at fixed points that their
names decide. Two different expressions of a few hundred characters that agree at all of them to
COMPARED digits are not expected in a lifetime (Schwartz 1980, doi:10.1145/322217.322225).

Not handled: variables differ in more than their case (the grammar has lower case only); functions
without a value (f(x), derivatives) are compared by their form.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

DIGITS = 120
COMPARED = 50
POINTS = 3
LONG = 1000  # digits of a number that is sent as a hash


def prepare() -> None:
    """Import math-verify, and have it make its grammars and tables, before any limit counts."""
    logging.disable(logging.CRITICAL)
    for text in ("1", "\\frac{1}{2}", "x^2+\\sqrt{2}"):
        key(parsed(text), False)  # not `answer`: what cannot be imported ends the worker


def answer(request: list[Any]) -> list[Any] | None:
    """The key of [text, equation]; None for what cannot be read. equation: the text is zero."""
    text, equation = request
    try:
        return key(parsed(text), equation)
    except MemoryError:
        raise
    except Exception:  # a parser over model text raises anything at all
        return None


def parsed(text: str) -> Any:
    """The sympy object of a text. Units stay: the grammar of units would take 2t for 2 tons."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import parse
    from math_verify.parser import LatexExtractionConfig

    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    )
    read = parse(
        f"\\boxed{{{text}}}",
        [LatexExtractionConfig(normalization_config=spelling)],
        parsing_timeout=None,
        raise_on_error=True,
    )
    return next(value for value in read if not isinstance(value, str))


def key(value: Any, equation: bool) -> list[Any] | None:
    """See `answer`."""
    import sympy

    if isinstance(value, sympy.MatrixBase):
        if equation or 0 in value.shape:
            return None
        rows = [[key(entry, False) for entry in value.row(k)] for k in range(value.rows)]
        return None if any(None in row for row in rows) else ["matrix", rows]
    if not isinstance(value, sympy.Expr):
        return None
    value = value.xreplace({x: sympy.Rational(str(x)) for x in value.atoms(sympy.Float)})
    value = value.doit()
    if isinstance(value, sympy.MatrixBase):
        return key(value, equation)
    if value.atoms(sympy.core.function.AppliedUndef, sympy.Derivative):
        return ["form", equation, sympy.srepr(value)]
    if value in (sympy.oo, -sympy.oo):
        return ["inf", 1 if value == sympy.oo else -1]
    values = [at_point(value, k) for k in range(POINTS)]
    if None in values:
        return None
    names = sorted({symbol.name for symbol in value.free_symbols} - {"i"})
    if equation:
        return of_equation(value, values, names)
    if all(x == values[0] for x in values):
        return ["number", spelled(values[0])]
    if len(names) == 1 and isinstance(value, sympy.Symbol) and len(names[0]) == 1:
        return ["letter", names[0]]
    return ["values", [spelled(x) for x in values]]


def of_equation(value: Any, values: list[Any], names: list[str]) -> list[Any] | None:
    """Of `value` = 0: its solution if it has one variable, of which it is linear; else the value
    without its factor, so that 2x + 2y = 2 is x + y = 1."""
    import sympy

    if len(names) == 1 or "y" in names:  # y = 2x + 1 is an answer that says 2x + 1
        name = "y" if "y" in names else names[0]
        symbol = next(s for s in value.free_symbols if s.name == name)
        slope = sympy.expand(value).coeff(symbol, 1)
        rest = sympy.expand(sympy.expand(value) - slope * symbol)
        if slope.is_number and slope != 0 and symbol not in rest.free_symbols:
            return key(-rest / slope, False)
    if values[0] == 0:
        return None
    return ["zero", names, [spelled(rational(x / values[0])) for x in values]]


def at_point(value: Any, k: int) -> Any:
    """The value with every variable at its k-th point; None where there is none."""
    import sympy

    points = {symbol: point(symbol.name, k) for symbol in value.free_symbols}
    number = value.xreplace(points) if points else value
    if not number.is_Rational:
        number = rational(number)
    finite = number is not None and number.is_number and number.is_finite is not False
    return number if finite and number != sympy.nan else None


def point(name: str, k: int) -> Any:
    """A number between -3 and 3 that the name decides, far from others; i is imaginary."""
    import sympy

    if name == "i":
        return sympy.I
    digest = hashlib.sha256(f"{k} {name}".encode()).digest()
    top = int.from_bytes(digest[:6], "big") | 1
    return sympy.Rational((-1) ** (digest[6] & (k > 0)) * 3 * top, (1 << 48) - 59)


def rational(value: Any) -> Any:
    """The number to DIGITS digits; the rational number that it is, if it has a small one."""
    import sympy

    value = sympy.sympify(value).doit()
    if value.is_Rational:
        return value
    number = value.evalf(DIGITS, maxn=4 * DIGITS)
    parts = number.as_real_imag()
    if any(not part.is_Float and not part.is_Rational for part in parts):
        return None
    if any(part.is_Float and part != 0 and part._prec < 200 for part in parts):
        number = sympy.simplify(value)  # all digits were lost: it may be zero
        if number.is_Rational:
            return number
        return None
    real, imaginary = (exact(part) for part in parts)
    return real + imaginary * sympy.I


def exact(part: Any) -> Any:
    """The rational number with a short denominator that a Float agrees with, or the Float."""
    import sympy

    if not part.is_Float:
        return part
    near = sympy.Rational(part).limit_denominator(10**12)
    if abs(near - part) <= abs(part) * sympy.Float(10, DIGITS) ** -COMPARED:
        return near
    return part


def spelled(value: Any) -> str:
    """A number as text: p/q, or COMPARED digits of each part; a hash if that is long."""
    import sympy

    if value.is_Rational:
        p, q = int(value.p), int(value.q)
        if max(p.bit_length(), q.bit_length()) > 3 * LONG:
            return hashlib.sha256(f"{p:x}/{q:x}".encode()).hexdigest()
        return f"{p}/{q}"
    return " ".join(
        spelled(part) if part.is_Rational else str(sympy.Float(part, COMPARED))
        for part in value.as_real_imag()
    )
