"""Files that must never be half-written.

What is written goes to a temporary file beside the target, which is renamed into place; the target
of a symbolic link is what it points at. A killed process leaves a temporary file; the next writer
removes it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tinylane.core.errors import TinylaneError, show


def make_folder(folder: Path) -> Path:
    """The folder, made with those above it if need be. Raises TinylaneError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinylaneError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def written(path: str | os.PathLike[str]) -> Path:
    """The file that is written for a name: behind symbolic links. Raises TinylaneError for a link
    that leads to itself."""
    target = Path(path)
    if target.is_symlink():
        target = Path(os.path.realpath(target))  # unlike Path.resolve, it does not raise on a loop
        if target.is_symlink():
            raise TinylaneError(f"{os.fspath(path)}: is a symbolic link that leads to itself")
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends well, and is removed otherwise.

    A symbolic link stays: what it points at is replaced, in the folder where that is. Half files
    that killed processes left of the same target are removed.
    """
    if not isinstance(path, (str, os.PathLike)) or not Path(path).name:
        raise TinylaneError(f"{show(path)}: expected the name of a file to write")
    target = Path(path)
    if target.exists() and not (target.is_file() or target.is_dir()):
        # A pipe or a device would become a file: /dev/null for all programs.
        raise TinylaneError(f"{target}: is no regular file; expected the name of a file to write")
    target = written(target)
    # Its name is known before it is there, so whatever interrupts this, it is removed.
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        sweep(target.parent, f".{glob.escape(target.name)}.????????.tmp")
        with os.fdopen(_create(temporary), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise TinylaneError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


# A temporary file is locked while somebody writes it. The lock ends with the process, so a
# temporary file that can be locked belongs to nobody.


def _create(path: Path) -> int:
    """A descriptor of a new file that this process has locked."""
    binary = getattr(os, "O_BINARY", 0)  # Windows only
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | binary, 0o666)
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # not on Windows

            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink or os.name == "nt":
            return handle
        os.close(handle)  # another process swept it before it was locked


def sweep(folder: Path, pattern: str) -> None:
    """Remove the temporary files that match and that nobody is writing."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        for left in folder.glob(pattern):
            with contextlib.suppress(OSError):
                handle = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(left)
                finally:
                    os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically. Raises TinylaneError when it cannot be written."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], value: dict[str, Any]) -> None:
    """Write a JSON object, indented, atomically. Raises TinylaneError when it cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
