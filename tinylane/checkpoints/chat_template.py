"""A checkpoint's chat template, rendered under limits.

The template is a program by whoever made the checkpoint. Each rendering runs in a process of its
own (`tinylane.checkpoints.chat_template_worker`) with limits on processor time, memory and output, started without
`fork` hooks or signals, so it works from any thread, on Linux and on macOS. It costs about a fifth
of a second, most of it Python starting. What this does not do: keep a template that breaks out of
Jinja's sandbox from what the user's account may do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line

MIB = 1 << 20
CPU_SECONDS = 1  # Python starts in 0.1 s and a real template takes 0.03 s
WALL_SECONDS = 10.0  # for a machine too busy to give the process its second
MEMORY = 128 * MIB  # on top of the interpreter's own 20 MiB
LONGEST_TEMPLATE = MIB  # characters; the longest in use have some 30,000
LONGEST_RESULT = 4 * MIB  # characters
# macOS takes a memory limit and does not enforce it: there, this process looks every so often, and
# the bound is a matter of how much can be filled in between.
_WATCHED = sys.platform == "darwin"
_WATCH_EVERY = 0.05  # s
# What starting Python may need. Not LD_PRELOAD: a BLAS in this process would be dead weight.
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "SYSTEMROOT")

_SAYS = {
    "syntax": "the chat template is not valid Jinja: {}; use raw text (--raw) or mend the template",
    "raised": "the chat template refuses these messages: {}",
    "unsafe": "the chat template tries what the sandbox forbids: {}; do not use this checkpoint",
    "memory": f"the chat template takes more than {MEMORY // MIB} MiB of memory ({{}}); refused",
    "size": "the chat template writes too long a prompt: {}; refused",
    "failed": "the chat template fails on these messages: {}; use raw text (--raw) or mend it",
}


def render(template: str, messages: list[dict[str, Any]], /, **variables: Any) -> str:
    """The prompt text that `template` makes of `messages`.

    `variables` are what else the template reads: `add_generation_prompt`, `bos_token`,
    `enable_thinking`... Same environment as `transformers.apply_chat_template`. Raises
    TinylaneError, in one line, for a template that is not valid, raises, tries to leave the
    sandbox, or takes more than 1 s of processor time, 128 MiB or 4 Mi characters.
    """
    return render_named(template, messages, variables)


def render_named(
    template: str,
    messages: list[dict[str, Any]],
    variables: Mapping[str, Any],
    named: Iterable[str] = (),
) -> str:
    """`render`, with a UserWarning for each variable in `named` that the template never reads."""
    if len(template) > LONGEST_TEMPLATE:
        raise TinylaneError(
            f"the chat template has {len(template)} characters, expected at most {LONGEST_TEMPLATE}"
        )
    if "messages" in variables:
        raise TinylaneError("template argument 'messages' is the conversation itself: drop it")
    reply = _ask(
        {
            "template": template,
            "variables": {**variables, "messages": messages},
            "named": list(named),
            "longest": LONGEST_RESULT,
        }
    )
    if "text" not in reply:
        raise TemplateRefused(reply["kind"], one_line(str(reply["error"])))
    for name in reply["unread"]:
        warnings.warn(f"the chat template does not read {name!r}: no effect", stacklevel=3)
    return reply["text"]


class TemplateRefused(TinylaneError):
    """A template that cannot be rendered; `kind` is one of the kinds of `chat_worker.answer`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(_SAYS[kind].format(detail))
        self.kind = kind
        self.detail = detail


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Run the worker on `request`, under every limit; its reply."""
    if not sys.executable:
        raise TinylaneError("no Python interpreter to render the chat template with: use raw text")
    request |= {
        "path": _jinja_folders(),
        "cpu_seconds": CPU_SECONDS,
        "memory": 0 if _WATCHED else MEMORY,
    }
    try:
        data = json.dumps(request).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise TinylaneError(
            f"messages and template arguments must be plain JSON values: {one_line(str(error))}"
        ) from None
    # -I -S: nothing from the environment, the working directory or site hooks. Descriptors are not
    # inheritable in Python, and close_fds=False lets macOS spawn instead of forking a big process.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("chat_template_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        close_fds=False,
    )
    try:
        out, err = _wait(process, data)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == 0:
        return json.loads(out)
    if process.returncode == -getattr(signal, "SIGXCPU", 0):
        raise TinylaneError(
            f"the chat template takes more than {CPU_SECONDS} s of processor time; refused"
        )
    if process.returncode < 0:
        raise TinylaneError(
            f"the chat template ends its interpreter (signal {-process.returncode}); refused"
        )
    last = err.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
    raise TinylaneError(f"the chat template cannot be rendered: {one_line(last[0])}")


def _wait(process: subprocess.Popen[bytes], data: bytes) -> tuple[bytes, bytes]:
    """The worker's output, unless it takes too long or, where watched, too much memory."""
    end = time.monotonic() + WALL_SECONDS
    sent: bytes | None = data
    while True:
        left = end - time.monotonic()
        try:
            return process.communicate(sent, timeout=min(left, _WATCH_EVERY) if _WATCHED else left)
        except subprocess.TimeoutExpired:
            sent = None  # a second call goes on where the first stopped
        if time.monotonic() >= end:
            raise TinylaneError(
                f"the chat template is not rendered after {WALL_SECONDS:.0f} s; refused"
            )
        if _WATCHED and _resident(process.pid) > MEMORY:
            raise TemplateRefused("memory", "stopped while it grew")


def _resident(pid: int) -> int:
    """Resident bytes of another process, 0 if it cannot be told (it may just have ended)."""
    try:
        said = subprocess.run(
            ["/bin/ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=2, check=False
        ).stdout
        return int(said) * 1024
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def _jinja_folders() -> list[str]:
    """Where this interpreter would import jinja2 and markupsafe from, without importing them."""
    folders: list[str] = []
    for name in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise TinylaneError(f"{name} is not installed: pip install 'jinja2>=3.1.6'")
        folder = str(Path(spec.origin).parent.parent)
        if folder not in folders:
            folders.append(folder)
    return folders
