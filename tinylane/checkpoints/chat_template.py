"""A checkpoint's chat template, rendered under limits.

The template is a program by whoever made the checkpoint. A worker process renders it
(`tinylane.files.worker` runs `chat_template_worker.py`), with limits on each rendering's processor
time, memory and output. The first rendering starts the process; later ones cost milliseconds.
Not handled: a template that breaks out of Jinja's sandbox can do what the user's account may do.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line
from tinylane.files.worker import Limits, Worker, WorkerEnded

MIB = 1 << 20
CPU_SECONDS = 1  # a real template takes 0.03 s, most of it once for all its prompts
WALL_SECONDS = 10.0  # for a machine too busy to give the process its second
MEMORY = 128 * MIB  # on top of the interpreter's own 20 MiB
LONGEST_TEMPLATE = MIB  # characters; the longest in use have some 30,000
LONGEST_RESULT = 4 * MIB  # characters
_SAYS = {
    "syntax": "the chat template is not valid Jinja: {}; use raw text (--raw) or mend the template",
    "raised": "the chat template refuses these messages: {}",
    "unsafe": "the chat template tries what the sandbox forbids: {}; do not use this checkpoint",
    "memory": f"the chat template takes more than {MEMORY // MIB} MiB of memory ({{}}); refused",
    "size": "the chat template writes too long a prompt: {}; refused",
    "failed": "the chat template fails on these messages: {}; use raw text (--raw) or mend it",
}
_ENDS = {
    "processor": f"the chat template takes more than {CPU_SECONDS} s of processor time; refused",
    "time": f"the chat template is not rendered after {WALL_SECONDS:.0f} s; refused",
    "signal": "the chat template ends its interpreter (signal {}); refused",
    "failed": "the chat template cannot be rendered: {}",
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
            f"the chat template has {len(template)} characters; expected at most {LONGEST_TEMPLATE}"
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
    """A template that cannot be rendered; `kind` is the worker's, or memory."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(_SAYS[kind].format(detail))
        self.kind = kind
        self.detail = detail


def prompt_text(
    template: str,
    names: Mapping[str, str],
    prompt: str | Sequence[Mapping[str, Any]],
    system: str | None,
    args: Mapping[str, Any],
) -> str:
    """The text that opens the assistant's turn, for a user's text or chat messages.

    names: special tokens by role. args: what else the template is given; a UserWarning for each
    that it does not read. Raises TinylaneError as `render` does, and for a template without a
    system role where a system prompt is given.
    """
    messages = _messages(prompt, system)
    variables = {**names, "add_generation_prompt": True, **args}
    try:
        text = render_named(template, messages, variables, named=args)
        if system and system.strip() not in text:
            warnings.warn("the chat template drops the system prompt: no effect", stacklevel=3)
        return text
    except TemplateRefused as error:
        if not system or error.kind not in ("raised", "failed"):
            raise
        refused = error
    try:  # is it the system message? Only the template can tell.
        render(template, messages[1:], **variables)
    except TinylaneError:
        raise refused from None
    raise TinylaneError(
        f"this checkpoint's chat template has no system role ({refused.detail}): "
        "put the system prompt into the prompt"
    )


def _messages(prompt: str | Sequence[Mapping[str, Any]], system: str | None) -> list[dict]:
    """The conversation, checked, without the keys whose value is None: templates print them."""
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = []
        for place, message in enumerate(prompt):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise TinylaneError(
                    f"message {place} is {one_line(repr(message), 80)}; expected "
                    '{"role": "user", "content": "..."}'
                )
            messages.append({key: value for key, value in message.items() if value is not None})
        if not messages:
            raise TinylaneError("the prompt has no messages: give one")
        if system and messages[0]["role"] == "system":
            raise TinylaneError("two system prompts, an argument and the first message: drop one")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """The worker's reply, under every limit."""
    if not sys.executable:
        raise TinylaneError("no Python interpreter to render the chat template with: use raw text")
    try:
        return _worker.ask(request, Limits(CPU_SECONDS, WALL_SECONDS, MEMORY))
    except TinylaneError:  # which is a ValueError
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise TinylaneError(
            f"messages and template arguments must be plain JSON values: {one_line(str(error))}"
        ) from None
    except WorkerEnded as end:
        if end.why == "memory":
            raise TemplateRefused("memory", end.detail) from None
        raise TinylaneError(_ENDS[end.why].format(one_line(end.detail))) from None


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


_worker = Worker(Path(__file__).with_name("chat_template_worker.py"), _jinja_folders)
