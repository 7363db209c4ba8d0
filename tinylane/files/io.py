"""Small files that cannot be trusted: how they are read. `tinylane.files.writing` writes.

Reading takes regular files only (a FIFO would block), of bounded size, and strict JSON: no
duplicate keys, no NaN, no number that Python would take seconds to parse. `Fields` gives an
object's fields by type.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tinylane.core.errors import TinylaneError, show

MAX_JSON = 1 << 20
# A JSON value takes 20 to 80 times as much memory in Python as in its file, so values are counted
# before any is made. A header of 100,000 tensors or a run of a million numbers stays far below.
MAX_VALUES = 1_500_000  # commas
MAX_KEYS = 600_000  # colons
MAX_CONTAINERS = 500_000  # opening brackets and braces
MAX_DEPTH = 64
LARGEST = (1 << 31) - 1  # of a whole number, unless a caller says otherwise
REQUIRED: Any = object()  # the default of a field that has none
MAX_DIGITS = 20  # 2**64 has 20; Python's own limit (4300) exists from 3.11 on only


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes; raises TinylaneError for anything else."""
    return os.fdopen(open_descriptor(path, os.O_RDONLY), "rb")


def open_descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """A descriptor of a regular file; raises TinylaneError for anything else.

    The open does not block on a FIFO without a writer. The type is checked on the descriptor, so
    that nobody can exchange the file in between. Child processes do not get it.
    """
    try:
        handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        done = "read" if flags == os.O_RDONLY else "written"
        reason = getattr(error, "strerror", None) or str(error)
        raise TinylaneError(f"{os.fspath(path)}: cannot be {done} ({reason})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise TinylaneError(f"{os.fspath(path)}: is not a regular file")
    return handle


def inside(folder: Path, name: str) -> Path:
    """A file of the folder by its basename; raises TinylaneError for anything that leads outside.

    Symbolic links may stay inside, or go to `blobs/` of the hub cache that the folder is part of.
    """
    try:
        plain = Path(name).name == name and not {0, ord("\\")} & set(os.fsencode(name))
    except UnicodeEncodeError:  # half a surrogate: in no file's name
        plain = False
    if not plain or name in ("", ".", ".."):
        raise TinylaneError(f"{folder}: {show(name)} is not a plain file name of this folder")
    # realpath, unlike Path.resolve, does not raise on a loop of links
    real, home = Path(os.path.realpath(folder / name)), Path(os.path.realpath(folder))
    if real.is_relative_to(home):
        return folder / name
    for above in home.parents:
        if above.name == "snapshots" and real.parent == above.parent / "blobs":
            return folder / name
    raise TinylaneError(f"{folder}: {show(name)} is a link to {real}, outside its folder")


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """A regular file's UTF-8 text of at most `limit` bytes, without a byte order mark; raises
    TinylaneError."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"{os.fspath(path)}: not UTF-8 text (byte {error.start})") from None


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes; raises TinylaneError."""
    with open_regular(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise TinylaneError(f"{os.fspath(path)}: {error.strerror}") from error
    if len(data) > limit:
        raise TinylaneError(f"{os.fspath(path)}: larger than {limit:,} bytes, the limit here")
    return data


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json` that raises TinylaneError for a key that occurs twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        again = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise TinylaneError(f"key {show(again)} occurs twice")
    return members


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise TinylaneError(f"number {show(text, 40)} has more than {MAX_DIGITS} digits")
    if text == "-0":  # other readers of the same file refuse it
        raise TinylaneError("number -0 is not an integer that JSON readers agree on")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise TinylaneError(f"number {show(text, 40)} is not finite")
    return value


def _constant(text: str) -> NoReturn:
    raise TinylaneError(f"{text} is not a JSON number")


def check_bounds(data: Any, source: str) -> None:
    """Raise TinylaneError if JSON, in bytes or text, would take far more memory than its size.

    Punctuation inside strings counts too; the limits are wide enough for that.
    """
    comma, colon, square, curly = (b",", b":", b"[", b"{") if isinstance(data, bytes) else ",:[{"
    for what, count, most in (
        ("values", data.count(comma), MAX_VALUES),
        ("keys", data.count(colon), MAX_KEYS),
        ("lists and objects", data.count(square) + data.count(curly), MAX_CONTAINERS),
    ):
        if count > most:
            raise TinylaneError(f"{source}: {count:,} {what}, limit {most:,}")


def _check_depth(value: Any) -> None:
    """Raise TinylaneError for nesting that the parser accepts but that later code may not."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for outer in level:
            for inner in outer.values() if isinstance(outer, dict) else outer:
                if isinstance(inner, (dict, list)):
                    below.append(inner)
        level = below
    if level:
        raise TinylaneError("nested too deeply to be what it should be")


def parse_json(data: bytes, source: str, kind: type = dict) -> Any:
    """A JSON object, or with kind=list a list, from bytes. Raises TinylaneError naming `source` for
    anything that is not one.

    Stricter than `json`: UTF-8 only, duplicate keys, NaN and infinities refused, nesting bounded.
    """
    check_bounds(data, source)
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=unique_keys,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
        if isinstance(value, (dict, list)):
            _check_depth(value)
    except TinylaneError as error:
        raise TinylaneError(f"{source}: {error}") from error
    except RecursionError as error:
        raise TinylaneError(f"{source}: nested too deeply to be what it should be") from error
    except UnicodeDecodeError as error:
        raise TinylaneError(f"{source}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if b"\n" in data else ""  # of many, or `source` says it
        raise TinylaneError(
            f"{source}: not valid JSON ({error.msg}: {line}column {error.colno})"
        ) from error
    if not isinstance(value, kind):
        what = "object" if kind is dict else "list"
        raise TinylaneError(f"{source}: expected a JSON {what}, found {show(value, 40)}")
    return value


def read_json(path: str | os.PathLike[str], limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes. Raises TinylaneError naming the file."""
    return parse_json(read_bytes(path, limit), os.fspath(path))


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
        most: float = math.inf,
        below: float = math.inf,
    ) -> float:
        """A number more than `above`, at least `least`, at most `most` and less than `below`."""
        bounds = [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"at least {least:g}"] if least > -math.inf else []
        bounds += [f"at most {most:g}"] if most < math.inf else []
        bounds += [f"below {below:g}"] if below < math.inf else []
        expected = " ".join(["a number", " and ".join(bounds)]).strip()
        value = self._value(key, (int, float), default, expected)
        if not self.has(key):
            return value
        if not (above < value < below and least <= value <= most):  # NaN compares false
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
