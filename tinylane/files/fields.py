"""Fields of a JSON object that somebody else wrote, each with the type that it should have.

`Fields` reads one object. A field that is null counts as absent. Every error is one line: the file,
the field, its value, what was expected.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from tinylane.core.errors import TinylaneError, show

LARGEST = (1 << 31) - 1  # of a whole number, unless a caller says otherwise
REQUIRED: Any = object()  # the default of a field that has none


class Fields:
    """The fields of `raw`; raises TinylaneError if it is no object.

    source: the file, or file and line, that begins every message; "" for none. parent: the field
    that holds this object, for messages.
    """

    def __init__(self, raw: Any, source: str = "", parent: str = "") -> None:
        self.raw: dict[str, Any] = raw
        self.source, self.parent = source, parent
        if not isinstance(raw, dict):
            what = f"{parent} is {show(raw, 40)}; " if parent else f"{show(raw, 40)}: "
            raise TinylaneError(f"{self.begin}{what}expected an object")

    @property
    def begin(self) -> str:
        """What every message begins with."""
        return f"{self.source}: " if self.source else ""

    def name(self, key: str) -> str:
        """The field as messages call it: `settings.lag`."""
        return f"{self.parent}.{key}" if self.parent else key

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise TinylaneError: this field is not what is expected."""
        value = self.raw.get(key)
        state = "is missing" if value is None else f"is {show(value, 60)}"
        raise TinylaneError(f"{self.begin}{self.name(key)} {state}; expected {expected}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is; the default is for an absent field, not for one that is null."""
        return self.raw.get(key, default)

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(key) is not None

    def _value(self, key: str, kind: Any, default: Any, expected: str) -> Any:
        value = self.raw.get(key)
        if value is None and default is not REQUIRED:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(key, expected)
        return value

    def whole(self, key: str, least: int = 0, most: int = LARGEST, default: Any = REQUIRED) -> int:
        """A whole number from `least` to `most`."""
        expected = f"a whole number from {least} to {most}"
        value = self._value(key, int, default, expected)
        if self.has(key) and not least <= value <= most:
            self.fail(key, expected)
        return value

    def real(
        self,
        key: str,
        default: Any = REQUIRED,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        below: float = math.inf,
    ) -> float:
        """A number that is more than `above`, at least `least` and less than `below`."""
        bounds = [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"from {least:g} on"] if least > -math.inf else []
        bounds += [f"below {below:g}"] if below < math.inf else []
        expected = " ".join(["a number", " and ".join(bounds)]).strip()
        value = self._value(key, (int, float), default, expected)
        if not self.has(key):
            return value
        if not (above < value < below and least <= value):  # NaN compares false
            self.fail(key, expected)
        return float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        """True or false."""
        return self._value(key, bool, default, "true or false")

    def text(self, key: str, default: Any = REQUIRED) -> str:
        """A text, perhaps an empty one."""
        return self._value(key, str, default, "a text")

    def spelled(self, key: str) -> str:
        """A text that is not blank, or a number in its shortest spelling: 27.0 is "27"."""
        if key not in self.raw:
            have = ", ".join(map(repr, list(self.raw)[:8])) or "none"
            raise TinylaneError(f"{self.begin}no field {show(key, 40)}; it has {have}")
        value = self._value(key, (str, int, float), REQUIRED, "text or a number")
        if isinstance(value, str):
            if not value.strip():
                raise TinylaneError(f"{self.begin}{self.name(key)} is empty; expected text")
            return value
        return str(int(value) if value == int(value) else value)

    def fields(self, key: str) -> Fields:
        """An object, as Fields."""
        return Fields(self._value(key, dict, REQUIRED, "an object"), self.source, self.name(key))

    def items(self, key: str, kind: Any = object, default: Any = REQUIRED) -> Any:
        """A list whose items are all of a type, or of one of several."""
        names = {str: "texts", int: "whole numbers", dict: "objects", bool: "true or false values"}
        kinds = kind if isinstance(kind, tuple) else (kind,)
        words = " or ".join(names.get(one, "lists") for one in kinds)
        expected = "a list" if kind is object else f"a list of {words}"
        value = self._value(key, list, default, expected)
        if not self.has(key):
            return value
        for item in value:
            if not isinstance(item, kind) or (isinstance(item, bool) and int in kinds):
                self.fail(key, expected)
        return value

    def ids(self, key: str) -> Any:
        """A list of token ids."""
        value = self._value(key, list, REQUIRED, "token ids")
        if not all(type(token) is int and 0 <= token <= LARGEST for token in value):
            self.fail(key, "token ids")
        return value
