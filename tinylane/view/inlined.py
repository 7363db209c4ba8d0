"""A module of JavaScript, and all that it imports, as one script for a page that is one file.

A browser loads no module from a file beside a page that was opened as a file. So each module
becomes a function of its own, called once: its names stay its own, and what it exports is what the
function returns. Known are the forms that the package's modules have, each at the beginning of a
line:

    import { a, b as c } from "./other.js";
    export const a = ...      export function a(      export async function a(      export class A {

Any other form fails an assertion. A name that is exported must not change after its module has run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.{1,2}/[\w/.]+\.js)";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:const|function|class) (\w+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def inlined(main: str, read: Callable[[str], str]) -> str:
    """The module at path `main` as a classic script, with all that it imports. read: a path -> its
    text."""
    done: dict[str, str] = {}
    _add(PurePosixPath(main), read, done)
    return '(() => {\n"use strict";\n' + "".join(done.values()) + "})();\n"


def _add(path: PurePosixPath, read: Callable[[str], str], done: dict[str, str]) -> None:
    """Append a module to `done`, behind those that it imports."""
    if str(path) in done:
        return
    text = read(str(path))
    done[str(path)] = ""  # a circle would find names that are not there yet
    for _, other in IMPORT.findall(text):
        _add(_beside(path, other), read, done)
        assert done[str(_beside(path, other))], f"{path} and {other} import each other"
    del done[str(path)]  # behind the others
    names = [name for _, name in EXPORT.findall(text)]
    body = IMPORT.sub(lambda match: _taken(match[1], _beside(path, match[2])), text)
    body = EXPORT.sub(r"\1", body)
    assert not OTHER.search(body), f"{path}: {OTHER.search(body)}"
    done[str(path)] = (
        f"const {_name(path)} = (() => {{\n{body}return {{ {', '.join(names)} }};\n}})();\n"
    )


def _taken(names: str, path: PurePosixPath) -> str:
    """What stands in place of an import."""
    return f"const {{{names.replace(' as ', ': ')}}} = {_name(path)};"


def _beside(path: PurePosixPath, other: str) -> PurePosixPath:
    """The path of a module that `path` imports by a relative one."""
    parts = list(path.parent.parts)
    for part in PurePosixPath(other).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)


def _name(path: PurePosixPath) -> str:
    """The constant that holds a module's exports."""
    return "$" + re.sub(r"\W", "_", str(path.with_suffix("")))
