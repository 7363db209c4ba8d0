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

from tinylane.core.errors import TinylaneError, show
from tinylane.files.display import one_line
from tinylane.files.worker import Limits, Worker, WorkerEnded

MIB = 1 << 20
CPU_SECONDS = 1  # a real template takes 0.03 s, most of it once for all its prompts
WALL_SECONDS = 10.0  # for a machine too busy to give the process its second
MEMORY = 128 * MIB  # on top of the interpreter's own 20 MiB
LONGEST_TEMPLATE = MIB  # characters; the longest in use have some 30,000
LONGEST_RESULT = 4 * MIB  # characters
# What transformers gives every template; `tools is not none` is how some ask for it.
DEFAULTS = {"tools": None, "documents": None, "add_generation_prompt": False}
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's field
# Behind the last message while it is rendered. If its space is gone, the template strips texts.
TAG = "THE_LAST_MESSAGE_GOES_ON_HERE "
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
            "variables": {**DEFAULTS, **variables, "messages": messages},
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
    templates: Mapping[str, str],
    names: Mapping[str, str],
    prompt: str | Sequence[Mapping[str, Any]],
    system: str | None,
    args: Mapping[str, Any],
    prefill: str | None = None,
) -> str:
    """The text that opens the assistant's turn, for a user's text or chat messages.

    templates: by name. names: special tokens by role. prefill: how the assistant's turn begins.
    args: what else the template is given; a UserWarning for each that it does not read. Two of them
    are not for the template: "chat_template" chooses one by its name, or is one, and
    "continue_final_message" (true, or the name of a field) lets the last message go on. As in
    transformers. Raises TinylaneError as `render` does, for a template without a system role where
    a system prompt is given, and for one that does not show the message that is to go on.
    """
    template = _chosen(templates, args)
    given = {k: v for k, v in args.items() if k not in ("chat_template", "continue_final_message")}
    variables = {**names, "add_generation_prompt": True, **given}
    named = given.keys() - {"add_generation_prompt"}
    messages, field = _messages(prompt, system), args.get("continue_final_message")
    if prefill:
        messages.append({"role": "assistant", "content": prefill})
        field = True
    said = None
    if field:
        said = _tag(messages[-1], field if isinstance(field, str) else "content")
        variables["add_generation_prompt"] = False
    try:
        text = render_named(template, messages, variables, named=named)
        if system and system.strip() not in text:
            warnings.warn("the chat template drops the system prompt: no effect", stacklevel=3)
        return text if said is None else _begun(text, said)
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


def _chosen(templates: Mapping[str, str], args: Mapping[str, Any]) -> str:
    """The template that the arguments ask for, else the one for tools, else the default."""
    asked = args.get("chat_template")
    if asked is None:
        asked = "tool_use" if args.get("tools") is not None else "default"
        asked = asked if asked in templates else "default"
    if isinstance(asked, str) and asked in templates:
        return templates[asked]
    if isinstance(asked, str) and "{" in asked:
        return asked
    raise TinylaneError(
        f"no chat template {show(asked, 40)}; this checkpoint has {show(list(templates), 100)}: "
        "choose by the template argument 'chat_template'"
    )


def _tag(message: dict[str, Any], field: str) -> str:
    """Put TAG behind the text of a message; the text as it was."""
    said = message.get(field)
    holder, key = message, field
    if isinstance(said, list):  # parts: the last one with text
        parts = [part for part in said if isinstance(part, dict) and "text" in part]
        holder = dict(parts[-1]) if parts else {}
        key, said = "text", holder.get("text")
        message[field] = [holder if parts and p is parts[-1] else p for p in message[field]]
    if not isinstance(said, str):
        raise TinylaneError(f"the last message has no text in {show(field, 40)} to go on with")
    fields = REASONING if field in REASONING else (key,)
    for key in fields:
        if key in holder:
            holder[key] = said + TAG
    return said


def _begun(text: str, said: str) -> str:
    """A rendered text up to TAG."""
    end = text.rfind(TAG.strip())
    if end < 0 or said.strip() not in text:
        raise TinylaneError(
            f"the chat template does not show {show(said, 40)} as the last message: "
            "a message that goes on (--prefill-response) is not possible with it"
        )
    begun = text[:end] if text[end:].startswith(TAG) else text[:end].rstrip()
    return begun.replace(TAG, "").replace(TAG.strip(), "")  # some write a message twice


def _messages(prompt: str | Sequence[Mapping[str, Any]], system: str | None) -> list[dict]:
    """The conversation, checked, without the keys whose value is None: templates print them.

    A message's reasoning is there under the names that templates read, as in transformers.
    """
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
            one = {key: value for key, value in message.items() if value is not None}
            if reasoning := [one[key] for key in REASONING if key in one]:
                one = {"thinking": reasoning[0], **one, "reasoning_content": reasoning[0]}
            messages.append(one)
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
